//! Care with requests that nobody hears the answer to.
//!
//! A request may name a reply subject at which nobody listens, and would have the relay read from the store for
//! nothing: S3 sends megabytes into the buffers on the way before the first 503 is back. Rather than have every consumer
//! wait for a round trip, the relay waits only after such a request, for as long as their like keep coming.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long such a request makes the relay careful.
const CAREFUL_FOR: Duration = Duration::from_secs(10);

/// The bounds on the wait for a 503.
const WAIT_MIN: Duration = Duration::from_millis(2);
const WAIT_MAX: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
pub(crate) struct Caution(Mutex<Option<Unheard>>);

/// The last request whose answer nobody heard.
#[derive(Debug)]
struct Unheard {
    at: Instant,
    /// How long it took until that was known.
    took: Duration,
}

impl Caution {
    /// Takes note of a request that nobody heard the answer to, which was known after `took`.
    pub(crate) fn note_unheard(&self, took: Duration) {
        *self.lock() = Some(Unheard { at: Instant::now(), took });
    }

    /// Returns how long to wait for a 503 before the store is opened; `None` while there is no reason to.
    pub(crate) fn wait(&self) -> Option<Duration> {
        let unheard = self.lock();
        let unheard = unheard.as_ref().filter(|unheard| unheard.at.elapsed() < CAREFUL_FOR)?;
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
    async fn the_relay_is_careful_only_for_a_while_and_within_bounds() {
        let caution = Caution::default();
        assert_eq!(caution.wait(), None);
        for (took_ms, wait_ms) in [(0, 2), (5, 10), (60_000, 50)] {
            caution.note_unheard(Duration::from_millis(took_ms));
            assert_eq!(caution.wait(), Some(Duration::from_millis(wait_ms)));
        }
        tokio::time::advance(CAREFUL_FOR).await;
        assert_eq!(caution.wait(), None);
    }
}
