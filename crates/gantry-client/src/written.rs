//! How far the reader of a download has come, told to its driver no more often than that has use for it.
//!
//! Each wake-up costs a switch between tasks, often between threads; a driver that is woken for every chunk has nothing
//! to do for most of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// How long the reader keeps its steps to itself, for whoever watches the progress. Those before a pause are told with
/// the next one, or when the driver looks for another reason.
const TELL_AFTER: Duration = Duration::from_millis(50);

/// Makes both ends. All offsets are absolute; everything below `start` counts as written.
pub(super) fn channel(start: u64) -> (Sender, Receiver) {
    let shared =
        Arc::new(Shared { limit: AtomicU64::new(start), wake_at: AtomicU64::new(start), wanted: Notify::new() });
    (Sender { shared: Arc::clone(&shared), told_at: Instant::now() }, Receiver(shared))
}

#[derive(Debug)]
struct Shared {
    /// Everything below has been written.
    limit: AtomicU64,
    /// From which limit on the driver wants to be woken.
    wake_at: AtomicU64,
    wanted: Notify,
}

/// The reader's end.
#[derive(Debug)]
pub(super) struct Sender {
    shared: Arc<Shared>,
    told_at: Instant,
}

impl Sender {
    /// Takes note that everything below `limit` has been written. It never falls.
    pub(super) fn advance(&mut self, limit: u64) {
        // Each side writes before it reads what the other one wrote, so that at least one of them sees both.
        if self.shared.limit.swap(limit, Ordering::SeqCst) == limit {
            return;
        }
        if limit >= self.shared.wake_at.load(Ordering::SeqCst) || self.told_at.elapsed() >= TELL_AFTER {
            self.told_at = Instant::now();
            self.shared.wanted.notify_one();
        }
    }
}

/// The driver's end.
#[derive(Debug)]
pub(super) struct Receiver(Arc<Shared>);

impl Receiver {
    /// Returns the limit below which everything has been written.
    pub(super) fn limit(&self) -> u64 {
        self.0.limit.load(Ordering::SeqCst)
    }

    /// Waits until the limit is `at` or more, or is told for the time it took. Safe to cancel.
    pub(super) async fn reached(&self, at: u64) {
        self.0.wake_at.store(at, Ordering::SeqCst);
        if self.limit() < at {
            self.0.wanted.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_driver_is_woken_where_it_wants_to_be() {
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
    async fn a_slow_reader_is_heard_of_at_each_step() {
        let (mut writer, written) = channel(0);
        for limit in 1..4 {
            let mut reached = std::pin::pin!(written.reached(u64::MAX));
            assert!(reached.as_mut().now_or_never().is_none());
            advance(TELL_AFTER).await;
            writer.advance(limit);
            assert!(reached.now_or_never().is_some());
        }
        // What was said before says nothing new.
        advance(TELL_AFTER).await;
        writer.advance(3);
        assert!(written.reached(u64::MAX).now_or_never().is_none());
    }

    #[tokio::test]
    async fn no_wake_up_is_lost_between_threads() {
        const STEPS: u64 = 50_000;
        let (mut writer, written) = channel(0);
        let seen = Arc::new(AtomicU64::new(0));
        let seen_by_writer = Arc::clone(&seen);
        // In turns, so that no step makes good for one before it that was not heard of.
        let writing = std::thread::spawn(move || {
            for limit in 1..=STEPS {
                while seen_by_writer.load(Ordering::Relaxed) != limit - 1 {
                    std::hint::spin_loop();
                }
                // Never told for the time it took.
                writer.told_at = Instant::now() + Duration::from_secs(3600);
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
