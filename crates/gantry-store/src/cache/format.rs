//! The content of a file in a cache folder.
//!
//! | bytes | content |
//! |---|---|
//! | 8 | `GANTRYBK` |
//! | 4 | format version, little-endian like all numbers |
//! | 4 | length of the description |
//! | 8 | block number |
//! | 8 | length of the payload |
//! | 8 | CRC-64/NVME of all other bytes of the file, in order |
//! | … | the description: JSON of the store's name and the object |
//! | … | the payload |

use std::io;
use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use gantry_proto::ObjectInfo;
use gantry_proto::chunk::{crc, join_crcs};

/// Size of a block, in bytes. Smaller ones cost more files, larger ones more memory while they are collected.
pub(super) const BLOCK_BYTES: u64 = 1 << 20;

/// Version of the format. Files of another version are not read.
pub(super) const FORMAT: u32 = 1;

/// Number of bytes before the description.
pub(super) const HEAD_BYTES: usize = 40;

/// Number of bytes before the payload, of most files.
pub(super) const HEAD_USUAL_BYTES: u64 = 1024;

/// Longest description, in bytes. An object's metadata has at most 64 KiB, and up to 10,000 runs of parts follow.
pub(super) const DESCRIPTION_MAX_BYTES: usize = 1 << 20;

const MAGIC: &[u8; 8] = b"GANTRYBK";
const CRC_AT: Range<usize> = 32..40;

/// What a file is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct About {
    /// The store's name.
    pub(super) store: String,
    /// The object's version.
    pub(super) object: ObjectInfo,
}

/// A file's head and description.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) about: About,
    pub(super) number: u64,
    pub(super) payload_len: u64,
    /// Where the payload starts.
    pub(super) payload_at: usize,
}

/// Why a file can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Damage {
    #[error("it is truncated, or longer than it should be")]
    Length,
    #[error("it is no file of a cache, or of another version")]
    Foreign,
    #[error("its checksum is wrong")]
    Checksum,
    #[error("it belongs to another object or position")]
    Misplaced,
    #[error("it can't be read: {0}")]
    Unreadable(io::ErrorKind),
}

/// Returns everything before the payload.
pub(super) fn head(about: &About, number: u64, payload: &[Bytes]) -> Vec<u8> {
    let description = serde_json::to_vec(about).unwrap_or_default();
    let payload_len: u64 = payload.iter().map(|piece| piece.len() as u64).sum();

    let mut head = Vec::with_capacity(HEAD_BYTES + description.len());
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&FORMAT.to_le_bytes());
    head.extend_from_slice(&u32::try_from(description.len()).unwrap_or(u32::MAX).to_le_bytes());
    head.extend_from_slice(&number.to_le_bytes());
    head.extend_from_slice(&payload_len.to_le_bytes());

    let mut sum = join_crcs(crc(&head), crc(&description), description.len() as u64);
    for piece in payload {
        sum = join_crcs(sum, crc(piece), piece.len() as u64);
    }

    head.extend_from_slice(&sum.to_le_bytes());
    head.extend_from_slice(&description);
    head
}

/// Returns the length of the description that follows a head.
///
/// # Errors
/// If it is no head of this version.
pub(super) fn description_len(head: &[u8; HEAD_BYTES]) -> Result<usize, Damage> {
    if &head[..8] != MAGIC || number_at::<4>(head, 8) != Some(u64::from(FORMAT)) {
        return Err(Damage::Foreign);
    }
    let len = number_at::<4>(head, 12).and_then(|len| usize::try_from(len).ok()).ok_or(Damage::Foreign)?;
    if len > DESCRIPTION_MAX_BYTES { Err(Damage::Foreign) } else { Ok(len) }
}

/// Reads the head and the description. The checksum is not compared.
///
/// # Errors
/// If the bytes are too short or no head of this version.
pub(super) fn parse(bytes: &[u8]) -> Result<Head, Damage> {
    let head = bytes.first_chunk::<HEAD_BYTES>().ok_or(Damage::Length)?;
    let payload_at = HEAD_BYTES + description_len(head)?;
    let description = bytes.get(HEAD_BYTES..payload_at).ok_or(Damage::Length)?;

    let about = serde_json::from_slice(description).map_err(|_| Damage::Foreign)?;
    let number = number_at::<8>(head, 16).ok_or(Damage::Foreign)?;
    let payload_len = number_at::<8>(head, 24).ok_or(Damage::Foreign)?;
    Ok(Head { about, number, payload_len, payload_at })
}

/// Checks a whole file, whose head and description are in the first of its parts.
///
/// # Errors
/// If any byte of it is not as it was written.
pub(super) fn check(parts: &[Bytes]) -> Result<Head, Damage> {
    // Before anything else is read from it.
    let first = parts.first().ok_or(Damage::Length)?;
    let head = first.first_chunk::<HEAD_BYTES>().ok_or(Damage::Length)?;
    description_len(head)?;
    let rest = first.slice(HEAD_BYTES..);
    let rest = std::iter::once(&rest).chain(&parts[1..]);
    let sum = rest.fold(crc(&head[..CRC_AT.start]), |sum, part| join_crcs(sum, crc(part), part.len() as u64));
    if number_at::<8>(head, CRC_AT.start) != Some(sum) {
        return Err(Damage::Checksum);
    }

    let head = parse(first)?;
    let len: usize = parts.iter().map(Bytes::len).sum();
    if (len - head.payload_at) as u64 == head.payload_len { Ok(head) } else { Err(Damage::Length) }
}

/// Returns the length of a block's payload.
pub(super) fn payload_len(size: u64, number: u64) -> u64 {
    size.saturating_sub(number.saturating_mul(BLOCK_BYTES)).min(BLOCK_BYTES)
}

/// Reads a little-endian number of `N` bytes.
fn number_at<const N: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let mut wide = [0; 8];
    wide[..N].copy_from_slice(bytes.get(at..at + N)?);
    Some(u64::from_le_bytes(wide))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Vec<u8> {
        let object = ObjectInfo::new("k".parse().unwrap(), BLOCK_BYTES + 7, "\"e\"".to_owned());
        let about = About { store: "s".to_owned(), object };
        let payload = [Bytes::from_static(b"abc"), Bytes::from_static(b"defg")];
        [head(&about, 1, &payload), payload.concat()].concat()
    }

    /// Splits a file before its last bytes.
    fn parts(file: &[u8]) -> [Bytes; 2] {
        let (first, last) = file.split_at(file.len().saturating_sub(3));
        [first, last].map(Bytes::copy_from_slice)
    }

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let file = file();
        let head = check(&parts(&file)).unwrap();
        check(&[Bytes::copy_from_slice(&file)]).unwrap();

        assert_eq!((head.about.store.as_str(), head.number, head.payload_len), ("s", 1, 7));
        assert_eq!(&file[head.payload_at..], b"abcdefg");
        assert_eq!(payload_len(head.about.object.size, 1), 7);
        assert_eq!([payload_len(5, 0), payload_len(5, 1), payload_len(BLOCK_BYTES, 0)], [5, 0, BLOCK_BYTES]);
    }

    #[test]
    fn any_damaged_bit_and_any_other_length_is_detected() {
        let file = file();
        for bit in 0..file.len() * 8 {
            let mut damaged = file.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            check(&parts(&damaged)).unwrap_err();
        }
        for len in 0..file.len() {
            check(&parts(&file[..len])).unwrap_err();
        }
        check(&parts(&[&file[..], b"x"].concat())).unwrap_err();
        check(&parts(&vec![0; file.len()])).unwrap_err();
        check(&[]).unwrap_err();
    }
}
