//! Verifies that bytes match the checksum that the store keeps of their object.

mod digest;
mod proof;
#[cfg(test)]
mod tests;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use gantry_proto::chunk::{Chunk, join_crcs};
use gantry_proto::{Checksum, ChecksumAlgorithm, ChecksumKind, PartRun};

use digest::{Digest, Hasher};
pub use proof::{Mismatch, Proof};

/// The maximum number of parts in a composite checksum: S3's own limit for a multipart upload. A checksum with more parts
/// is not checked, since each part costs memory.
const PARTS_MAX: u64 = 10_000;

/// Computes the checksum of bytes as they arrive, and compares it with the one that the store keeps.
///
/// An `ETag` verifies the bytes only if it is their MD5: [`Proof::Etag`]. Otherwise it may be no MD5, and the result is
/// [`Proof::Transport`].
///
/// A composite checksum is verified if its part sizes are known. Otherwise the result is [`Proof::Transport`]. An
/// invalid checksum is reported as [`Proof::InvalidChecksum`]. It does not fail a download, since the relay could as
/// well state no checksum.
#[derive(Clone, Debug)]
pub struct Verifier {
    size: u64,
    seen: u64,
    check: Option<Check>,
    /// The result if there is no checksum to compare.
    otherwise: Proof,
}

impl Verifier {
    /// Expects `size` bytes with this checksum.
    ///
    /// For a range of an object, pass `None`: the store's checksum covers the whole object.
    #[must_use]
    pub fn new(checksum: Option<&Checksum>, size: u64) -> Self {
        let (check, otherwise) = match checksum.map(|checksum| Check::new(checksum, size)) {
            None => (None, Proof::Transport),
            Some(Ok(check)) => (check, Proof::Transport),
            Some(Err(invalid)) => (None, invalid),
        };
        Self { size, seen: 0, check, otherwise }
    }

    /// Adds the next bytes, in order.
    pub fn update(&mut self, bytes: &[u8]) {
        self.seen = self.seen.saturating_add(bytes.len() as u64);
        if let Some(check) = &mut self.check {
            check.digest.update(bytes);
        }
    }

    /// Adds the next bytes as a chunk with a valid CRC. If the stored checksum is of the same kind, the CRCs are combined
    /// and the bytes are not read again.
    pub fn update_chunk(&mut self, chunk: &Chunk) {
        self.update_summed(&chunk.payload, chunk.crc);
    }

    /// Adds the next bytes, with their CRC-64/NVME.
    pub fn update_summed(&mut self, bytes: &[u8], crc: u64) {
        if !self.join_summed(bytes.len() as u64, crc) {
            self.update(bytes);
        }
    }

    /// Adds the next `len` bytes by their CRC-64/NVME alone. Returns false, and adds nothing, if the stored checksum is of
    /// another kind and needs the bytes themselves.
    #[must_use]
    pub fn join_summed(&mut self, len: u64, crc: u64) -> bool {
        match &mut self.check {
            None => {}
            Some(Check { digest: Digest::Bytes(Hasher::Crc64Nvme(so_far)), .. }) => {
                *so_far = join_crcs(*so_far, crc, len);
            }
            Some(_) => return false,
        }
        self.seen = self.seen.saturating_add(len);
        true
    }

    /// Returns the CRC-64/NVME of the bytes so far, if it is computed for the stored checksum.
    #[must_use]
    pub const fn crc64nvme(&self) -> Option<u64> {
        match &self.check {
            Some(Check { digest: Digest::Bytes(Hasher::Crc64Nvme(so_far)), .. }) => Some(*so_far),
            _ => None,
        }
    }

    /// Returns the number of bytes added.
    #[must_use]
    pub const fn seen(&self) -> u64 {
        self.seen
    }

    /// Returns whether there is a stored checksum that can be checked.
    #[must_use]
    pub const fn is_checked(&self) -> bool {
        self.check.is_some()
    }

    /// Returns how the bytes will have been verified if [`Self::finish`] succeeds. Instead of [`Proof::Etag`], that may
    /// return [`Proof::Transport`].
    #[must_use]
    pub fn expected(&self) -> Proof {
        self.check.as_ref().map_or(self.otherwise, |check| check.proof)
    }

    /// Compares the number and the checksum of the bytes, and returns how they were verified.
    ///
    /// # Errors
    /// [`Mismatch`] if either differs. Not retryable.
    pub fn finish(self) -> Result<Proof, Mismatch> {
        if self.seen != self.size {
            return Err(Mismatch::Length { expected: self.size, actual: self.seen });
        }
        self.check.map_or(Ok(self.otherwise), Check::finish)
    }
}

/// A stored checksum that can be checked.
#[derive(Clone, Debug)]
struct Check {
    proof: Proof,
    algorithm: ChecksumAlgorithm,
    expected: Vec<u8>,
    digest: Digest,
}

impl Check {
    /// Returns `None` for a composite checksum of unknown parts.
    ///
    /// # Errors
    /// [`Proof::InvalidChecksum`], [`Proof::Unverified`].
    fn new(checksum: &Checksum, size: u64) -> Result<Option<Self>, Proof> {
        let algorithm = checksum.algorithm;
        let invalid = Proof::InvalidChecksum { algorithm };
        let hasher = Hasher::new(algorithm).ok_or(Proof::Unverified { algorithm })?;
        let expected = decode(checksum, &hasher).ok_or(invalid)?;
        let (proof, digest) = match checksum.kind {
            ChecksumKind::FullObject => (Proof::FullObject { algorithm }, Digest::Bytes(hasher)),
            ChecksumKind::Etag => (Proof::Etag { algorithm }, Digest::Bytes(hasher)),
            ChecksumKind::Composite => {
                if checksum.parts.is_empty() {
                    return Ok(None);
                }
                let sizes = part_sizes(&checksum.parts, size).ok_or(invalid)?;
                (Proof::Composite { algorithm, parts: sizes.len() as u64 }, Digest::parts(hasher, sizes))
            }
        };
        Ok(Some(Self { proof, algorithm, expected, digest }))
    }

    fn finish(self) -> Result<Proof, Mismatch> {
        let actual = self.digest.finish();
        if actual != self.expected {
            if matches!(self.proof, Proof::Etag { .. }) {
                return Ok(Proof::Transport);
            }
            return Err(Mismatch::Checksum {
                algorithm: self.algorithm,
                expected: STANDARD.encode(self.expected),
                actual: STANDARD.encode(actual),
            });
        }
        Ok(self.proof)
    }
}

fn decode(checksum: &Checksum, hasher: &Hasher) -> Option<Vec<u8>> {
    let len = hasher.clone().finish().len();
    STANDARD.decode(&checksum.value).ok().filter(|value| value.len() == len)
}

/// Returns the size of each part, or `None` if the parts are unknown, too many, or do not add up to `size` bytes.
fn part_sizes(runs: &[PartRun], size: u64) -> Option<Vec<u64>> {
    let mut count = 0_u64;
    let mut sum = 0_u64;
    for run in runs {
        count = count.checked_add(run.count)?;
        sum = sum.checked_add(run.count.checked_mul(run.size)?)?;
    }

    if count == 0 || count > PARTS_MAX || sum != size {
        return None;
    }
    Some(runs.iter().flat_map(|run| (0..run.count).map(|_| run.size)).collect())
}
