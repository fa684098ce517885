//! The tasks that live as long as the relay. One that ends before, or panics, ends the relay: without it the relay would
//! look alive and serve nothing.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::Shared;

/// How long the loss of a connection for good may take to stop the relay.
const STOP_NOTICED: Duration = Duration::from_millis(250);

/// Which task ended too early.
#[derive(Debug, Default)]
pub(super) struct Supervision {
    ended: CancellationToken,
    task: Mutex<Option<String>>,
}

impl Supervision {
    /// Waits until a task has ended that must not, and returns its name.
    pub(super) async fn broken(&self) -> String {
        self.ended.cancelled().await;
        self.task.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default()
    }

    fn report(&self, task: String) {
        self.task.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(task);
        self.ended.cancel();
    }
}

/// Spawns a task that may end only after a shutdown was asked for, or once `until` is cancelled.
pub(super) fn spawn(
    shared: &Arc<Shared>,
    task: impl Into<String>,
    until: Option<CancellationToken>,
    work: impl Future<Output = ()> + Send + 'static,
) {
    let (task, supervised) = (task.into(), Arc::clone(shared));
    shared.tasks.spawn(async move {
        let has_panicked = AssertUnwindSafe(work).catch_unwind().await.is_err();
        let shutdown = &supervised.shutdown;
        if !has_panicked && !until.as_ref().is_some_and(CancellationToken::is_cancelled) {
            // Its subscription may have ended with the bus, which stops the relay for a reason of its own.
            drop(timeout(STOP_NOTICED, shutdown.drain.cancelled()).await);
        }
        let may_end = shutdown.drain.is_cancelled()
            || shutdown.force.is_cancelled()
            || until.is_some_and(|until| until.is_cancelled());
        if has_panicked || !may_end {
            error!(task, has_panicked, "a task ended that the relay can't do without");
            supervised.supervision.report(task);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::super::{Error, Options, Relay, Stores};
    use super::*;
    use crate::metrics::RelayMetrics;
    use crate::shutdown::Shutdown;
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
    async fn a_task_that_panics_or_returns_ends_the_relay_with_an_error() {
        for panics in [true, false] {
            let relay = relay(&Shutdown::default()).await;
            spawn(&relay.shared, "patient", None, async move { assert!(!panics, "as it should") });
            let ended = timeout(Duration::from_secs(10), relay.wait()).await.expect("the relay ends by itself");
            assert!(matches!(ended, Err(Error::TaskEnded(task)) if task == "patient"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_may_end_when_it_is_told_to() {
        let shutdown = Shutdown::default();
        let relay = relay(&shutdown).await;
        let until = CancellationToken::new();
        until.cancel();
        spawn(&relay.shared, "endpoint", Some(until), async {});
        assert!(timeout(Duration::from_secs(60), relay.wait()).await.is_err(), "it serves on");
        shutdown.drain.cancel();
        relay.wait().await.unwrap();
    }
}
