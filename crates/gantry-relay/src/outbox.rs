//! The way from all transfers to the bus: whose turn it is, and whether the bus takes anything at all.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until};

/// How many transfers may be handing a chunk to the bus at once. The others wait in line and beat meanwhile: if all of
/// them stood in the bus' own queue, whatever a thousand transfers have to say would come seconds late.
const SENDING_MAX: usize = 16;

/// How long a message may wait for the bus however long that has been silent, since it may have been so for want of
/// messages.
const GRACE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Outbox {
    /// Whose chunk goes next; first come, first served, so that shares are equal.
    turns: Semaphore,
    /// When the bus last took or brought a message.
    seen_at: Mutex<Instant>,
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self { turns: Semaphore::new(SENDING_MAX), seen_at: Mutex::new(Instant::now()) }
    }

    /// Waits for a chunk's turn, which lasts until the permit is dropped.
    pub(super) async fn turn(&self) -> SemaphorePermit<'_> {
        self.turns.acquire().await.expect("the semaphore is never closed")
    }

    /// Takes note that the bus took or brought a message.
    pub(super) fn see_bus(&self) {
        *self.lock() = Instant::now();
    }

    /// Returns when the bus has neither taken nor brought a message for `timeout`. On a slow link a message may wait
    /// for long behind others, but then these go.
    pub(super) async fn bus_stuck(&self, timeout: Duration) {
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
        self.seen_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(15);
    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_bus_that_takes_the_messages_of_others_is_not_stuck() {
        let (outbox, began) = (Outbox::new(), Instant::now());
        let takes = async {
            for _ in 0..5 {
                tokio::time::sleep(IDLE - SECOND).await;
                outbox.see_bus();
            }
        };
        tokio::join!(takes, outbox.bus_stuck(IDLE));
        assert_eq!(began.elapsed(), (IDLE - SECOND) * 5 + IDLE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_bus_that_had_nothing_to_take_is_given_a_moment() {
        let outbox = Outbox::new();
        tokio::time::sleep(IDLE * 3).await;
        let began = Instant::now();
        outbox.bus_stuck(IDLE).await;
        assert_eq!(began.elapsed(), GRACE);
    }
}
