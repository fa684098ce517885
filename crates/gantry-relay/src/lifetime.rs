//! The lifetime of a relay: its tasks, its shutdown, and what ends it early.
//!
//! Vital tasks live as long as the relay. If one ends early or panics, the relay ends: otherwise it would look alive and
//! serve nothing.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

use crate::buses::Connection;
use crate::shutdown::Shutdown;

/// The tasks of one relay, and the signals that end them.
#[derive(Debug)]
pub(crate) struct Lifetime {
    pub(crate) shutdown: Shutdown,
    /// Cancelled after the grace period of a shutdown: transfers must end.
    pub(crate) goaway: CancellationToken,
    pub(crate) tasks: TaskTracker,
    lost: OnceLock<Lost>,
    broken: CancellationToken,
    broken_task: Mutex<Option<String>>,
}

/// A connection that can't be restored, and why.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) connection: Connection,
    pub(crate) reason: String,
}

impl Lifetime {
    pub(crate) fn new(shutdown: Shutdown) -> Self {
        Self {
            shutdown,
            goaway: CancellationToken::new(),
            tasks: TaskTracker::new(),
            lost: OnceLock::new(),
            broken: CancellationToken::new(),
            broken_task: Mutex::new(None),
        }
    }

    /// Spawns a task that may end only after a shutdown was requested, or once `until` is cancelled.
    pub(crate) fn spawn_vital(
        self: &Arc<Self>,
        task: impl Into<String>,
        until: Option<CancellationToken>,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let task = task.into();
        let lifetime = Arc::clone(self);
        self.tasks.spawn(async move {
            let has_panicked = AssertUnwindSafe(work).catch_unwind().await.is_err();

            let may_end = lifetime.is_stopping() || until.is_some_and(|until| until.is_cancelled());
            if has_panicked || !may_end {
                error!(task, has_panicked, "a task ended that the relay needs");
                lifetime.report_broken(task);
            }
        });
    }

    /// Returns whether a shutdown was requested.
    fn is_stopping(&self) -> bool {
        self.shutdown.drain.is_cancelled() || self.shutdown.force.is_cancelled()
    }

    /// Waits until a shutdown is requested.
    pub(crate) async fn stopping(&self) {
        tokio::select! {
            () = self.shutdown.drain.cancelled() => {}
            () = self.shutdown.force.cancelled() => {}
        }
    }

    /// Waits until a vital task has ended early, and returns its name.
    pub(crate) async fn broken(&self) -> String {
        self.broken.cancelled().await;
        self.broken_task.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default()
    }

    fn report_broken(&self, task: String) {
        self.broken_task.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(task);
        self.broken.cancel();
    }

    /// Stops the relay because a connection can't be restored.
    pub(crate) fn lose(&self, connection: Connection, reason: String) {
        self.lost.get_or_init(|| Lost { connection, reason });
        self.shutdown.drain.cancel();
    }

    /// Returns the first connection that could not be restored.
    pub(crate) fn lost(&self) -> Option<&Lost> {
        self.lost.get()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::metrics::RelayMetrics;
    use crate::{Error, Options, Relay, Stores};
    use gantry_proto::StoreName;
    use gantry_testing::bus::MemoryNetwork;
    use gantry_testing::store::MemoryStore;

    async fn relay(shutdown: &Shutdown) -> Relay {
        let name: StoreName = "s".parse().unwrap();
        let stores = Stores::from([(name, Arc::new(MemoryStore::new(10)) as Arc<dyn gantry_store::Store>)]);
        let bus = MemoryNetwork::new(1).connect();
        let metrics = Arc::new(RelayMetrics::default());
        Relay::start(bus, stores, Options::default(), metrics, shutdown.clone()).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_vital_task_that_panics_or_returns_ends_the_relay_with_an_error() {
        for panics in [true, false] {
            let relay = relay(&Shutdown::default()).await;

            relay.lifetime.spawn_vital("vital", None, async move { assert!(!panics, "as intended") });

            let ended = timeout(Duration::from_secs(10), relay.wait()).await.expect("the relay ends by itself");
            assert!(matches!(ended, Err(Error::TaskEnded(task)) if task == "vital"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_vital_task_may_end_after_its_cancellation() {
        let shutdown = Shutdown::default();
        let relay = relay(&shutdown).await;
        let until = CancellationToken::new();
        until.cancel();

        relay.lifetime.spawn_vital("endpoint", Some(until), async {});

        assert!(timeout(Duration::from_secs(60), relay.wait()).await.is_err(), "the relay keeps serving");
        shutdown.drain.cancel();
        relay.wait().await.unwrap();
    }
}
