//! The digest of bytes that arrive in pieces.

use sha2::Digest as _;

use gantry_proto::ChecksumAlgorithm;
use gantry_proto::chunk::{self, join_crcs};

/// The digest of a sequence of bytes, or of the digests of its parts.
#[derive(Clone, Debug)]
pub(crate) enum Digest {
    Bytes(Hasher),
    /// The digest of the concatenated digests of the parts: S3's `COMPOSITE` checksum. Source: the S3 user guide,
    /// "Checking object integrity", "Full object and composite checksum types".
    Parts {
        /// Of no bytes.
        empty: Box<Hasher>,
        whole: Hasher,
        part: Hasher,
        /// The remaining bytes of the current part; `None` after the last part.
        left: Option<u64>,
        later: std::vec::IntoIter<u64>,
    },
}

impl Digest {
    pub(crate) fn parts(empty: Hasher, sizes: Vec<u64>) -> Self {
        let mut later = sizes.into_iter();
        let left = later.next();
        Self::Parts { whole: empty.clone(), part: empty.clone(), empty: Box::new(empty), left, later }
    }

    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        match self {
            Self::Bytes(hasher) => hasher.update(bytes),
            Self::Parts { empty, whole, part, left, later } => {
                while let Some(remaining) = *left {
                    let take = usize::try_from(remaining).unwrap_or(usize::MAX).min(bytes.len());
                    let (head, tail) = bytes.split_at(take);
                    part.update(head);
                    bytes = tail;

                    let remaining = remaining - take as u64;
                    if remaining > 0 {
                        *left = Some(remaining);
                        return;
                    }

                    let done = std::mem::replace(part, (**empty).clone());
                    whole.update(&done.finish());
                    *left = later.next();
                }
            }
        }
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        // Completes empty parts at the end.
        self.update(&[]);
        match self {
            Self::Bytes(hasher) => hasher.finish(),
            Self::Parts { whole, .. } => whole.finish(),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Hasher {
    /// The CRC of the bytes so far.
    Crc64Nvme(u64),
    Crc {
        digest: Box<crc_fast::Digest>,
        len: usize,
    },
    Sha1(sha1::Sha1),
    Sha256(sha2::Sha256),
    Sha512(Box<sha2::Sha512>),
    Md5(md5::Md5),
}

impl Hasher {
    /// Returns `None` for an algorithm that is not supported.
    pub(crate) fn new(algorithm: ChecksumAlgorithm) -> Option<Self> {
        let crc = |variant| Self::Crc { digest: Box::new(crc_fast::Digest::new(variant)), len: 4 };
        Some(match algorithm {
            ChecksumAlgorithm::Crc64Nvme => Self::Crc64Nvme(chunk::crc(&[])),
            ChecksumAlgorithm::Crc32 => crc(crc_fast::CrcAlgorithm::Crc32IsoHdlc),
            ChecksumAlgorithm::Crc32c => crc(crc_fast::CrcAlgorithm::Crc32Iscsi),
            ChecksumAlgorithm::Sha1 => Self::Sha1(sha1::Sha1::new()),
            ChecksumAlgorithm::Sha256 => Self::Sha256(sha2::Sha256::new()),
            ChecksumAlgorithm::Sha512 => Self::Sha512(Box::new(sha2::Sha512::new())),
            ChecksumAlgorithm::Md5 => Self::Md5(md5::Md5::new()),
            ChecksumAlgorithm::Xxhash64
            | ChecksumAlgorithm::Xxhash3
            | ChecksumAlgorithm::Xxhash128
            | ChecksumAlgorithm::Unknown => return None,
        })
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Crc64Nvme(crc) => *crc = join_crcs(*crc, chunk::crc(bytes), bytes.len() as u64),
            Self::Crc { digest, .. } => digest.update(bytes),
            Self::Sha1(digest) => digest.update(bytes),
            Self::Sha256(digest) => digest.update(bytes),
            Self::Sha512(digest) => digest.update(bytes),
            Self::Md5(digest) => digest.update(bytes),
        }
    }

    /// Returns the digest, most significant byte first.
    pub(crate) fn finish(self) -> Vec<u8> {
        match self {
            Self::Crc64Nvme(crc) => crc.to_be_bytes().to_vec(),
            Self::Crc { digest, len } => {
                let wide = digest.finalize().to_be_bytes();
                wide[wide.len() - len..].to_vec()
            }
            Self::Sha1(digest) => digest.finalize().to_vec(),
            Self::Sha256(digest) => digest.finalize().to_vec(),
            Self::Sha512(digest) => digest.finalize().to_vec(),
            Self::Md5(digest) => digest.finalize().to_vec(),
        }
    }
}
