//! The layout of the record beside a part file, and how to read a damaged one.
//!
//! # Layout
//!
//! | bytes | content |
//! |---|---|
//! | a multiple of 4096 | the *head* |
//! | 2 × 4096 | the marks of the last two checkpoints, alternating |
//! | 4096 | the last note |
//! | 256 × 128 | the *trail*: marks at a fixed distance, in the order of their lengths |
//! | as at the start | a copy of the head |
//!
//! The head starts with a line that contains the format, the head's length and the CRC-64/NVME of the rest of the head.
//! The description of the part file's bytes follows as JSON. One undamaged head is sufficient, so that damage in one
//! place does not make the marks useless.
//!
//! A *mark* is a line with a length of the part file and the CRC-64/NVME of that many bytes. Its `check` covers these
//! numbers, its position and the head's CRC, so that damaged marks and marks of other records are ignored.
//!
//! A line is JSON, padded with spaces to 128 bytes. Each checkpoint has a disk block of its own, so a torn write of one
//! leaves the other intact. Marks of the trail share blocks: each is written only once, and is only a fallback.
//!
//! The whole record is written at the start, without holes. A full disk can therefore not refuse a mark, except on a
//! copy-on-write file system.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use serde::{Deserialize, Serialize};

use super::claim::tolerate_unsynced;
use gantry_proto::chunk;

/// The only format that this build writes and reads.
const FORMAT: u32 = 3;

/// The block size of the common file systems.
const BLOCK_BYTES: usize = 4096;

/// The padded length of a line. Its three numbers have at most 20 digits each.
const LINE_BYTES: usize = 128;

const CHECKPOINTS: usize = 2;

/// The maximum number of marks in the trail. With 256 marks, damage costs at most 0.4 % of an object, and the trail
/// takes 32 KiB.
pub(super) const TRAIL_SLOTS: usize = 256;

/// A length of the part file, and the CRC-64/NVME of that many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub len: u64,
    pub crc: u64,
}

/// The valid marks of a record.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks {
    /// The length of the last checkpoint. This many bytes were on the disk.
    durable_len: u64,
    /// All valid marks, in ascending order of length.
    all: Vec<Mark>,
}

impl Marks {
    /// Returns all marks, including those of bytes that the kernel had accepted but not synced.
    pub(super) fn all(&self) -> &[Mark] {
        &self.all
    }

    /// Removes the marks that are longer than the download.
    pub(super) fn within(mut self, len: u64) -> Self {
        self.all.retain(|mark| mark.len <= len);
        self
    }

    /// Returns the marks of bytes that were on the disk.
    pub(super) fn durable(&self) -> &[Mark] {
        &self.all[..self.all.partition_point(|mark| mark.len <= self.durable_len)]
    }
}

/// The position of a mark in the record.
#[derive(Clone, Copy, Debug)]
enum Slot {
    Checkpoint(usize),
    Note,
    Trail(usize),
}

impl Slot {
    /// Returns the slot's distance from the end of the first head, in bytes.
    const fn offset(self) -> usize {
        match self {
            Self::Checkpoint(turn) => turn * BLOCK_BYTES,
            Self::Note => CHECKPOINTS * BLOCK_BYTES,
            Self::Trail(index) => (CHECKPOINTS + 1) * BLOCK_BYTES + index * LINE_BYTES,
        }
    }
}

/// The first line of a head. `crc` covers the rest of the head.
#[derive(Serialize, Deserialize)]
struct Opening {
    format: u32,
    head_bytes: usize,
    crc: u64,
}

/// A mark as it is written.
#[derive(Serialize, Deserialize)]
struct Line {
    len: u64,
    crc: u64,
    check: u64,
}

/// The values that identify a head, and thereby the record.
#[derive(Clone, Copy, Debug)]
struct Head {
    bytes: usize,
    crc: u64,
}

impl Head {
    fn check(self, slot: Slot, mark: Mark) -> u64 {
        let numbers = [self.crc, slot.offset() as u64, mark.len, mark.crc];
        chunk::crc(&numbers.map(u64::to_le_bytes).concat())
    }

    fn line(self, slot: Slot, mark: Mark) -> io::Result<Vec<u8>> {
        line(&Line { len: mark.len, crc: mark.crc, check: self.check(slot, mark) })
    }

    /// Returns the position of a slot in the record.
    fn offset(self, slot: Slot) -> usize {
        self.bytes + slot.offset()
    }

    /// Reads the mark in a slot of the record `text`. Returns `None` if the slot is empty or damaged.
    fn mark(self, text: &[u8], slot: Slot) -> Option<Mark> {
        let line = text.get(self.offset(slot)..)?.get(..LINE_BYTES)?;
        let line: Line = serde_json::from_slice(line).ok()?;
        let mark = Mark { len: line.len, crc: line.crc };
        (line.check == self.check(slot, mark)).then_some(mark)
    }
}

/// Formats a line.
fn line(content: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(content)?;
    text.resize(LINE_BYTES, b' ');
    Ok(text)
}

/// An open record, into which marks are written.
#[derive(Debug)]
pub(super) struct Record {
    file: File,
    head: Head,
    /// The slot of the next checkpoint.
    turn: usize,
}

impl Record {
    /// Writes a record to the empty `file`: the `description`, the `trail` with the slot of each mark, and `durable` as
    /// the mark of the last checkpoint.
    ///
    /// Syncs the record if it has a checkpoint.
    pub(super) fn write(
        file: File,
        description: Vec<u8>,
        trail: &[(usize, Mark)],
        durable: Option<Mark>,
    ) -> io::Result<Self> {
        let (mut text, head) = encode_head(description)?;
        let copy = text.clone();
        text.resize(head.offset(Slot::Trail(TRAIL_SLOTS)), b' ');
        for (index, mark) in trail {
            let slot = Slot::Trail(*index);
            text[head.offset(slot)..][..LINE_BYTES].copy_from_slice(&head.line(slot, *mark)?);
        }
        text.extend(copy);
        file.write_all_at(&text, 0)?;

        let mut record = Self { file, head, turn: 0 };
        if let Some(mark) = durable {
            record.checkpoint(mark)?;
        }
        Ok(record)
    }

    /// Writes the mark of bytes that are on the disk, and syncs it and all marks before it. If that fails, the previous
    /// checkpoint remains valid.
    pub(super) fn checkpoint(&mut self, mark: Mark) -> io::Result<()> {
        self.put(Slot::Checkpoint(self.turn), mark)?;
        tolerate_unsynced(self.file.sync_data())?;
        self.turn = (self.turn + 1) % CHECKPOINTS;
        Ok(())
    }

    /// Writes the mark of bytes that the kernel has accepted, in place of the last note.
    pub(super) fn note(&self, mark: Mark) -> io::Result<()> {
        self.put(Slot::Note, mark)
    }

    /// Writes the mark of bytes that the kernel has accepted, into the trail.
    pub(super) fn trail(&self, index: usize, mark: Mark) -> io::Result<()> {
        self.put(Slot::Trail(index), mark)
    }

    fn put(&self, slot: Slot, mark: Mark) -> io::Result<()> {
        self.file.write_all_at(&self.head.line(slot, mark)?, self.head.offset(slot) as u64)
    }

    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, ..*self })
    }

    /// Makes every further mark fail.
    #[cfg(test)]
    pub(super) fn break_for_test(&mut self, sidecar: &std::path::Path) {
        self.file = File::open(sidecar).expect("the sidecar exists");
    }
}

fn encode_head(description: Vec<u8>) -> io::Result<(Vec<u8>, Head)> {
    let bytes = (LINE_BYTES + description.len()).next_multiple_of(BLOCK_BYTES);
    let mut rest = description;
    rest.resize(bytes - LINE_BYTES, b' ');

    let head = Head { bytes, crc: chunk::crc(&rest) };
    let mut text = line(&Opening { format: FORMAT, head_bytes: bytes, crc: head.crc })?;
    text.extend(rest);
    Ok((text, head))
}

/// Reads a head at the start of `text`, and returns it with its description. Returns `None` if the head is missing or
/// damaged.
fn decode_head(text: &[u8]) -> Option<(Head, &[u8])> {
    let (opening, _) = text.split_at_checked(LINE_BYTES)?;
    let opening: Opening = serde_json::from_slice(opening).ok()?;
    let description = text.get(LINE_BYTES..opening.head_bytes)?;
    let is_valid = opening.format == FORMAT && opening.crc == chunk::crc(description);
    is_valid.then_some((Head { bytes: opening.head_bytes, crc: opening.crc }, description))
}

/// Reads a record. Returns its description and its readable marks.
///
/// The second head is searched for at the start of each block, because the first head, which states the length, may be
/// damaged.
pub(super) fn decode(text: &[u8]) -> Option<(&[u8], Marks)> {
    let (head, description) = (0..text.len()).step_by(BLOCK_BYTES).find_map(|at| decode_head(&text[at..]))?;
    let mark = |slot| head.mark(text, slot);

    let durable = (0..CHECKPOINTS).map(Slot::Checkpoint).filter_map(mark);
    let mut all: Vec<Mark> = durable.collect();
    let durable_len = all.iter().map(|mark| mark.len).max().unwrap_or(0);

    all.extend(mark(Slot::Note));
    all.extend((0..TRAIL_SLOTS).map(Slot::Trail).filter_map(mark));
    all.retain(|mark| mark.len > 0);
    all.sort_unstable_by_key(|mark| mark.len);
    all.dedup();
    Some((description, Marks { durable_len, all }))
}
