//! Verifies that bytes match the checksum that the store keeps of their object.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use sha2::Digest as _;

use gantry_proto::chunk::{self, Chunk, join_crcs};
use gantry_proto::{Checksum, ChecksumAlgorithm, ChecksumKind, PartRun};

/// The maximum number of parts in a composite checksum: S3's own limit for a multipart upload. A checksum with more parts
/// is not checked, since each part costs memory.
const PARTS_MAX: u64 = 10_000;

/// How bytes were verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Proof {
    /// Against the checksum that the store keeps of the object's bytes.
    FullObject {
        /// Its algorithm.
        algorithm: ChecksumAlgorithm,
    },
    /// Against the checksum that the store keeps of the uploaded parts' checksums.
    Composite {
        /// Its algorithm.
        algorithm: ChecksumAlgorithm,
        /// The number of parts.
        parts: u64,
    },
    /// Against the `ETag`, which is the MD5 of the object's bytes.
    Etag {
        /// Its algorithm.
        algorithm: ChecksumAlgorithm,
    },
    /// Only by the CRC of each chunk and the number of bytes. The store keeps no checksum of exactly these bytes, or none
    /// that can be checked.
    Transport,
    /// Like [`Self::Transport`], although the store keeps a checksum. Its algorithm is not supported.
    Unverified {
        /// Its algorithm.
        algorithm: ChecksumAlgorithm,
    },
    /// Like [`Self::Transport`], although a checksum was stated. The checksum is invalid: its value is not a digest of
    /// its algorithm, or its parts do not add up to the object.
    InvalidChecksum {
        /// Its algorithm.
        algorithm: ChecksumAlgorithm,
    },
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FullObject { algorithm } => write!(f, "{} (full object)", algorithm.name()),
            Self::Composite { algorithm, parts: 1 } => write!(f, "{} (composite of 1 part)", algorithm.name()),
            Self::Composite { algorithm, parts } => write!(f, "{} (composite of {parts} parts)", algorithm.name()),
            Self::Etag { algorithm } => write!(f, "{} (ETag)", algorithm.name()),
            Self::Transport => f.write_str("transport only"),
            Self::Unverified { algorithm } => write!(f, "transport only: {} is not verified", algorithm.name()),
            Self::InvalidChecksum { algorithm } => {
                write!(f, "transport only: the stated {} is invalid", algorithm.name())
            }
        }
    }
}

/// Why bytes do not match their object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// The number of bytes is wrong.
    #[error("got {actual} bytes where {expected} were expected")]
    Length {
        /// The expected number.
        expected: u64,
        /// The number of bytes received.
        actual: u64,
    },
    /// The checksum of the bytes is wrong.
    #[error("{} of the bytes is {actual}, but {expected} in the store", algorithm.name())]
    Checksum {
        /// The algorithm.
        algorithm: ChecksumAlgorithm,
        /// The store's value, in base64.
        expected: String,
        /// The value of the bytes received, in base64.
        actual: String,
    },
}

impl Mismatch {
    /// Returns whether the same download may succeed later without any change, which is never the case. Every chunk was
    /// checked on arrival, so the object in the store does not match its own checksum, or a local disk or memory is
    /// faulty.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        false
    }
}

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
        match &mut self.check {
            Some(Check { digest: Digest::Bytes(Hasher::Crc64Nvme(so_far)), .. }) => {
                *so_far = join_crcs(*so_far, crc, bytes.len() as u64);
                self.seen = self.seen.saturating_add(bytes.len() as u64);
            }
            _ => self.update(bytes),
        }
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

/// The digest of a sequence of bytes, or of the digests of its parts.
#[derive(Clone, Debug)]
enum Digest {
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
    fn parts(empty: Hasher, sizes: Vec<u64>) -> Self {
        let mut later = sizes.into_iter();
        let left = later.next();
        Self::Parts { whole: empty.clone(), part: empty.clone(), empty: Box::new(empty), left, later }
    }

    fn update(&mut self, mut bytes: &[u8]) {
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

    fn finish(mut self) -> Vec<u8> {
        // Completes empty parts at the end.
        self.update(&[]);
        match self {
            Self::Bytes(hasher) => hasher.finish(),
            Self::Parts { whole, .. } => whole.finish(),
        }
    }
}

#[derive(Clone, Debug)]
enum Hasher {
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
    fn new(algorithm: ChecksumAlgorithm) -> Option<Self> {
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

    fn update(&mut self, bytes: &[u8]) {
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
    fn finish(self) -> Vec<u8> {
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    const ALL: [ChecksumAlgorithm; 7] = [
        ChecksumAlgorithm::Crc64Nvme,
        ChecksumAlgorithm::Crc32,
        ChecksumAlgorithm::Crc32c,
        ChecksumAlgorithm::Sha1,
        ChecksumAlgorithm::Sha256,
        ChecksumAlgorithm::Sha512,
        ChecksumAlgorithm::Md5,
    ];

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn digest(algorithm: ChecksumAlgorithm, bytes: &[u8]) -> Vec<u8> {
        let mut hasher = Hasher::new(algorithm).unwrap();
        hasher.update(bytes);
        hasher.finish()
    }

    fn full(algorithm: ChecksumAlgorithm, bytes: &[u8]) -> Checksum {
        let value = STANDARD.encode(digest(algorithm, bytes));
        Checksum { algorithm, kind: ChecksumKind::FullObject, value, parts: Vec::new() }
    }

    fn composite(algorithm: ChecksumAlgorithm, parts: &[&[u8]]) -> Checksum {
        let digests: Vec<u8> = parts.iter().flat_map(|part| digest(algorithm, part)).collect();
        Checksum {
            algorithm,
            kind: ChecksumKind::Composite,
            value: STANDARD.encode(digest(algorithm, &digests)),
            parts: parts.iter().map(|part| PartRun { count: 1, size: part.len() as u64 }).collect(),
        }
    }

    /// Verifies the pieces both as bytes and as chunks.
    fn verify(checksum: Option<&Checksum>, size: u64, pieces: &[&[u8]]) -> Result<Proof, Mismatch> {
        let mut by_bytes = Verifier::new(checksum, size);
        let mut by_chunks = by_bytes.clone();
        for piece in pieces {
            by_bytes.update(piece);
            by_chunks.update_chunk(&Chunk::new(0, 0, Bytes::copy_from_slice(piece)));
        }
        let proof = by_bytes.finish();
        assert_eq!(by_chunks.finish(), proof);
        proof
    }

    /// CRCs: the check values in the catalogue of parametrised CRC algorithms (reveng). SHA: FIPS 180's "abc". MD5: RFC
    /// 1321's.
    #[test]
    fn computes_published_check_values() {
        use ChecksumAlgorithm::{Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256, Sha512};
        assert_eq!(hex(&digest(Crc64Nvme, b"123456789")), "ae8b14860a799888");
        assert_eq!(hex(&digest(Crc32, b"123456789")), "cbf43926");
        assert_eq!(hex(&digest(Crc32c, b"123456789")), "e3069283");
        assert_eq!(hex(&digest(Sha1, b"abc")), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(hex(&digest(Sha256, b"abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(
            hex(&digest(Sha512, b"abc")),
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
             2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
        );
        assert_eq!(hex(&digest(Md5, b"abc")), "900150983cd24fb0d6963f7d28e17f72");
    }

    #[test]
    fn verifies_empty_object() {
        for algorithm in ALL {
            assert_eq!(verify(Some(&full(algorithm, b"")), 0, &[]), Ok(Proof::FullObject { algorithm }));
            let one = composite(algorithm, &[b""]);
            assert_eq!(verify(Some(&one), 0, &[]), Ok(Proof::Composite { algorithm, parts: 1 }));
        }
        assert_eq!(verify(None, 0, &[]), Ok(Proof::Transport));
    }

    #[test]
    fn rejects_flipped_bit() {
        for algorithm in ALL {
            for checksum in [full(algorithm, b"abcd"), composite(algorithm, &[b"ab", b"cd"])] {
                let Err(Mismatch::Checksum { algorithm: named, expected, actual }) =
                    verify(Some(&checksum), 4, &[b"abce"])
                else {
                    panic!("{checksum:?} accepts other bytes");
                };
                assert_eq!((named, &expected), (algorithm, &checksum.value));
                assert_ne!(expected, actual);
            }
        }
    }

    #[test]
    fn rejects_wrong_number_of_bytes_with_and_without_checksum() {
        let full = full(ChecksumAlgorithm::Crc32, b"abcd");
        let composite = composite(ChecksumAlgorithm::Crc32, &[b"abcd"]);
        for checksum in [None, Some(&full), Some(&composite)] {
            assert_eq!(verify(checksum, 4, &[b"abc"]), Err(Mismatch::Length { expected: 4, actual: 3 }));
            assert_eq!(verify(checksum, 4, &[b"abcd", b"e"]), Err(Mismatch::Length { expected: 4, actual: 5 }));
        }
    }

    #[test]
    fn composite_without_parts_proves_transport_only() {
        let checksum = Checksum { parts: Vec::new(), ..composite(ChecksumAlgorithm::Sha256, &[b"ab", b"cd"]) };
        assert_eq!(verify(Some(&checksum), 4, &[b"abcd"]), Ok(Proof::Transport));
    }

    #[test]
    fn composite_with_parts_that_do_not_add_up_is_reported() {
        let run = |count, size| PartRun { count, size };
        let algorithm = ChecksumAlgorithm::Sha256;
        for parts in [
            vec![run(0, 4)],
            vec![run(1, 3)],
            vec![run(3, 2)],
            vec![run(u64::MAX, 0), run(1, 4)],
            vec![run(u64::MAX, 2)],
            vec![run(1, u64::MAX), run(1, 5)],
        ] {
            let checksum = Checksum { parts, ..composite(algorithm, &[b"ab", b"cd"]) };
            let proof = verify(Some(&checksum), 4, &[b"abcd"]);
            assert_eq!(proof, Ok(Proof::InvalidChecksum { algorithm }), "{:?}", checksum.parts);
        }
    }

    #[test]
    fn a_value_that_is_not_a_digest_of_its_algorithm_is_reported() {
        let algorithm = ChecksumAlgorithm::Crc32;
        for value in ["", "!", "AAAA", "AAAAAA==-2"] {
            let checksum = Checksum { value: value.to_owned(), ..full(algorithm, b"abcd") };
            assert_eq!(verify(Some(&checksum), 4, &[b"abcd"]), Ok(Proof::InvalidChecksum { algorithm }), "{value:?}");
        }
    }

    #[test]
    fn an_etag_proves_something_only_if_it_matches() {
        let algorithm = ChecksumAlgorithm::Md5;
        let etag = |bytes| Checksum { kind: ChecksumKind::Etag, ..full(algorithm, bytes) };
        assert_eq!(verify(Some(&etag(b"abcd")), 4, &[b"ab", b"cd"]), Ok(Proof::Etag { algorithm }));
        assert_eq!(verify(Some(&etag(b"abce")), 4, &[b"abcd"]), Ok(Proof::Transport));
    }

    #[test]
    fn an_algorithm_that_is_not_supported_is_named() {
        use ChecksumAlgorithm::{Unknown, Xxhash3, Xxhash64, Xxhash128};
        for algorithm in [Xxhash64, Xxhash3, Xxhash128, Unknown] {
            for kind in [ChecksumKind::FullObject, ChecksumKind::Composite, ChecksumKind::Etag] {
                let checksum = Checksum { algorithm, kind, ..full(ChecksumAlgorithm::Md5, b"abcd") };
                assert_eq!(verify(Some(&checksum), 4, &[b"abcd"]), Ok(Proof::Unverified { algorithm }));
            }
        }
    }

    #[test]
    fn runs_of_parts_equal_single_parts() {
        let single = composite(ChecksumAlgorithm::Crc32c, &[b"ab", b"cd", b"e"]);
        let runs = vec![PartRun { count: 2, size: 2 }, PartRun { count: 1, size: 1 }];
        let checksum = Checksum { parts: runs, ..single };
        let proof = Proof::Composite { algorithm: ChecksumAlgorithm::Crc32c, parts: 3 };
        assert_eq!(verify(Some(&checksum), 5, &[b"abcde"]), Ok(proof));
    }

    #[test]
    fn proof_has_stable_text_and_json() {
        let algorithm = ChecksumAlgorithm::Sha256;
        for (proof, text, json) in [
            (Proof::FullObject { algorithm }, "SHA256 (full object)", r#"{"kind":"full_object","algorithm":"sha256"}"#),
            (
                Proof::Composite { algorithm, parts: 12 },
                "SHA256 (composite of 12 parts)",
                r#"{"kind":"composite","algorithm":"sha256","parts":12}"#,
            ),
            (Proof::Transport, "transport only", r#"{"kind":"transport"}"#),
            (Proof::Etag { algorithm: ChecksumAlgorithm::Md5 }, "MD5 (ETag)", r#"{"kind":"etag","algorithm":"md5"}"#),
            (
                Proof::Unverified { algorithm: ChecksumAlgorithm::Xxhash3 },
                "transport only: XXHASH3 is not verified",
                r#"{"kind":"unverified","algorithm":"xxhash3"}"#,
            ),
            (
                Proof::InvalidChecksum { algorithm },
                "transport only: the stated SHA256 is invalid",
                r#"{"kind":"invalid_checksum","algorithm":"sha256"}"#,
            ),
        ] {
            assert_eq!(proof.to_string(), text);
            assert_eq!(serde_json::to_string(&proof).unwrap(), json);
        }
    }

    fn cut<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        at.extend([0, bytes.len()]);
        at.sort_unstable();
        at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
    }

    proptest! {
        #[test]
        fn result_is_independent_of_how_bytes_are_cut(
            bytes in prop::collection::vec(any::<u8>(), 0..4096),
            parts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
            pieces in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
            algorithm in prop::sample::select(&ALL),
        ) {
            let size = bytes.len() as u64;
            let pieces = cut(&bytes, &pieces);
            let whole = full(algorithm, &bytes);
            prop_assert_eq!(verify(Some(&whole), size, &pieces), Ok(Proof::FullObject { algorithm }));
            let parts = cut(&bytes, &parts);
            let proof = Proof::Composite { algorithm, parts: parts.len() as u64 };
            prop_assert_eq!(verify(Some(&composite(algorithm, &parts)), size, &pieces), Ok(proof));
        }
    }
}
