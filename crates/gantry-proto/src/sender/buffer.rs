//! The bytes that a sender holds, and how they are cut into chunks.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::to_u64;

/// The store's bytes that have not been sent yet, in the pieces in which they arrived.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    pieces: VecDeque<Bytes>,
    len: u64,
}

impl Buffer {
    /// Returns the number of bytes.
    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn push(&mut self, piece: Bytes) {
        self.len = self.len.saturating_add(to_u64(piece.len()));
        self.pieces.push_back(piece);
    }

    pub(super) fn clear(&mut self) {
        self.pieces.clear();
        self.len = 0;
    }

    /// Removes and returns the next chunk's payload, at most `max` bytes. Pieces smaller than `gather_min` are combined
    /// into one payload of at most that size; others are cut without copying. Returns `None` if there are no bytes.
    pub(super) fn cut(&mut self, max: usize, gather_min: usize) -> Option<Bytes> {
        let front = self.pieces.front_mut()?;

        let payload = if front.len() > max {
            front.split_to(max)
        } else if front.len() >= gather_min || self.pieces.len() == 1 {
            self.pieces.pop_front()?
        } else {
            self.gather(max.min(gather_min))
        };

        self.len = self.len.saturating_sub(to_u64(payload.len()));
        Some(payload)
    }

    /// Copies small pieces into one buffer of up to `max` bytes.
    fn gather(&mut self, max: usize) -> Bytes {
        let mut payload = BytesMut::with_capacity(max);

        while let Some(front) = self.pieces.front_mut() {
            let room = max.saturating_sub(payload.len());
            if room == 0 {
                break;
            }

            let part = front.split_to(room.min(front.len()));
            payload.extend_from_slice(&part);
            if front.is_empty() {
                self.pieces.pop_front();
            }
        }
        payload.freeze()
    }
}
