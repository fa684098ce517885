//! Chunks and their checksums.

use bytes::Bytes;

use super::error::Malformed;

/// The checksum of a chunk's payload: CRC-64/NVME.
#[must_use]
pub fn crc(payload: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, payload)
}

/// The polynomial of CRC-64/NVME, reflected: bit 63 stands for `x^0`. Source: the NVM Express NVM command set
/// specification, "64b CRC".
const POLYNOMIAL: u64 = 0x9a6c_9329_ac4b_c9b5;

/// `x^(8 * 2^i)` modulo the polynomial: the factor for the checksum of a byte string that is followed by `2^i` bytes.
const SHIFTS: [u64; 64] = {
    let mut shifts = [1 << 55; 64];
    let mut i = 1;
    while i < shifts.len() {
        shifts[i] = multiply(shifts[i - 1], shifts[i - 1]);
        i += 1;
    }
    shifts
};

/// Multiplies two reflected polynomials modulo the polynomial of CRC-64/NVME.
const fn multiply(one: u64, mut other: u64) -> u64 {
    let mut product = 0;
    let mut bit = 64;
    while bit > 0 {
        bit -= 1;
        // Masks instead of branches, because the bits are effectively random and branches would be mispredicted.
        product ^= other & ((one >> bit) & 1).wrapping_neg();
        other = (other >> 1) ^ (POLYNOMIAL & (other & 1).wrapping_neg());
    }
    product
}

/// Returns the checksum of two concatenated byte strings, given their checksums and the length of the second. Takes
/// about a microsecond, which is less than reading a chunk again.
#[must_use]
pub fn join_crcs(first: u64, second: u64, second_len: u64) -> u64 {
    let shifted = SHIFTS
        .iter()
        .enumerate()
        .filter(|(i, _)| (second_len >> i) & 1 == 1)
        .fold(first, |crc, (_, shift)| multiply(crc, *shift));
    shifted ^ second
}

/// A contiguous part of an object's bytes, sent as one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The chunk's sequence number within its transfer, starting at 0.
    pub seq: u64,
    /// The absolute offset of the first byte within the object.
    pub offset: u64,
    /// CRC-64/NVME of the payload, as the sender computed it.
    pub crc: u64,
    /// The payload; never empty.
    pub payload: Bytes,
}

impl Chunk {
    /// Creates a chunk and computes its checksum.
    #[must_use]
    pub fn new(seq: u64, offset: u64, payload: Bytes) -> Self {
        Self { seq, offset, crc: crc(&payload), payload }
    }

    /// Returns whether the payload matches the checksum.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        crc(&self.payload) == self.crc
    }

    /// Returns the absolute exclusive end offset, or `None` if it overflows.
    #[must_use]
    pub fn limit(&self) -> Option<u64> {
        u64::try_from(self.payload.len()).ok().and_then(|len| self.offset.checked_add(len))
    }
}

/// Formats a checksum as 16 lower-case hexadecimal digits.
pub(super) fn crc_to_text(crc: u64) -> String {
    format!("{crc:016x}")
}

/// Parses the format of [`crc_to_text`].
pub(super) fn crc_from_text(text: &str) -> Result<u64, Malformed> {
    let exact = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    exact.then(|| u64::from_str_radix(text, 16).ok()).flatten().ok_or_else(|| {
        Malformed::new(format!("checksum of {} bytes is not 16 lower-case hexadecimal digits", text.len()))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn joined_checksums_match_the_checksum_of_the_whole(
            first in prop::collection::vec(any::<u8>(), 0..5000),
            second in prop::collection::vec(any::<u8>(), 0..5000),
        ) {
            let whole = crc(&[&*first, &second].concat());
            prop_assert_eq!(join_crcs(crc(&first), crc(&second), second.len() as u64), whole);
        }

        /// Compares lengths that do not fit into memory with an independent implementation.
        #[test]
        fn any_length_may_follow(first: u64, second: u64, len: u64) {
            let theirs = crc_fast::checksum_combine(crc_fast::CrcAlgorithm::Crc64Nvme, first, second, len);
            prop_assert_eq!(join_crcs(first, second, len), theirs);
        }
    }
}
