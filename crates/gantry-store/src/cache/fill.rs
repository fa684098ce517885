//! Collects blocks from the pieces of a body that passes by.

use std::sync::Arc;

use bytes::Bytes;

use super::folder::Folder;
use super::format::{About, BLOCK_BYTES, payload_len};
use super::name::VersionName;
use super::observe::Report;
use crate::Budget;
use crate::budget::Reservation;

/// Collects the blocks of a version.
pub(super) struct Fill {
    folder: Arc<Folder>,
    budget: Budget,
    about: Arc<About>,
    version: VersionName,
    /// The offset of the next byte.
    offset: u64,
    /// The block that the next byte belongs to, if it is collected.
    block: Option<Collected>,
}

struct Collected {
    pieces: Vec<Bytes>,
    memory: Reservation,
}

impl Fill {
    /// Collects blocks from `offset` on. The memory for them is a part of `budget`.
    pub(super) fn new(
        folder: Arc<Folder>,
        budget: Budget,
        about: Arc<About>,
        version: VersionName,
        offset: u64,
    ) -> Self {
        Self { folder, budget, about, version, offset, block: None }
    }

    /// Takes the next bytes, which must not be past the object's end.
    pub(super) fn push(&mut self, mut piece: Bytes) {
        while !piece.is_empty() {
            let number = self.offset / BLOCK_BYTES;
            let start = number * BLOCK_BYTES;
            let end = start + payload_len(self.about.object.size, number);
            if self.offset == start {
                self.block = self.collect(number, end - start);
            }

            let len = usize::try_from(end - self.offset).map_or(piece.len(), |len| len.min(piece.len()));
            if len == 0 {
                return;
            }
            let part = piece.split_to(len);
            self.offset += part.len() as u64;
            if let Some(block) = &mut self.block {
                block.pieces.push(part);
            }

            if self.offset == end
                && let Some(Collected { pieces, memory }) = self.block.take()
            {
                self.folder.write(self.version.block(number), Arc::clone(&self.about), pieces, memory);
            }
        }
    }

    /// Starts to collect a block if there is reason and memory to do so.
    fn collect(&self, number: u64, len: u64) -> Option<Collected> {
        if !self.folder.wants(self.version.block(number)) {
            return None;
        }
        let memory = self.budget.try_reserve(len);
        if memory.is_none() {
            self.folder.record(Report::Skipped);
        }
        memory.map(|memory| Collected { pieces: Vec::new(), memory })
    }
}
