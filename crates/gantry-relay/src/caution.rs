//! Caution with requests whose answer nobody receives.
//!
//! If nobody listens on a request's reply subject, the relay reads from the store for nothing: S3 sends megabytes into
//! the buffers on the path before the first 503 arrives. To spare other consumers a round trip, the relay waits for a 503
//! only after such a request, and for as long as more of them arrive.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long the relay is cautious after such a request.
const CAUTIOUS_FOR: Duration = Duration::from_secs(10);

/// The bounds on the wait for a 503.
const WAIT_MIN: Duration = Duration::from_millis(2);
const WAIT_MAX: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
pub(crate) struct Caution(Mutex<Option<Unheard>>);

/// The last request whose answer nobody received.
#[derive(Debug)]
struct Unheard {
    at: Instant,
    /// The time until this was known.
    took: Duration,
}

impl Caution {
    /// Records a request whose answer nobody received, which was known after `took`.
    pub(crate) fn note_unheard(&self, took: Duration) {
        *self.lock() = Some(Unheard { at: Instant::now(), took });
    }

    /// Returns how long to wait for a 503 before opening the store, or `None` if there is no reason to wait.
    pub(crate) fn wait(&self) -> Option<Duration> {
        let unheard = self.lock();
        let unheard = unheard.as_ref().filter(|unheard| unheard.at.elapsed() < CAUTIOUS_FOR)?;
        Some((unheard.took * 2).clamp(WAIT_MIN, WAIT_MAX))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Unheard>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn caution_is_temporary_and_its_wait_is_bounded() {
        let caution = Caution::default();
        assert_eq!(caution.wait(), None);

        for (took_ms, wait_ms) in [(0, 2), (5, 10), (60_000, 50)] {
            caution.note_unheard(Duration::from_millis(took_ms));
            assert_eq!(caution.wait(), Some(Duration::from_millis(wait_ms)));
        }

        tokio::time::advance(CAUTIOUS_FOR).await;
        assert_eq!(caution.wait(), None);
    }
}
