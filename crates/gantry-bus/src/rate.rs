//! Holds bytes to a rate.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How much of a pause may be made up for. More would let a burst through after each; less would cost throughput, since
/// timers have a resolution of a millisecond.
const CATCH_UP: Duration = Duration::from_millis(50);

/// A rate that its clones share.
///
/// Bytes go first and are waited for after: a piece larger than a second's worth needs no special case.
#[derive(Clone, Debug)]
pub struct RateLimit(Arc<State>);

#[derive(Debug)]
struct State {
    bytes_per_s: NonZeroU64,
    /// When all that was taken so far has had its time.
    due: Mutex<Instant>,
}

impl RateLimit {
    /// Makes a limit that nobody has taken from.
    #[must_use]
    pub fn new(bytes_per_s: NonZeroU64) -> Self {
        Self(Arc::new(State { bytes_per_s, due: Mutex::new(Instant::now()) }))
    }

    /// Takes note of `len` bytes, and returns when the next ones may follow; it may be past.
    #[must_use]
    pub fn take(&self, len: usize) -> Instant {
        let nanos = len as u128 * 1_000_000_000 / u128::from(self.0.bytes_per_s.get());
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let earliest = Instant::now().checked_sub(CATCH_UP);
        let mut due = self.0.due.lock().unwrap_or_else(PoisonError::into_inner);
        *due = earliest.map_or(*due, |earliest| earliest.max(*due)) + takes;
        *due
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep_until};

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
    async fn bytes_take_their_time_however_they_are_cut() {
        for piece in [1, 1000, 100_000, 1_000_000] {
            let took = run(&limit(), 1_000_000, piece).await;
            assert!((9.7..=9.8).contains(&took.as_secs_f64()), "{piece}: {took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_not_made_up_for() {
        let limit = limit();
        advance(Duration::from_secs(60)).await;
        let took = run(&limit, 1_000_000, 1000).await;
        assert!((9.7..=9.8).contains(&took.as_secs_f64()), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_share_a_limit_get_equal_shares() {
        let limit = limit();
        let (one, other) = tokio::join!(run(&limit, 500_000, 1000), run(&limit, 500_000, 1000));
        for took in [one, other] {
            assert!((9.6..=9.8).contains(&took.as_secs_f64()), "{one:?} {other:?}");
        }
    }
}
