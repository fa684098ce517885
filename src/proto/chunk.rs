//! What stands beside a chunk's bytes.

use bytes::Bytes;

use super::message::Malformed;

/// The checksum of a chunk's payload: CRC-64/NVME.
#[must_use]
pub fn crc(payload: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, payload)
}

/// One message's worth of an object's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The chunk's position in its transfer: 0, 1, 2 and so on.
    pub seq: u64,
    /// The absolute offset of the first byte in the object.
    pub offset: u64,
    /// CRC-64/NVME of the payload, as the sender computed it.
    pub crc: u64,
    /// The bytes. Never empty.
    pub payload: Bytes,
}

impl Chunk {
    /// Makes a chunk, computing its checksum.
    #[must_use]
    pub fn new(seq: u64, offset: u64, payload: Bytes) -> Self {
        Self { seq, offset, crc: crc(&payload), payload }
    }

    /// Returns whether the payload is what the sender computed the checksum of.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        crc(&self.payload) == self.crc
    }

    /// Returns the absolute exclusive end, or `None` when it does not fit.
    #[must_use]
    pub fn limit(&self) -> Option<u64> {
        u64::try_from(self.payload.len()).ok().and_then(|len| self.offset.checked_add(len))
    }
}

/// Writes a checksum as 16 lower-case hexadecimal digits.
pub(super) fn crc_to_text(crc: u64) -> String {
    format!("{crc:016x}")
}

/// Reads what [`crc_to_text`] writes.
pub(super) fn crc_from_text(text: &str) -> Result<u64, Malformed> {
    let exact = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    exact
        .then(|| u64::from_str_radix(text, 16).ok())
        .flatten()
        .ok_or_else(|| Malformed(format!("checksum {text:?} is not 16 lower-case hexadecimal digits")))
}
