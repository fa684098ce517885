//! The running checksums of a part file's bytes.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use super::sidecar::Sidecar;
use crate::verify::{Mismatch, Proof, Verifier};
use gantry_proto::{ObjectInfo, chunk};

/// What one read of kept bytes takes.
const READ_BYTES: usize = 1024 * 1024;

/// What is known of the bytes in the part file.
pub(super) struct Tally {
    verifier: Verifier,
    /// CRC-64/NVME.
    crc: u64,
}

/// How reading kept bytes ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Read,
    /// They are too few, or not the ones that the sidecar knows.
    Differs,
    /// Somebody wanted it to stop.
    Stopped,
}

impl Tally {
    pub(super) fn new(object: &ObjectInfo, range: &Range<u64>) -> Self {
        let is_whole = *range == (0..object.size);
        let checksum = object.checksum.as_ref().filter(|_| is_whole);
        Self { verifier: Verifier::new(checksum, range.end.saturating_sub(range.start)), crc: chunk::crc(&[]) }
    }

    pub(super) const fn len(&self) -> u64 {
        self.verifier.seen()
    }

    /// Returns the CRC-64/NVME of the bytes so far.
    pub(super) const fn crc(&self) -> u64 {
        self.crc
    }

    /// Compares the bytes so far with what the store keeps.
    pub(super) fn prove(&self) -> Result<Proof, Mismatch> {
        self.verifier.clone().finish()
    }

    /// Takes bytes and their CRC-64/NVME.
    pub(super) fn update(&mut self, bytes: &[u8], crc: u64) {
        self.verifier.update_summed(bytes, crc);
        self.crc = chunk::join_crcs(self.crc, crc, bytes.len() as u64);
    }

    /// Takes the file's first `limit` bytes, unless `stop` is set meanwhile.
    pub(super) fn read(
        &mut self,
        mut file: &File,
        sidecar: &Sidecar,
        limit: u64,
        stop: &AtomicBool,
    ) -> io::Result<Outcome> {
        file.seek(SeekFrom::Start(0))?;
        let mut buffer = vec![0; READ_BYTES];
        while self.len() < limit {
            if stop.load(Ordering::Relaxed) {
                return Ok(Outcome::Stopped);
            }
            // Ends at the checkpoint, to compare there.
            let end = if self.len() < sidecar.durable { sidecar.durable } else { limit };
            let room = usize::try_from(end - self.len()).unwrap_or(usize::MAX).min(buffer.len());
            let count = match file.read(&mut buffer[..room]) {
                Ok(0) => return Ok(Outcome::Differs),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.update(&buffer[..count], chunk::crc(&buffer[..count]));
            if self.len() == sidecar.durable && self.crc != sidecar.durable_crc {
                return Ok(Outcome::Differs);
            }
        }
        Ok(Outcome::Read)
    }
}

impl fmt::Debug for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tally").field("verifier", &self.verifier).finish_non_exhaustive()
    }
}
