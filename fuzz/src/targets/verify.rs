//! Stored checksums as a relay states them: checked or ignored, and never a proof of other bytes.

use arbitrary::{Arbitrary, Unstructured};

use crate::gantry::{Checksum, ChecksumAlgorithm, ChecksumKind, Chunk, PartRun, Verifier};
use crate::machine::Number;

#[derive(Arbitrary, Debug)]
struct Input {
    algorithm: u8,
    is_composite: bool,
    value: String,
    parts: Vec<(Number, Number)>,
    size: Option<Number>,
    bytes: Vec<Vec<u8>>,
    as_chunks: bool,
}

const ALGORITHMS: [ChecksumAlgorithm; 5] = [
    ChecksumAlgorithm::Crc64Nvme,
    ChecksumAlgorithm::Crc32c,
    ChecksumAlgorithm::Crc32,
    ChecksumAlgorithm::Sha256,
    ChecksumAlgorithm::Sha1,
];

pub(crate) fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let checksum = Checksum {
        algorithm: ALGORITHMS[usize::from(input.algorithm) % ALGORITHMS.len()],
        kind: if input.is_composite { ChecksumKind::Composite } else { ChecksumKind::FullObject },
        value: input.value.clone(),
        parts: input.parts.iter().map(|(count, size)| PartRun { count: count.0, size: size.0 }).collect(),
    };
    let len = input.bytes.iter().map(|bytes| bytes.len() as u64).sum::<u64>();
    let size = input.size.map_or(len, |size| size.0);
    let mut verifier = Verifier::new(Some(&checksum), size);
    let mut offset = 0;
    for bytes in &input.bytes {
        if input.as_chunks {
            verifier.update_chunk(&Chunk::new(0, offset, bytes.clone().into()));
        } else {
            verifier.update(bytes);
        }
        offset += bytes.len() as u64;
    }
    assert_eq!(verifier.seen(), len);
    let proved = verifier.clone().finish();
    assert!(size == len || proved.is_err(), "{len} bytes pass for {size}");
    // The result depends neither on how the bytes are cut nor on how they are added.
    let mut whole = Verifier::new(Some(&checksum), size);
    whole.update(&input.bytes.concat());
    assert_eq!(whole.finish(), proved);
}
