//! The streams of a connection, each in a task that ends with its response, its deadline, or the connection.

use std::sync::Arc;
use std::time::Duration;

use hyper::rt::Executor;
use tokio::sync::watch;
use tokio::task_local;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::flow::Flow;

task_local! {
    /// The flow of the stream whose task this is. hyper offers no other way from a stream's task to its response.
    static FLOW: Arc<Flow>;
}

/// Returns the flow of the stream whose task calls this.
///
/// # Panics
/// Outside of a stream's task.
pub(super) fn current_flow() -> Arc<Flow> {
    FLOW.with(Arc::clone)
}

/// Runs the streams of a connection. Clones share everything.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    tasks: TaskTracker,
    abort: CancellationToken,
    send_timeout: Duration,
    usage: Arc<watch::Sender<Usage>>,
}

/// How a connection is used.
#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    /// The number of streams.
    streams: usize,
    /// Whether there was a stream.
    has_begun: bool,
}

impl Streams {
    pub(super) fn new(send_timeout: Duration) -> Self {
        let usage = Arc::new(watch::Sender::new(Usage::default()));
        Self { tasks: TaskTracker::new(), abort: CancellationToken::new(), send_timeout, usage }
    }

    /// Returns a guard that resets all streams when it is dropped.
    pub(super) fn abort_on_drop(&self) -> DropGuard {
        self.abort.clone().drop_guard()
    }

    /// Waits until the tasks of all streams have ended, after their connection has.
    pub(super) async fn ended(&self) {
        self.abort.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    pub(super) fn count(&self) -> usize {
        self.usage.borrow().streams
    }

    pub(super) fn has_begun(&self) -> bool {
        self.usage.borrow().has_begun
    }

    /// Waits until the first stream has not begun in the time `first`, or there has been no stream for the time `later`.
    pub(super) async fn unused(&self, first: Duration, later: Duration) {
        let mut changes = self.usage.subscribe();
        loop {
            let usage = *changes.borrow_and_update();
            // The sender is `self`, so this ends only with a change.
            let changed = changes.changed();
            if usage.streams > 0 {
                changed.await.ok();
                continue;
            }
            let limit = if usage.has_begun { later } else { first };
            if timeout(limit, changed).await.is_err() {
                return;
            }
        }
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let used = Used::begin(&self.usage);
        let flow = Arc::new(Flow::new());
        let (abort, send_timeout) = (self.abort.clone(), self.send_timeout);

        self.tasks.spawn(async move {
            let _used = used;
            // Dropping the stream's future resets the stream, unless it is complete.
            tokio::select! {
                () = FLOW.scope(Arc::clone(&flow), stream) => {}
                () = flow.stalled(send_timeout) => debug!("a stream was reset, because its client took nothing for too long"),
                () = abort.cancelled() => {}
            }
        });
    }
}

/// Counts a stream while it exists.
#[derive(Debug)]
struct Used(Arc<watch::Sender<Usage>>);

impl Used {
    fn begin(usage: &Arc<watch::Sender<Usage>>) -> Self {
        usage.send_modify(|usage| {
            usage.streams += 1;
            usage.has_begun = true;
        });
        Self(Arc::clone(usage))
    }
}

impl Drop for Used {
    fn drop(&mut self) {
        self.0.send_modify(|usage| usage.streams -= 1);
    }
}
