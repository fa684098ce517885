//! A running download, as seen by its reader.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::{FutureExt, Stream, TryStreamExt};
use tokio::io::AsyncRead;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::io::StreamReader;
use tokio_util::sync::DropGuard;

use gantry_proto::chunk::Chunk;
use gantry_proto::receiver::Stats;
use gantry_proto::{Accepted, ChecksumKind, Get, ObjectInfo, Via};

use crate::connection::Connection;
use crate::driver::{self, Running, join};
use crate::error::Error;
use crate::parts::Parts;
use crate::progress::Progress;
use crate::verify::{Proof, Verifier};
use crate::{stated, written};

/// The bytes of one download, in order: a [`Stream`] that ends after the bytes are verified, or with an error.
///
/// Bytes count as read when the next bytes are requested. That allows the relay to send more, so a slow reader slows the
/// relay down, and memory stays bounded by the window.
///
/// Dropping a download cancels the transfer at the relay. [`Self::stop`] also waits until the relay has been notified.
#[derive(Debug)]
pub struct Download {
    accepted: Accepted,
    chunks: mpsc::Receiver<Chunk>,
    written: written::Sender,
    progress: watch::Receiver<Progress>,
    driver: JoinHandle<Result<Stats, Error>>,
    restated: stated::Later,
    verifier: Option<Verifier>,
    proof: Option<Proof>,
    /// The absolute offset up to which bytes were returned.
    taken: u64,
    over: bool,
    cancel: DropGuard,
}

/// Requests a transfer, and returns once it is accepted.
pub(crate) async fn start(connection: &Arc<Connection>, get: Get, via: &Via) -> Result<Download, Error> {
    request(connection, get, None, via).await
}

/// As [`start`], for a version that a relay has described before. A missing relay or store is retried as in a recovery.
pub(crate) async fn start_of_version(
    connection: &Arc<Connection>,
    get: Get,
    object: &ObjectInfo,
) -> Result<Download, Error> {
    request(connection, get, Some(object.clone()), &Via::default()).await
}

async fn request(
    connection: &Arc<Connection>,
    get: Get,
    known: Option<ObjectInfo>,
    via: &Via,
) -> Result<Download, Error> {
    let verifies_etag = get.verify_etag;
    let Running { mut accepted, chunks, written, progress, driver, restated, cancel } =
        driver::start(connection, get, known, via).await?;

    if !verifies_etag {
        let other = &mut accepted.object.other_checksum;
        *other = other.take().filter(|checksum| checksum.kind != ChecksumKind::Etag);
    }

    // The store's checksum covers the whole object.
    let is_whole = accepted.start == 0 && accepted.end == accepted.object.size;
    let checksum = accepted.object.stated_checksum().filter(|_| is_whole);
    let verifier = Verifier::new(checksum, accepted.end - accepted.start);

    Ok(Download {
        taken: accepted.start,
        accepted,
        chunks,
        written,
        progress,
        driver,
        restated,
        verifier: Some(verifier),
        proof: None,
        over: false,
        cancel,
    })
}

impl Download {
    /// Returns the description of the object, in the version that is downloaded.
    #[must_use]
    pub const fn object(&self) -> &ObjectInfo {
        &self.accepted.object
    }

    /// Returns the absolute byte range, end exclusive.
    #[must_use]
    pub const fn range(&self) -> Range<u64> {
        self.accepted.start..self.accepted.end
    }

    /// Watches the progress.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Leaves the store's checksum to the caller, who verifies the whole object anyway. Nothing is hashed twice then.
    ///
    /// The number of bytes and the CRC of each chunk are still verified: [`Self::proof`] becomes [`Proof::Transport`].
    #[must_use]
    pub fn without_object_checksum(mut self) -> Self {
        self.verifier = None;
        self
    }

    /// Returns how the bytes were verified; `None` until the stream has ended without an error.
    #[must_use]
    pub const fn proof(&self) -> Option<Proof> {
        self.proof
    }

    /// Returns the next bytes, or `None` once all bytes were returned and verified.
    ///
    /// # Errors
    /// Nothing follows an error. Retryable, with a range that starts after the bytes received so far:
    /// - [`Error::GaveUp`] if no new bytes arrive within [`Options::patience`](crate::Options::patience).
    ///
    /// Not retryable:
    /// - [`Error::Mismatch`] if the bytes do not match the store's checksum.
    /// - [`Error::Changed`] if the object changed during the download.
    /// - [`Error::Refused`] if the relay or its store refuses to continue.
    /// - [`Error::NotPermitted`] if nats-server denies a subject.
    /// - [`Error::Bus`] if the connection was closed for good.
    ///
    /// # Cancel safety
    /// Dropping the future loses no bytes.
    pub async fn try_next(&mut self) -> Result<Option<Bytes>, Error> {
        TryStreamExt::try_next(self).await
    }

    /// Converts the download to a reader. The last read fails if the bytes can't be verified.
    ///
    /// The reader's errors wrap an [`Error`], which [`std::io::Error::get_ref`] returns.
    pub fn into_async_read(self) -> impl AsyncRead + Send + Unpin {
        StreamReader::new(self.map_err(std::io::Error::other))
    }

    /// Cancels the download, and waits until the relay has been notified, for at most one second.
    ///
    /// # Cancel safety
    /// The transfer is cancelled even if the future is dropped.
    pub async fn stop(self) {
        let Self { driver, cancel, over, .. } = self;

        drop(cancel);
        if !over {
            // The outcome is the cancellation.
            drop(join(driver).await);
        }
    }

    /// Takes the download apart for a sink that acknowledges its own writes.
    pub(crate) fn into_parts(self) -> Parts {
        Parts {
            accepted: self.accepted,
            chunks: self.chunks,
            written: self.written,
            progress: self.progress,
            driver: self.driver,
            restated: self.restated,
            cancel: self.cancel,
        }
    }

    /// Verifies the bytes once the driver has ended. Returns the last item of the stream.
    fn finish(&mut self, driven: Result<Stats, Error>) -> Option<Result<Bytes, Error>> {
        self.over = true;

        let proof = driven.and_then(|_| match self.verifier.take() {
            Some(verifier) => Ok(verifier.finish()?),
            None => Ok(Proof::Transport),
        });
        match proof {
            Ok(proof) => {
                self.proof = Some(proof);
                None
            }
            Err(error) => Some(Err(error)),
        }
    }
}

impl Stream for Download {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.over {
            return Poll::Ready(None);
        }

        // A request for more bytes acknowledges the bytes returned before.
        let taken = self.taken;
        self.written.advance(taken);

        if let Some(chunk) = ready!(self.chunks.poll_recv(cx)) {
            self.taken += chunk.payload.len() as u64;
            if let Some(verifier) = &mut self.verifier {
                verifier.update_chunk(&chunk);
            }
            return Poll::Ready(Some(Ok(chunk.payload)));
        }

        let driven = ready!(self.driver.poll_unpin(cx)).unwrap_or(Err(Error::Cancelled));
        Poll::Ready(self.finish(driven))
    }
}
