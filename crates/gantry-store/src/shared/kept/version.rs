//! One version of an object: the bytes in memory, the sources that deliver more, and the readers.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use crate::budget::Reservation;
use gantry_proto::{ObjectInfo, Span};

/// Size of a block, in bytes. Smaller blocks are evicted more precisely, larger ones are found faster.
pub(super) const BLOCK_BYTES: u64 = 1 << 20;

/// Identifies a reader of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::shared) struct ReaderId(pub(super) u64);

/// The rank of a block among those to evict. The lowest goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub(super) is_shared: bool,
    pub(super) used: u64,
}

/// What is known of a version.
#[derive(Debug)]
pub(super) struct Version<S> {
    pub(super) object: Arc<ObjectInfo>,
    /// Whether the description is that of a request up to the object's end, which has the stored checksum.
    pub(super) is_complete: bool,
    /// Whether a second reader has found something of it, or may want to.
    pub(super) is_shared: bool,
    /// When its last bytes were read.
    pub(super) read_at: Instant,
    /// The number of bytes that were read while it was not shared.
    pub(super) read_alone: u64,
    pub(super) readers: BTreeMap<ReaderId, Range<u64>>,
    pub(super) sources: Vec<Running<S>>,
    pub(super) blocks: BTreeMap<u64, Block>,
}

/// A source, and the bytes that are still to come from it.
#[derive(Debug)]
pub(super) struct Running<S> {
    pub(super) source: S,
    pub(super) rest: Range<u64>,
}

/// A part of a version that is kept or evicted as a whole.
#[derive(Debug)]
pub(super) struct Block {
    /// The pieces by offset, which do not overlap.
    pub(super) pieces: BTreeMap<u64, Bytes>,
    pub(super) rank: Rank,
    pub(super) used_at: Instant,
    /// The memory that is reserved for it.
    pub(super) bytes: u64,
    _reservation: Reservation,
}

impl Block {
    pub(super) const fn new(rank: Rank, bytes: u64, reservation: Reservation, now: Instant) -> Self {
        Self { pieces: BTreeMap::new(), rank, used_at: now, bytes, _reservation: reservation }
    }
}

impl<S> Version<S> {
    /// Returns whether a request is served better from here than by the store alone.
    ///
    /// A request up to the object's end is, if anything ahead of it is kept or being read: the rest is read in between.
    /// A request for a range is only if nothing of it is missing, since a store reads it with a single request.
    pub(super) fn serves(&self, span: Span) -> bool {
        let Some(range) = span.resolve(self.object.size).filter(|range| !range.is_empty()) else { return false };
        if span.end.is_some() {
            return self.reach(range.start) >= range.end;
        }
        self.is_complete && (self.reach(range.start) > range.start || self.next_after(range.start).is_some())
    }

    /// Returns the number of readers that have not passed the end of a block.
    pub(super) fn readers_of(&self, number: u64) -> usize {
        let (start, end) = (number * BLOCK_BYTES, (number + 1) * BLOCK_BYTES);
        self.readers.values().filter(|rest| rest.start < end && start < rest.end).count()
    }

    /// Returns up to which offset (exclusive) the bytes from `offset` on are kept or being read.
    pub(super) fn reach(&self, mut offset: u64) -> u64 {
        loop {
            offset = if let Some(piece) = self.piece_at(offset) {
                offset + piece.len() as u64
            } else if let Some(running) = self.sources.iter().find(|running| running.rest.start == offset) {
                running.rest.end
            } else {
                return offset;
            };
        }
    }

    /// Returns the kept bytes from `offset` on, to the end of their piece.
    pub(super) fn piece_at(&self, offset: u64) -> Option<Bytes> {
        let block = self.blocks.get(&(offset / BLOCK_BYTES))?;
        let (start, piece) = block.pieces.range(..=offset).next_back()?;
        let skip = usize::try_from(offset - start).ok().filter(|skip| *skip < piece.len())?;
        Some(piece.slice(skip..))
    }

    /// Returns where bytes after `offset` are kept or come from a source.
    pub(super) fn next_after(&self, offset: u64) -> Option<u64> {
        let after = offset + 1;
        let kept = self
            .blocks
            .range(offset / BLOCK_BYTES..)
            .find_map(|(_, block)| block.pieces.range(after..).next().map(|(start, _)| *start));
        let read = self.sources.iter().map(|running| running.rest.start).filter(|start| *start >= after).min();
        kept.into_iter().chain(read).min()
    }
}
