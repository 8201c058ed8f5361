//! The runner (placeholder while it is being written).
mod settings;
use std::num::NonZeroUsize;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::time::Instant;
pub use settings::Ordering;
pub(crate) use settings::RunSettings;
use crate::bus::{Activity, SubscriptionReport};
use crate::handler::SubscriptionInfo;
use crate::{Error, ReadOptions, Reader, Subscription};
pub(crate) trait Workers: Send + Sync + 'static {}
pub(crate) struct SingleWorkers<H>(pub(crate) Arc<H>);
pub(crate) struct BatchWorkers<H>(pub(crate) Arc<H>, pub(crate) NonZeroUsize);
impl<H: Send + Sync + 'static> Workers for SingleWorkers<H> {}
impl<H: Send + Sync + 'static> Workers for BatchWorkers<H> {}
pub(crate) struct Plan {
    pub(crate) options: ReadOptions,
    pub(crate) settings: RunSettings,
    pub(crate) info: Arc<SubscriptionInfo>,
    pub(crate) workers: Arc<dyn Workers>,
    pub(crate) changed: Arc<Notify>,
    pub(crate) ended: Arc<Notify>,
}
pub(crate) struct Running;
impl Plan {
    pub(crate) fn run(self, _: Arc<dyn Reader>, _: Box<dyn Subscription>) -> Arc<Running> { Arc::new(Running) }
}
impl Running {
    pub(crate) fn take_error(&self) -> Option<Error> { None }
    pub(crate) async fn shutdown(&self, _: Instant) -> SubscriptionReport { unreachable!() }
    pub(crate) fn activity(&self) -> Activity { Activity::default() }
}
