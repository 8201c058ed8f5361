//! The lock and the tasks of the pool of workers, which the tests under shuttle replace.

#[cfg(not(shuttle))]
pub(crate) use real::Tasks;
#[cfg(shuttle)]
pub(crate) use shuttle::sync::{Mutex, MutexGuard};
#[cfg(shuttle)]
pub(crate) use shuttled::Tasks;
#[cfg(not(shuttle))]
pub(crate) use std::sync::{Mutex, MutexGuard};

#[cfg(not(shuttle))]
mod real {
    use std::panic::AssertUnwindSafe;
    use std::sync::{Mutex, PoisonError};

    use tokio::task::JoinSet;

    /// The workers of one subscription.
    #[derive(Default)]
    pub(crate) struct Tasks(Mutex<JoinSet<()>>);

    impl Tasks {
        pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .spawn(task);
        }

        /// Ends them all, also in the middle of a handler.
        pub(crate) fn abort(&self) {
            let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // A handler may panic in its drop; that is not the caller's affair.
            let _ = std::panic::catch_unwind(AssertUnwindSafe(|| tasks.abort_all()));
        }
    }
}

#[cfg(shuttle)]
mod shuttled {
    #[derive(Default)]
    pub(crate) struct Tasks;

    impl Tasks {
        pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
            drop(shuttle::future::spawn(task));
        }

        pub(crate) fn abort(&self) {}
    }
}
