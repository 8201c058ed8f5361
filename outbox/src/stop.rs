//! How a relay is told to end.

use tokio::sync::watch;

/// Runs what ends when it is told so, and tells it when `shutdown` is there.
pub async fn until<T, Running: Future<Output = T>>(
    shutdown: impl Future<Output = ()>,
    run: impl FnOnce(watch::Receiver<bool>) -> Running,
) -> T {
    let (stop, stopped) = watch::channel(false);
    let running = run(stopped);
    tokio::pin!(running);
    tokio::select! {
        done = &mut running => return done,
        () = shutdown => {}
    }
    stop.send_replace(true);
    running.await
}

/// Waits until the relay is to end.
pub async fn told(stopped: &mut watch::Receiver<bool>) {
    // Without a sender nobody waits for this either.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
