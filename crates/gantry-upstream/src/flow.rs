//! A transfer from which the bytes of several ranges are taken, one range after the other.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use gantry_client::{Download, Error};
use gantry_proto::ObjectInfo;

/// A transfer, and how far its bytes were taken. Dropping it cancels the transfer.
///
/// Its window bounds how much it reads ahead.
#[derive(Debug)]
pub(crate) struct Flow {
    download: Download,
    /// Bytes that have arrived and belong to the next range.
    held: Bytes,
    offset: u64,
    accepted_at: Instant,
    /// The place among the transfers that read ahead, if it may read past its range.
    _place: Option<OwnedSemaphorePermit>,
}

impl Flow {
    pub(crate) fn new(download: Download, place: Option<OwnedSemaphorePermit>) -> Self {
        let offset = download.range().start;
        Self { download, held: Bytes::new(), offset, accepted_at: Instant::now(), _place: place }
    }

    pub(crate) const fn object(&self) -> &ObjectInfo {
        self.download.object()
    }

    /// Returns how long ago a relay accepted the transfer.
    pub(crate) fn age(&self) -> Duration {
        self.accepted_at.elapsed()
    }

    /// Returns the offset of the next byte.
    pub(crate) const fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns the exclusive end of the transfer.
    pub(crate) const fn end(&self) -> u64 {
        self.download.range().end
    }

    /// Returns the next bytes, at most up to the offset `limit`. Returns `None` once all bytes of the transfer were
    /// taken and the transfer has ended.
    pub(crate) fn poll_piece(&mut self, limit: u64, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        if self.held.is_empty() {
            self.held = match ready!(self.download.poll_next_unpin(cx)) {
                Some(Ok(bytes)) => bytes,
                ended => return Poll::Ready(ended),
            };
        }

        let room = usize::try_from(limit - self.offset).unwrap_or(usize::MAX);
        let piece = self.held.split_to(room.min(self.held.len()));
        self.offset += piece.len() as u64;
        Poll::Ready(Some(Ok(piece)))
    }
}
