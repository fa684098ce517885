//! The body of one request: kept bytes, and sources that are shared with other requests.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use tokio::time::Instant;

use super::kept::{ReaderId, Step, VersionId};
use super::observe::Report;
use super::room::Room;
use super::source::{Poured, Source, Standing};
use crate::Error;
use gantry_proto::ObjectInfo;

/// Reads a range of one version.
pub(super) struct Reader {
    room: Arc<Room>,
    object: Arc<ObjectInfo>,
    version: VersionId,
    id: ReaderId,
    /// The bytes that have not been returned.
    rest: Range<u64>,
    /// The source that the last bytes came from, or that the reader waits for.
    following: Option<Source>,
}

impl Reader {
    /// Creates the body of a reader that has joined the version. `following` is the source of its own, if it has one.
    pub(super) const fn new(
        room: Arc<Room>,
        object: Arc<ObjectInfo>,
        version: VersionId,
        id: ReaderId,
        rest: Range<u64>,
        following: Option<Source>,
    ) -> Self {
        Self { room, object, version, id, rest, following }
    }

    /// Returns kept bytes, or nothing if the reader has a source to follow.
    fn step(&mut self) -> Option<Bytes> {
        let offset = self.rest.start;
        // The source is locked before the room.
        let standing = self.following.as_ref().map_or(Standing::Elsewhere, |source| source.at(offset));

        let mut state = self.room.lock();
        if standing == Standing::Here {
            state.kept.advance(self.version, self.id, offset);
            return None;
        }
        match state.kept.step(self.version, self.id, offset, Instant::now())? {
            Step::Take(piece) => return Some(piece),
            Step::Follow(source) => self.following = Some(source),
            // All readers that wait for a source learn how it ended.
            Step::Open { .. } if standing == Standing::Over => {}
            Step::Open { end } => {
                let source = self.room.source(Arc::clone(&self.object), offset, end);
                state.kept.add_source(self.version, offset..end, source.clone());
                self.following = Some(source);
            }
        }
        None
    }

    /// Accounts for bytes to return.
    fn take(&mut self, mut piece: Bytes) -> Bytes {
        piece.truncate(usize::try_from(self.rest.end - self.rest.start).unwrap_or(usize::MAX));
        self.rest.start += piece.len() as u64;
        piece
    }
}

impl Stream for Reader {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;

        while !this.rest.is_empty() {
            if let Some(piece) = this.step() {
                let piece = this.take(piece);
                this.room.observer.record(Report::Saved(piece.len() as u64));
                return Poll::Ready(Some(Ok(piece)));
            }
            let Some(source) = this.following.clone() else { break };

            let push = |piece: &Bytes| this.room.push(this.version, &source, piece);
            let poured = ready!(source.poll(this.id, this.rest.start, context, push));
            if !matches!(poured, Poured::Piece(_) | Poured::Past) {
                this.room.lock().kept.remove_source(this.version, &source);
                this.rest.start = this.rest.end;
            }
            match poured {
                Poured::Piece(piece) => return Poll::Ready(Some(Ok(this.take(piece)))),
                Poured::Past => {}
                Poured::Ended => break,
                Poured::Failed(error) => return Poll::Ready(Some(Err(error))),
            }
        }

        Poll::Ready(None)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(source) = &self.following {
            source.leave(self.id);
        }
        // Dropped after the lock is released.
        let unwanted = self.room.lock().kept.leave(self.version, self.id);
        drop(unwanted);
    }
}
