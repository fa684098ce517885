//! Releases a reader's read-ahead while nobody takes its bytes.
//!
//! Otherwise a consumer that gives no credit would keep memory that no other transfer can use.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use crate::{Body, Error};

/// How long nobody may take bytes before the read-ahead is released. A consumer on a slow link takes its next bytes
/// sooner, since its window is about what the link carries in a second.
pub(crate) const RELEASE_AFTER: Duration = Duration::from_millis(1500);

/// A reader that reads ahead.
pub(crate) trait ReadsAhead: Send + 'static {
    /// Returns the next bytes, at least one, or `None` at the end.
    fn next(&mut self) -> impl Future<Output = Result<Option<Bytes>, Error>> + Send;

    /// Releases the read-ahead. The next call of [`Self::next`] reads it again.
    fn release(&mut self);
}

/// A reader, and when it last returned bytes.
struct Watched<R> {
    reader: R,
    taken_at: Instant,
}

/// Creates a reader's body, which releases the read-ahead while nobody takes bytes.
pub(crate) fn body<R: ReadsAhead>(reader: R) -> Body {
    let watched = Arc::new(Mutex::new(Watched { reader, taken_at: Instant::now() }));
    let watching = AbortOnDropHandle::new(tokio::spawn(watch(Arc::downgrade(&watched))));

    Box::pin(stream::try_unfold((watched, watching), async |(watched, watching)| {
        // Contended only for the moment of a release.
        let mut guard = watched.lock().await;
        let piece = guard.reader.next().await?;
        guard.taken_at = Instant::now();
        drop(guard);

        Ok(piece.map(|piece| (piece, (watched, watching))))
    }))
}

async fn watch<R: ReadsAhead>(watched: Weak<Mutex<Watched<R>>>) {
    let mut check_at = Instant::now() + RELEASE_AFTER;
    loop {
        sleep_until(check_at).await;
        let now = Instant::now();
        check_at = now + RELEASE_AFTER;

        let Some(watched) = watched.upgrade() else { return };
        // While a consumer waits for bytes, the reader is locked.
        let Ok(mut guard) = watched.try_lock() else { continue };
        let release_at = guard.taken_at + RELEASE_AFTER;
        if release_at <= now {
            guard.reader.release();
        } else {
            check_at = release_at;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::StreamExt;
    use tokio::time::sleep;

    use super::*;

    /// Returns a byte after each `delay`, and counts the releases.
    struct Slow {
        delay: Duration,
        releases: Arc<AtomicUsize>,
    }

    impl ReadsAhead for Slow {
        async fn next(&mut self) -> Result<Option<Bytes>, Error> {
            sleep(self.delay).await;
            Ok(Some(Bytes::from_static(b"x")))
        }

        fn release(&mut self) {
            self.releases.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn releases_only_while_nobody_takes_bytes() {
        let releases = Arc::new(AtomicUsize::new(0));
        let slow = Slow { delay: Duration::from_secs(60), releases: Arc::clone(&releases) };
        let mut body = body(slow);

        // Waiting for a slow store is not a reason for a release.
        for _ in 0..3 {
            body.next().await.unwrap().unwrap();
            sleep(RELEASE_AFTER - Duration::from_millis(1)).await;
        }
        assert_eq!(releases.load(Ordering::Relaxed), 0);

        sleep(Duration::from_millis(2)).await;
        assert_eq!(releases.load(Ordering::Relaxed), 1);
        body.next().await.unwrap().unwrap();
    }
}
