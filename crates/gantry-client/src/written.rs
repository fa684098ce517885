//! The reader's progress, as the driver of the download learns it.
//!
//! Each wake-up of the driver costs a switch between tasks, often between threads. The driver therefore sets the offset
//! at which it must be woken, instead of waking up for every chunk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// The interval after which the driver is woken even if it does not need the offset yet. It keeps the user's progress
/// display current.
const WAKE_INTERVAL: Duration = Duration::from_millis(50);

/// Creates both ends. All offsets are absolute. Everything below `start` counts as written.
pub(crate) fn channel(start: u64) -> (Sender, Receiver) {
    let shared = Arc::new(Shared { limit: AtomicU64::new(start), wake_at: AtomicU64::new(start), wake: Notify::new() });
    let sender = Sender { shared: Arc::clone(&shared), woken_at: Instant::now() };
    (sender, Receiver(shared))
}

#[derive(Debug)]
struct Shared {
    /// The exclusive end of what is written.
    limit: AtomicU64,
    /// The limit at which the driver is woken.
    wake_at: AtomicU64,
    wake: Notify,
}

/// The reader's end.
#[derive(Debug)]
pub(crate) struct Sender {
    shared: Arc<Shared>,
    woken_at: Instant,
}

impl Sender {
    /// Records that everything below `limit` is written. The limit never decreases.
    pub(crate) fn advance(&mut self, limit: u64) {
        // Each side writes its own value before it reads the other's, so at least one of them sees both.
        if self.shared.limit.swap(limit, Ordering::SeqCst) == limit {
            return;
        }

        let is_needed = limit >= self.shared.wake_at.load(Ordering::SeqCst);
        if is_needed || self.woken_at.elapsed() >= WAKE_INTERVAL {
            self.woken_at = Instant::now();
            self.shared.wake.notify_one();
        }
    }
}

/// The driver's end.
#[derive(Debug)]
pub(crate) struct Receiver(Arc<Shared>);

impl Receiver {
    /// Returns the limit below which everything is written.
    pub(crate) fn limit(&self) -> u64 {
        self.0.limit.load(Ordering::SeqCst)
    }

    /// Waits until the limit is at least `at`, or until it has advanced and [`WAKE_INTERVAL`] has passed.
    ///
    /// # Cancel safety
    /// Dropping the future loses no wake-up.
    pub(crate) async fn reached(&self, at: u64) {
        self.0.wake_at.store(at, Ordering::SeqCst);
        if self.limit() < at {
            self.0.wake.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn wakes_driver_at_the_requested_offset() {
        let (mut writer, written) = channel(100);
        assert!(written.reached(100).now_or_never().is_some());

        let mut reached = std::pin::pin!(written.reached(300));
        assert!(reached.as_mut().now_or_never().is_none());

        writer.advance(299);
        assert!(reached.as_mut().now_or_never().is_none());
        assert_eq!(written.limit(), 299);

        writer.advance(300);
        assert!(reached.now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn wakes_driver_at_each_step_of_a_slow_reader() {
        let (mut writer, written) = channel(0);
        for limit in 1..4 {
            let mut reached = std::pin::pin!(written.reached(u64::MAX));
            assert!(reached.as_mut().now_or_never().is_none());

            advance(WAKE_INTERVAL).await;
            writer.advance(limit);
            assert!(reached.now_or_never().is_some());
        }

        // The same limit again is not a step.
        advance(WAKE_INTERVAL).await;
        writer.advance(3);
        assert!(written.reached(u64::MAX).now_or_never().is_none());
    }

    #[tokio::test]
    async fn loses_no_wake_up_between_threads() {
        const STEPS: u64 = 50_000;
        let (mut writer, written) = channel(0);
        let seen = Arc::new(AtomicU64::new(0));
        let seen_by_writer = Arc::clone(&seen);

        // The two sides take turns, so that a later step can't hide a lost wake-up.
        let writing = std::thread::spawn(move || {
            for limit in 1..=STEPS {
                while seen_by_writer.load(Ordering::Relaxed) != limit - 1 {
                    std::hint::spin_loop();
                }
                // Rules out a wake-up by the interval.
                writer.woken_at = Instant::now() + Duration::from_secs(3600);
                writer.advance(limit);
            }
        });
        let waiting = async {
            for limit in 1..=STEPS {
                while written.limit() < limit {
                    written.reached(limit).await;
                }
                seen.store(limit, Ordering::Relaxed);
            }
        };

        tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap();
        writing.join().unwrap();
    }
}
