//! Rate limits in bytes per second.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// The delay up to which bytes still count as on time. Timers have a resolution of a millisecond, and a busy machine
/// adds to that. A longer delay counts as a pause, and the rate does not catch up.
const LATE_MAX: Duration = Duration::from_millis(50);

/// One turn moves at most this fraction of the bytes of a second, so that the flow is steady.
const TURNS_PER_S: u64 = 4;

/// Minimum size of a turn in bytes, since each message has a cost. It is reduced if a round of turns would take too long.
const TURN_MIN_BYTES: u64 = 1024;

/// Maximum duration of a round of turns over all waiting callers, in seconds. A consumer times out after 120 s without a
/// byte.
const ROUND_MAX_S: u64 = 30;

/// A rate limit. Its clones share the rate.
#[derive(Clone, Debug)]
pub struct RateLimit(Arc<State>);

#[derive(Debug)]
struct State {
    bytes_per_s: NonZeroU64,
    /// When the rate for the bytes moved so far has been used up.
    due: Mutex<Instant>,
    /// The current turn: first come, first served, so that shares are equal.
    turn: tokio::sync::Mutex<()>,
    waiting: AtomicU64,
}

/// Counts a caller as waiting while it exists.
struct Waiting<'a>(&'a AtomicU64);

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl RateLimit {
    /// Creates an unused limit.
    #[must_use]
    pub fn new(bytes_per_s: NonZeroU64) -> Self {
        Self(Arc::new(State {
            bytes_per_s,
            due: Mutex::new(Instant::now()),
            turn: tokio::sync::Mutex::new(()),
            waiting: AtomicU64::new(0),
        }))
    }

    /// Returns the rate.
    #[must_use]
    pub fn bytes_per_s(&self) -> NonZeroU64 {
        self.0.bytes_per_s
    }

    /// Returns when the next bytes may move. That time may be in the past.
    #[must_use]
    pub fn due(&self) -> Instant {
        *self.0.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn, and returns how many bytes may move now: at least 1 and at most `wanted`. With more waiting
    /// callers, each gets fewer bytes, so that each gets a turn about every second.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, it has not used any of the rate.
    pub async fn turn(&self, wanted: usize) -> usize {
        let _waiting = Waiting::enter(&self.0.waiting);
        let _turn = self.0.turn.lock().await;

        sleep_until(self.due()).await;

        let len = wanted.min(self.share()).max(1);
        self.take(len);
        len
    }

    /// Records that `len` bytes have moved, and returns when the next ones may follow. That time may be in the past.
    pub fn take(&self, len: usize) -> Instant {
        let nanos = len as u128 * 1_000_000_000 / u128::from(self.0.bytes_per_s.get());
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let now = Instant::now();
        let mut due = self.0.due.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(*due) > LATE_MAX {
            *due = now;
        }
        *due = due.checked_add(takes).unwrap_or(*due);
        *due
    }

    /// Returns the size of one turn now, in bytes.
    fn share(&self) -> usize {
        let rate = self.0.bytes_per_s.get();
        let waiting = self.0.waiting.load(Ordering::Relaxed).max(1);
        let least = TURN_MIN_BYTES.min(rate.saturating_mul(ROUND_MAX_S) / waiting);
        let share = (rate / waiting.max(TURNS_PER_S)).max(least).max(1);
        usize::try_from(share).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use tokio::time::advance;

    use super::*;

    const KIB_PER_S: u64 = 1024;

    fn limit() -> RateLimit {
        RateLimit::new(NonZeroU64::new(100 * KIB_PER_S).unwrap())
    }

    /// Moves `len` bytes in pieces, and returns how long it took.
    async fn run(limit: &RateLimit, len: usize, piece: usize) -> Duration {
        let began = Instant::now();
        for _ in 0..len / piece {
            sleep_until(limit.take(piece)).await;
        }
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_does_not_depend_on_the_size_of_pieces() {
        for piece in [1, 1000, 100_000, 1_000_000] {
            let took = run(&limit(), 1_000_000, piece).await;
            assert!((9.7..=9.8).contains(&took.as_secs_f64()), "{piece}: {took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_does_not_catch_up_after_a_pause() {
        let limit = limit();
        advance(Duration::from_secs(60)).await;
        let took = run(&limit, 1_000_000, 1000).await;
        assert!((9.7..=9.8).contains(&took.as_secs_f64()), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn callers_that_share_a_limit_get_equal_shares() {
        let limit = limit();
        let (one, other) = tokio::join!(run(&limit, 500_000, 1000), run(&limit, 500_000, 1000));
        for took in [one, other] {
            assert!((9.6..=9.8).contains(&took.as_secs_f64()), "{one:?} {other:?}");
        }
    }

    /// Moves `len` bytes, turn by turn. Returns the total duration, and the longest wait for a turn.
    async fn run_in_turns(limit: &RateLimit, len: usize) -> (Duration, Duration) {
        let began = Instant::now();
        let mut longest = Duration::ZERO;
        let mut left = len;
        while left > 0 {
            let asked = Instant::now();
            left -= limit.turn(left.min(520_192)).await;
            longest = longest.max(asked.elapsed());
        }
        (began.elapsed(), longest)
    }

    #[tokio::test(start_paused = true)]
    async fn small_objects_keep_to_the_rate_together() {
        let limit = RateLimit::new(NonZeroU64::new(1 << 20).unwrap());
        advance(Duration::from_secs(60)).await;
        let began = Instant::now();

        join_all((0..100).map(|_| run_in_turns(&limit, 20_000))).await;

        let expected = 2_000_000.0 / f64::from(1 << 20);
        let took = began.elapsed().as_secs_f64();
        assert!((expected * 0.95..expected * 1.02).contains(&took), "{took} s, not {expected} s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_leaves_before_its_turn_uses_no_rate() {
        let limit = RateLimit::new(NonZeroU64::new(1 << 20).unwrap());
        for _ in 0..400 {
            let turns = futures_util::future::select_all((0..2).map(|_| Box::pin(limit.turn(520_192))));
            drop(tokio::time::timeout(Duration::ZERO, turns).await);
        }
        let cancelled = (0..400).map(|_| tokio::time::timeout(Duration::from_millis(1), limit.turn(520_192)));
        join_all(cancelled).await;

        let (took, _) = run_in_turns(&limit, 1 << 20).await;

        // A few of the many got their turn at once; the others left.
        assert!(took < Duration::from_millis(1600), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn every_waiting_caller_gets_a_turn_soon() {
        for (bytes_per_s, crowd, round_s) in [(1 << 20, 341, 1.5), (10 << 10, 341, 35.0), (100, 1000, 35.0)] {
            let limit = RateLimit::new(NonZeroU64::new(bytes_per_s).unwrap());
            let each = usize::try_from(bytes_per_s * 60).unwrap() / crowd;

            let ends = join_all((0..crowd).map(|_| run_in_turns(&limit, each))).await;

            let longest = ends.iter().map(|(_, longest)| *longest).max().unwrap();
            assert!(longest.as_secs_f64() < round_s, "{crowd} at {bytes_per_s} B/s: {longest:?}");
            let took = ends.iter().map(|(took, _)| took.as_secs_f64()).fold(0.0, f64::max);
            assert!((50.0..62.0).contains(&took), "{crowd} at {bytes_per_s} B/s took {took} s");
        }
    }
}
