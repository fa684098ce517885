//! The running checksums of a part file's bytes.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use super::record::Mark;
use crate::verify::{Mismatch, Proof, Verifier};
use gantry_proto::{Checksum, ObjectInfo, chunk};

/// The number of kept bytes to read at a time.
const READ_BYTES: usize = 1024 * 1024;

/// The checksums of the bytes in the part file.
#[derive(Clone)]
pub(super) struct Tally {
    verifier: Verifier,
    /// CRC-64/NVME, unless the verifier computes it for the object's checksum.
    crc: Option<u64>,
}

/// The result of reading kept bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Read,
    /// There are too few bytes, or they match no mark.
    Differs,
    /// The caller stopped the reading.
    Stopped,
}

impl Tally {
    pub(super) fn new(object: &ObjectInfo, range: &Range<u64>) -> Self {
        Self::of(object.stated_checksum(), range, object.size)
    }

    /// Creates an empty tally that checks `checksum` of an object of `size` bytes. Returns `None` if this tally already
    /// checks one, or if `checksum` can't be checked.
    pub(super) fn checked_instead(&self, checksum: &Checksum, range: &Range<u64>, size: u64) -> Option<Self> {
        let instead = Self::of(Some(checksum), range, size);
        (!self.is_checked() && instead.is_checked()).then_some(instead)
    }

    fn of(checksum: Option<&Checksum>, range: &Range<u64>, size: u64) -> Self {
        let checksum = checksum.filter(|_| *range == (0..size));
        let verifier = Verifier::new(checksum, range.end.saturating_sub(range.start));
        let crc = verifier.crc64nvme().is_none().then(|| chunk::crc(&[]));
        Self { verifier, crc }
    }

    pub(super) const fn len(&self) -> u64 {
        self.verifier.seen()
    }

    /// Returns the number of bytes so far, with their CRC-64/NVME.
    pub(super) fn mark(&self) -> Mark {
        Mark { len: self.len(), crc: self.crc64nvme() }
    }

    fn crc64nvme(&self) -> u64 {
        self.crc.or_else(|| self.verifier.crc64nvme()).expect("either the tally or the verifier computes the CRC")
    }

    /// Returns whether the bytes will be compared with a stored checksum.
    pub(super) const fn is_checked(&self) -> bool {
        self.verifier.is_checked()
    }

    /// Compares the bytes so far with the stored checksum.
    pub(super) fn prove(&self) -> Result<Proof, Mismatch> {
        self.verifier.clone().finish()
    }

    /// Adds bytes, whose CRC-64/NVME is `crc`.
    pub(super) fn update(&mut self, bytes: &[u8], crc: u64) {
        self.verifier.update_summed(bytes, crc);
        if let Some(so_far) = &mut self.crc {
            *so_far = chunk::join_crcs(*so_far, crc, bytes.len() as u64);
        }
    }

    /// Adds the next `len` bytes by their CRC-64/NVME alone. Returns false, and adds nothing, if the stored checksum needs
    /// the bytes themselves.
    pub(super) fn join(&mut self, len: u64, crc: u64) -> bool {
        if !self.verifier.join_summed(len, crc) {
            return false;
        }
        if let Some(so_far) = &mut self.crc {
            *so_far = chunk::join_crcs(*so_far, crc, len);
        }
        true
    }

    /// Adds the file's bytes up to the last of `marks` that they match, unless `stop` is set meanwhile.
    ///
    /// The marks are in ascending order of length. Bytes past the last match are not added, since nothing vouches for
    /// them. Without a match, nothing is added.
    pub(super) fn read(&mut self, file: &File, marks: &[Mark], stop: &AtomicBool) -> io::Result<Outcome> {
        let mut buffer = vec![0; READ_BYTES];
        let mut tally = self.clone();
        let mut last = None;
        for mark in marks {
            match tally.read_to(file, mark.len, &mut buffer, stop) {
                Ok(Outcome::Stopped) => return Ok(Outcome::Stopped),
                Ok(Outcome::Read) if tally.crc64nvme() == mark.crc => last = Some(tally.clone()),
                Ok(Outcome::Read | Outcome::Differs) => break,
                // The bytes before the failed read match their mark.
                Err(error) if last.is_some() => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "the part file's end can't be read");
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        let Some(last) = last else { return Ok(Outcome::Differs) };
        *self = last;
        Ok(Outcome::Read)
    }

    fn read_to(&mut self, mut file: &File, limit: u64, buffer: &mut [u8], stop: &AtomicBool) -> io::Result<Outcome> {
        file.seek(SeekFrom::Start(self.len()))?;
        while self.len() < limit {
            if stop.load(Ordering::Relaxed) {
                return Ok(Outcome::Stopped);
            }
            let room = usize::try_from(limit - self.len()).unwrap_or(usize::MAX).min(buffer.len());
            let count = match file.read(&mut buffer[..room]) {
                Ok(0) => return Ok(Outcome::Differs),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.update(&buffer[..count], chunk::crc(&buffer[..count]));
        }
        Ok(Outcome::Read)
    }
}

impl fmt::Debug for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tally").field("verifier", &self.verifier).finish_non_exhaustive()
    }
}
