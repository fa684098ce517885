//! A download, as its reader holds it.

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

use super::connection::Connection;
use super::driver::{self, Running, join};
use super::parts::Parts;
use super::verify::{Proof, Verifier};
use super::{Error, Get, Progress, stated, written};
use gantry_proto::chunk::Chunk;
use gantry_proto::receiver::Stats;
use gantry_proto::{Accepted, ObjectInfo};

/// The bytes of one download, in order: a [`Stream`] that ends after they have been proved, or with an error.
///
/// Dropping it cancels the transfer at the relay; [`Self::stop`] also waits until that is said.
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
    /// The absolute offset up to which bytes were handed out.
    taken: u64,
    over: bool,
    cancel: DropGuard,
}

/// Asks for a transfer and returns when it is accepted.
pub(super) async fn start(connection: &Arc<Connection>, get: Get) -> Result<Download, Error> {
    let Running { accepted, chunks, written, progress, driver, restated, cancel } =
        driver::start(connection, get).await?;

    let whole = accepted.start == 0 && accepted.end == accepted.object.size;
    let checksum = accepted.object.checksum.as_ref().filter(|_| whole);
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
    /// Returns the version that is being downloaded.
    #[must_use]
    pub const fn object(&self) -> &ObjectInfo {
        &self.accepted.object
    }

    /// Returns the absolute byte range, end exclusive.
    #[must_use]
    pub const fn range(&self) -> std::ops::Range<u64> {
        self.accepted.start..self.accepted.end
    }

    /// Watches how far it has come.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Returns what the bytes were proved against, once the stream has ended well.
    #[must_use]
    pub const fn proof(&self) -> Option<Proof> {
        self.proof
    }

    /// Reads the bytes; the last read fails when they can't be proved.
    pub fn into_async_read(self) -> impl AsyncRead + Send + Unpin {
        StreamReader::new(self.map_err(std::io::Error::other))
    }

    /// Ends it before its time, and returns when the relay was told, or can't be told soon.
    pub async fn stop(self) {
        let Self { driver, cancel, over, .. } = self;
        drop(cancel);
        if !over {
            // It ends by the cancellation, whatever else it would have said.
            drop(join(driver).await);
        }
    }

    /// Takes it apart for a sink that acknowledges what it has written itself.
    pub(super) fn into_parts(self) -> Parts {
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

    fn finish(&mut self, driven: Result<Stats, Error>) -> Option<Result<Bytes, Error>> {
        self.over = true;
        let proved = driven.and_then(|_| match self.verifier.take() {
            Some(verifier) => Ok(verifier.finish()?),
            None => Ok(Proof::Transport),
        });
        match proved {
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
        // Whoever asks for more has dealt with what it was given.
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
