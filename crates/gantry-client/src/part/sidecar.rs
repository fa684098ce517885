//! The record of what a part file's bytes are, kept beside it.
//!
//! # Layout
//! A *header* (JSON, padded with spaces to a multiple of [`BLOCK_BYTES`]) says which object, version and range the bytes
//! belong to. It is written once for each run, to a scratch file that is renamed into place. Three blocks follow, each
//! with room for one *mark*: a length of the part file and the CRC-64/NVME of that many bytes. Two hold the marks of
//! checkpoints in turn, so that one of them is whole whatever happens to the other. The third holds the mark of bytes
//! that were handed to the kernel but not synced; it counts only in the same run of the kernel.
//!
//! Marks are written in place, into blocks that exist from the start: a full disk can't refuse them, except on a
//! file system that copies on write.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::path::Names;
use super::trust::Ours;
use super::{Error, Wanted};
use gantry_proto::{ObjectInfo, StoreName, chunk};

/// The format that this build writes, and the only one that it reads.
const FORMAT: u32 = 2;

/// More than the largest sidecar: an object's description with a composite checksum of 10,000 runs takes less than
/// 1 MiB.
const SIDECAR_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// The block size of the common file systems. A mark has one to itself, so that a torn write reaches no other.
const BLOCK_BYTES: usize = 4096;

/// Where the mark of bytes that were not synced is kept; the slots before it are those of checkpoints.
const NOTE: usize = 2;

const SLOTS: usize = NOTE + 1;

/// What a mark is padded to: its three numbers take at most 20 digits each.
const MARK_BYTES: usize = 128;

/// What a part file's bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sidecar {
    format: u32,
    pub store: StoreName,
    pub object: ObjectInfo,
    start: u64,
    end: u64,
    /// The run of the kernel in which the bytes past the last checkpoint were written.
    pub boot: Option<String>,
}

/// A length of the part file, and the CRC-64/NVME of that many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub len: u64,
    pub crc: u64,
}

/// How a mark is written. `check` covers the numbers, the slot and the header.
#[derive(Serialize, Deserialize)]
struct Line {
    len: u64,
    crc: u64,
    check: u64,
}

/// What was read of a sidecar.
#[derive(Debug)]
pub(super) struct Found {
    pub sidecar: Sidecar,
    /// Of bytes that were on the disk, longest last.
    pub durable: Vec<Mark>,
    /// Of bytes that the kernel had taken.
    pub noted: Option<Mark>,
}

impl Sidecar {
    pub(super) const fn new(store: StoreName, object: ObjectInfo, range: &Range<u64>, boot: Option<String>) -> Self {
        Self { format: FORMAT, store, object, start: range.start, end: range.end, boot }
    }

    pub(super) const fn range(&self) -> Range<u64> {
        self.start..self.end
    }

    /// Returns whether these are bytes of what is wanted.
    pub(super) fn is_of(&self, wanted: &Wanted) -> bool {
        let pin = &wanted.pin;
        self.store == wanted.store
            && self.object.key == wanted.key
            && wanted.span.resolve(self.object.size) == Some(self.range())
            && pin.if_match.as_ref().is_none_or(|etag| *etag == self.object.etag)
            && (pin.version_id.is_none() || pin.version_id == self.object.version_id)
    }

    /// Returns whether `object` has the same bytes: its `ETag` and size are equal, and its checksum doesn't contradict.
    ///
    /// Checksums of another algorithm or kind can't be compared: the bytes are held against the one stated now. A
    /// checksum's parts are not compared: a relay names them when it can learn them in time.
    pub(super) fn is_same_version(&self, object: &ObjectInfo) -> bool {
        let contradicts =
            matches!((&self.object.checksum, &object.checksum), (Some(ours), Some(theirs)) if ours.contradicts(theirs));
        self.object.key == object.key
            && self.object.size == object.size
            && self.object.etag == object.etag
            && !contradicts
    }

    /// Reads the sidecar; `None` when it is missing, can be written by others, or is not one that this build wrote.
    ///
    /// # Errors
    /// [`Error::Untrusted`] or [`Error::NotAFile`] when it is not ours: then it is neither read nor replaced.
    pub(super) fn read(names: &Names, ours: &Ours) -> Result<Option<Found>, Error> {
        let Some(file) = ours.open(&names.sidecar, OpenOptions::new().read(true))? else { return Ok(None) };

        let mut text = Vec::new();
        let read = file.take(SIDECAR_MAX_BYTES).read_to_end(&mut text);

        Ok(read.ok().and_then(|_| parse(&text)))
    }

    /// Puts a sidecar in place, with `mark` as that of its checkpoint: after a crash there is the one before, or this.
    pub(super) fn place(&self, names: &Names, mark: Mark) -> Result<Record, Error> {
        self.replace(names, mark).map_err(|source| Error::io(&names.sidecar, source))
    }

    fn replace(&self, names: &Names, mark: Mark) -> io::Result<Record> {
        let mut header = serde_json::to_vec(self)?;
        header.resize(header.len().next_multiple_of(BLOCK_BYTES), b' ');
        let header_crc = chunk::crc(&header);

        remove(&names.scratch)?;
        // Created anew, so that a link which somebody put there is not followed.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&names.scratch)?;
        file.write_all(&header)?;
        // Written out rather than left as a hole: these blocks are what a full disk can't take away.
        file.write_all(&[b' '; SLOTS * BLOCK_BYTES])?;

        let mut record = Record { file, header_len: header.len() as u64, header_crc, turn: 0 };
        if mark.len > 0 {
            record.checkpoint(mark)?;
        }
        fs::rename(&names.scratch, &names.sidecar)?;
        Ok(record)
    }
}

/// A sidecar in place, to write marks into.
#[derive(Debug)]
pub(super) struct Record {
    file: File,
    header_len: u64,
    header_crc: u64,
    /// The slot of the next checkpoint.
    turn: usize,
}

impl Record {
    /// Makes a mark of bytes that are on the disk, and makes it durable. If that fails, the one before still holds.
    pub(super) fn checkpoint(&mut self, mark: Mark) -> io::Result<()> {
        self.write(self.turn, mark)?;
        self.file.sync_data()?;
        self.turn = (self.turn + 1) % NOTE;
        Ok(())
    }

    /// Makes a mark of bytes that the kernel has taken.
    pub(super) fn note(&self, mark: Mark) -> io::Result<()> {
        self.write(NOTE, mark)
    }

    fn write(&self, slot: usize, mark: Mark) -> io::Result<()> {
        let line = Line { len: mark.len, crc: mark.crc, check: check(self.header_crc, slot, mark) };
        let mut text = serde_json::to_vec(&line)?;
        text.resize(MARK_BYTES, b' ');
        self.file.write_all_at(&text, self.header_len + (slot * BLOCK_BYTES) as u64)
    }

    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, ..*self })
    }

    /// Makes every further mark fail.
    #[cfg(test)]
    pub(super) fn break_for_test(&mut self, sidecar: &Path) {
        self.file = File::open(sidecar).expect("it is in place");
    }
}

fn check(header_crc: u64, slot: usize, mark: Mark) -> u64 {
    let numbers = [header_crc, slot as u64, mark.len, mark.crc];
    chunk::crc(&numbers.map(u64::to_le_bytes).concat())
}

fn parse(text: &[u8]) -> Option<Found> {
    let (header, slots) = text.split_at_checked(text.len().checked_sub(SLOTS * BLOCK_BYTES)?)?;
    let sidecar: Sidecar = serde_json::from_slice(header).ok()?;
    let len = sidecar.end.checked_sub(sidecar.start)?;
    if sidecar.format != FORMAT || sidecar.end > sidecar.object.size {
        return None;
    }

    let header_crc = chunk::crc(header);
    let mark = |slot: usize| {
        let line = slots.get(slot * BLOCK_BYTES..)?.get(..MARK_BYTES)?;
        let line: Line = serde_json::from_slice(line).ok()?;
        let mark = Mark { len: line.len, crc: line.crc };
        (line.check == check(header_crc, slot, mark) && mark.len <= len).then_some(mark)
    };
    let mut durable: Vec<Mark> = (0..NOTE).filter_map(mark).collect();
    durable.sort_unstable_by_key(|mark| mark.len);
    Some(Found { sidecar, durable, noted: mark(NOTE) })
}

/// Removes a file that may be missing.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Identifies this run of the kernel; `None` where it has no identity.
///
/// Source: `random(4)`, `boot_id`.
pub(super) fn boot_id() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let id = id.trim();
    (!id.is_empty()).then(|| id.to_owned())
}
