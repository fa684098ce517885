//! The verifier with all algorithms, kinds and ways to split the bytes.

use bytes::Bytes;
use proptest::prelude::*;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

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
            let Err(Mismatch::Checksum { algorithm: named, expected, actual }) = verify(Some(&checksum), 4, &[b"abce"])
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
