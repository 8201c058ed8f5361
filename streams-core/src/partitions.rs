//! Being told which partitions a subscription has.

use async_trait::async_trait;

use crate::{Assignment, Result};

/// Told which partitions a subscription gets and gives up, for what keeps state by partition: it
/// restores the state before the first message is handled and saves it before the partition goes.
///
/// Given to [`SubscriptionBuilder::on_partitions`](crate::SubscriptionBuilder::on_partitions). The
/// driver must have the capability [`partitions`](crate::Capabilities::partitions).
///
/// # Behavior
/// - Each assignment (a partition under one epoch) is announced once with
///   [`assigned`](PartitionListener::assigned), and ends once, with
///   [`revoking`](PartitionListener::revoking) or [`lost`](PartitionListener::lost).
/// - The calls come one after another. While one runs nothing is fetched for the subscription, and
///   other members of its group may have to wait: be quick where you can.
/// - A panic in `assigned` ends the subscription; in the others it is logged.
///
/// ```
/// use std::collections::HashMap;
/// use std::sync::Mutex;
/// use streams_core::{Assignment, PartitionListener, Result, async_trait};
///
/// /// A table for each partition.
/// #[derive(Default)]
/// struct Tables(Mutex<HashMap<u32, HashMap<String, u64>>>);
///
/// #[async_trait]
/// impl PartitionListener for Tables {
///     async fn assigned(&self, partitions: &[Assignment]) -> Result<()> {
///         for one in partitions {
///             let table = HashMap::new(); // read from where it was saved
///             self.0.lock().unwrap().insert(one.partition, table);
///         }
///         Ok(())
///     }
///
///     async fn revoking(&self, partitions: &[Assignment]) {
///         for one in partitions {
///             let _to_save = self.0.lock().unwrap().remove(&one.partition);
///         }
///     }
///
///     async fn lost(&self, partitions: &[Assignment]) {
///         for one in partitions {
///             self.0.lock().unwrap().remove(&one.partition);
///         }
///     }
/// }
/// ```
#[async_trait]
pub trait PartitionListener: Send + Sync + 'static {
    /// These partitions are this subscription's now. None of their messages is handled before this
    /// returns; messages of other partitions that were fetched before are.
    ///
    /// At a shutdown it is dropped at any await, and [`lost`](PartitionListener::lost) follows.
    ///
    /// # Errors
    /// Your own. A [retryable](crate::Error::is_retryable) one opens the subscription anew, with
    /// backoff, which gives all its partitions up first; any other ends it, as
    /// [`Bus::failed`](crate::Bus::failed) tells.
    async fn assigned(&self, partitions: &[Assignment]) -> Result<()> {
        let _ = partitions;
        Ok(())
    }

    /// These partitions are about to go to another reader, or the subscription shuts down. The
    /// handlers of their messages have ended, or were told to by
    /// [`revoke_grace`](crate::SubscriptionBuilder::revoke_grace), and what they finished is settled.
    /// Until this returns nobody else gets the partitions, as far as the backend waits.
    ///
    /// At a shutdown it is dropped at the deadline, or a second later where that has gone by.
    async fn revoking(&self, partitions: &[Assignment]) {
        let _ = partitions;
    }

    /// These partitions are gone already, or the subscription has failed and is opened anew: another
    /// reader may have them by now. Throw away what is theirs. Handlers of their messages may still
    /// be running, cancelled; nothing of them can be settled.
    async fn lost(&self, partitions: &[Assignment]) {
        let _ = partitions;
    }
}
