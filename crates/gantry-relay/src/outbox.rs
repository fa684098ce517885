//! Publishes the messages of all transfers: lets them take turns, and checks that the bus makes progress.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::warn;

use crate::lifetime::Lifetime;
use crate::throttle::{REFUSALS, Throttle};
use gantry_bus::{Bus, Message, Status};
use gantry_proto::Location;

/// The number of transfers that may hand a chunk to the bus at once. The others wait here and send beats meanwhile. If
/// all of them waited in the bus's own queue, the beats of a thousand transfers would arrive seconds late.
const TURNS_MAX: usize = 16;

/// Minimum time to wait for the bus, even after a long idle period: it may have been idle only because there was nothing
/// to send.
const GRACE: Duration = Duration::from_secs(1);

/// A transfer's turn to hand a chunk to the bus. It ends when dropped.
pub(crate) type Turn<'a> = SemaphorePermit<'a>;

/// Publishes the messages of all requests and transfers.
#[derive(Debug)]
pub(crate) struct Outbox {
    data: Arc<dyn Bus>,
    status: watch::Receiver<Status>,
    /// The turns to send a chunk: first come, first served, so that all transfers get equal shares.
    turns: Semaphore,
    activity: Activity,
    idle_timeout: Duration,
    lifetime: Arc<Lifetime>,
    throttle: Arc<Throttle>,
}

impl Outbox {
    pub(crate) fn new(
        data: Arc<dyn Bus>,
        idle_timeout: Duration,
        lifetime: Arc<Lifetime>,
        throttle: Arc<Throttle>,
    ) -> Self {
        Self {
            status: data.status(),
            data,
            turns: Semaphore::new(TURNS_MAX),
            activity: Activity::new(),
            idle_timeout,
            lifetime,
            throttle,
        }
    }

    /// Takes a turn, unless all are taken or other transfers wait.
    pub(crate) fn try_turn(&self) -> Option<Turn<'_>> {
        self.turns.try_acquire().ok()
    }

    /// Waits for a turn.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, the place in the queue is lost.
    pub(crate) async fn turn(&self) -> Turn<'_> {
        self.turns.acquire().await.expect("the semaphore is never closed")
    }

    /// Records that the data connection delivered a message.
    pub(crate) fn see_bus(&self) {
        self.activity.see();
    }

    /// Records that a request or control message arrived. While the data connection is up, it may only be slow.
    pub(crate) fn see_requests(&self) {
        if self.status.borrow().connected {
            self.activity.see();
        }
    }

    /// Publishes a message. Returns `false` if the relay must stop, the bus is closed, or the bus makes no progress within
    /// the idle timeout.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, the message is not sent.
    pub(crate) async fn send(&self, message: Message) -> bool {
        tokio::select! {
            biased;
            sent = self.data.publish(message) => match sent {
                Ok(()) => {
                    self.activity.see();
                    true
                }
                Err(error) => {
                    if self.throttle.admits("answer", REFUSALS) {
                        warn!(%error, "can't answer");
                    }
                    false
                }
            },
            () = self.lifetime.shutdown.force.cancelled() => false,
            () = self.activity.stuck_for(self.idle_timeout) => {
                if self.throttle.admits("answer", REFUSALS) {
                    warn!("discarding an answer: NATS has neither accepted nor delivered a message within the idle timeout");
                }
                false
            }
        }
    }

    /// Waits until everything published has been written to the connection, but at most for `limit`.
    pub(crate) async fn flush_within(&self, limit: Duration) {
        // If it fails, the next message fails as well, and reports the error.
        drop(timeout(limit, self.data.flush()).await);
    }

    /// Returns where transfers are published.
    pub(crate) fn location(&self) -> Option<Arc<Location>> {
        self.data.location()
    }

    /// Returns the server's limit on payload and headers together, in bytes.
    pub(crate) fn max_payload(&self) -> usize {
        self.data.max_payload()
    }
}

/// When the bus last accepted or delivered a message.
#[derive(Debug)]
struct Activity(Mutex<Instant>);

impl Activity {
    fn new() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    fn see(&self) {
        *self.lock() = Instant::now();
    }

    /// Returns once the bus has neither accepted nor delivered a message for `timeout`. On a slow link a message may wait
    /// for a long time behind others, but then those make progress.
    async fn stuck_for(&self, timeout: Duration) {
        let least = Instant::now() + GRACE.min(timeout);
        loop {
            let until = least.max(*self.lock() + timeout);
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(15);
    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_bus_that_accepts_messages_of_others_is_not_stuck() {
        let activity = Activity::new();
        let began = Instant::now();
        let accepting = async {
            for _ in 0..5 {
                tokio::time::sleep(IDLE - SECOND).await;
                activity.see();
            }
        };

        tokio::join!(accepting, activity.stuck_for(IDLE));

        assert_eq!(began.elapsed(), (IDLE - SECOND) * 5 + IDLE);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_bus_gets_the_grace_period() {
        let activity = Activity::new();
        tokio::time::sleep(IDLE * 3).await;
        let began = Instant::now();

        activity.stuck_for(IDLE).await;

        assert_eq!(began.elapsed(), GRACE);
    }
}
