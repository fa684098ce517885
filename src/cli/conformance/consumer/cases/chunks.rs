//! Chunks that are lost, repeated, reordered, damaged or forged.

use gantry_proto::message;

use super::super::case::{CORRECT, Case, Check, Expect, Level, Step, as_is};

const ORDER: &str = "Order";
const MESSAGES: &str = "Messages of a transfer";

pub(super) const CASES: &[Case] = &[
    Case {
        id: "chunk-lost",
        section: ORDER,
        rule: "a sequence number that is too high means that a chunk is lost",
        expect: Expect::Recovery,
        scripts: &[&[Step::Accept(as_is), Step::Chunks(2), Step::Lose, Step::Flood, Step::End(as_is)]],
        checks: &[Check::ResumesExactly, Check::Cancels],
        ..CORRECT
    },
    Case {
        id: "chunk-last-lost",
        section: ORDER,
        rule: "a beat with a number that is too high means that a chunk is lost",
        expect: Expect::Recovery,
        scripts: &[&[Step::Accept(as_is), Step::Chunks(2), Step::Lose, Step::Beat(as_is)]],
        checks: &[Check::ResumesExactly, Check::RetriesWithin(2500)],
        ..CORRECT
    },
    Case {
        id: "chunk-repeated",
        section: ORDER,
        rule: "a number that is too low marks a repeated message, which the consumer must ignore",
        expect: Expect::Tolerance,
        scripts: &[&[Step::Accept(as_is), Step::Chunks(2), Step::Repeat, Step::Rest, Step::End(as_is)]],
        ..CORRECT
    },
    Case {
        id: "chunk-reordered",
        section: ORDER,
        rule: "chunks in the wrong order are not written in that order",
        expect: Expect::Recovery,
        scripts: &[&[Step::Accept(as_is), Step::Chunks(1), Step::Swap, Step::Flood, Step::End(as_is)]],
        checks: &[Check::ResumesExactly],
        ..CORRECT
    },
    Case {
        id: "chunk-corrupt",
        section: "Integrity",
        rule: "a consumer must check the CRC of each chunk",
        expect: Expect::Recovery,
        scripts: &[&[
            Step::Accept(as_is),
            Step::Chunks(2),
            Step::Chunk(|chunk| chunk.payload[100] ^= 1),
            Step::Rest,
            Step::End(as_is),
        ]],
        checks: &[Check::ResumesExactly, Check::Cancels],
        ..CORRECT
    },
    Case {
        id: "chunk-without-crc",
        section: MESSAGES,
        rule: "each chunk has a CRC",
        expect: Expect::Recovery,
        scripts: &[&[
            Step::Accept(as_is),
            Step::Chunks(2),
            Step::Chunk(|chunk| {
                chunk.payload[100] ^= 1;
                chunk.remove(message::CRC);
            }),
            Step::Rest,
            Step::End(as_is),
        ]],
        checks: &[Check::ResumesExactly],
        ..CORRECT
    },
    Case {
        id: "chunk-other-offset",
        section: MESSAGES,
        rule: "a chunk begins where the previous one has ended",
        expect: Expect::Recovery,
        scripts: &[&[
            Step::Accept(as_is),
            Step::Chunks(2),
            Step::Chunk(|chunk| chunk.set(message::OFFSET, chunk.number(message::OFFSET) + 8)),
            Step::Rest,
            Step::End(as_is),
        ]],
        checks: &[Check::ResumesExactly],
        ..CORRECT
    },
    Case {
        id: "chunk-odd-numbers",
        section: "Types and limits",
        rule: "numbers in headers are decimal digits",
        expect: Expect::Recovery,
        scripts: &[&[
            Step::Accept(as_is),
            Step::Chunks(2),
            Step::Chunk(|chunk| chunk.set(message::SEQ, "two")),
            Step::Rest,
            Step::End(as_is),
        ]],
        ..CORRECT
    },
    Case {
        id: "chunk-signed-numbers",
        section: "Types and limits",
        rule: "numbers in headers have no sign, space or leading zero",
        expect: Expect::Recovery,
        scripts: &[&[
            Step::Accept(as_is),
            Step::Chunks(2),
            Step::Chunk(|chunk| chunk.set(message::SEQ, format!("+{}", chunk.number(message::SEQ)))),
            Step::Rest,
            Step::End(as_is),
        ]],
        checks: &[Check::ResumesExactly],
        ..CORRECT
    },
    Case {
        id: "chunk-odd-crc",
        section: "Types and limits",
        rule: "a CRC has 16 lower-case hexadecimal digits",
        expect: Expect::Recovery,
        scripts: &[&[
            Step::Accept(as_is),
            Step::Chunks(2),
            Step::Chunk(|chunk| {
                let crc = gantry_proto::chunk::crc(&chunk.payload);
                chunk.set(message::CRC, format!("{crc:016X}"));
            }),
            Step::Rest,
            Step::End(as_is),
        ]],
        checks: &[Check::ResumesExactly],
        ..CORRECT
    },
    Case {
        id: "chunk-empty",
        section: "Bounds",
        rule: "a chunk has at least one byte",
        expect: Expect::Recovery,
        scripts: &[&[Step::Accept(as_is), Step::Chunks(2), Step::EmptyChunk, Step::Rest, Step::End(as_is)]],
        checks: &[Check::ResumesExactly],
        ..CORRECT
    },
    Case {
        id: "chunk-too-long",
        section: "Bounds",
        rule: "a chunk has at most `chunk_max` bytes",
        level: Level::Resuming,
        scripts: &[&[Step::Accept(|body| body["chunk_max"] = 5000.into()), Step::Rest, Step::End(as_is)]],
        checks: &[Check::Requests(2)],
        ..CORRECT
    },
    Case {
        id: "chunk-past-end",
        section: "Recovery",
        rule: "a chunk past the range is a violation",
        expect: Expect::Recovery,
        scripts: &[&[
            Step::Accept(as_is),
            Step::Chunks(9),
            Step::Chunk(|chunk| {
                chunk.payload.resize(200_000, 7);
                chunk.set(message::CRC, format!("{:016x}", gantry_proto::chunk::crc(&chunk.payload)));
            }),
            Step::Rest,
            Step::End(as_is),
        ]],
        ..CORRECT
    },
    Case {
        id: "chunk-before-accepted",
        section: "Recovery",
        rule: "a chunk before `accepted` means that `accepted` was lost",
        expect: Expect::Recovery,
        scripts: &[&[Step::Chunks(1), Step::Rest, Step::End(as_is)]],
        ..CORRECT
    },
    Case {
        id: "other-transfer",
        section: ORDER,
        rule: "a consumer ignores messages of other transfers",
        expect: Expect::Tolerance,
        scripts: &[&[Step::Accept(as_is), Step::Chunks(2), Step::ForeignChunk, Step::Rest, Step::End(as_is)]],
        ..CORRECT
    },
    Case {
        id: "chunk-without-transfer",
        section: ORDER,
        rule: "after `accepted`, a consumer must not act on a chunk without `Gantry-Transfer`",
        expect: Expect::Tolerance,
        scripts: &[&[Step::Accept(as_is), Step::Chunks(2), Step::NamelessChunk, Step::Rest, Step::End(as_is)]],
        ..CORRECT
    },
    Case {
        id: "error-without-transfer",
        section: ORDER,
        rule: "after `accepted`, a consumer ignores an `error` without `Gantry-Transfer`",
        level: Level::Resuming,
        scripts: &[&[
            Step::Accept(as_is),
            Step::Chunks(2),
            Step::Refusal("not_found", false, None),
            Step::Rest,
            Step::End(as_is),
        ]],
        ..CORRECT
    },
    Case {
        id: "unknown-type",
        section: "Recovery",
        rule: "an unknown message is a violation",
        expect: Expect::Recovery,
        scripts: &[&[
            Step::Accept(as_is),
            Step::Chunks(2),
            Step::Raw(|draft| draft.set(message::TYPE, "banana")),
            Step::Rest,
            Step::End(as_is),
        ]],
        ..CORRECT
    },
    Case {
        id: "beat-other-wait",
        section: ORDER,
        rule: "a beat with another `Gantry-Wait` is a violation, or counts as `store`",
        expect: Expect::Tolerance,
        scripts: &[&[
            Step::Accept(as_is),
            Step::Chunks(2),
            Step::Beat(|beat| beat.set(message::WAIT, "lunch")),
            Step::Rest,
            Step::End(as_is),
        ]],
        ..CORRECT
    },
    Case {
        id: "beat-other-offset",
        section: ORDER,
        rule: "a beat with the expected number but another offset is a violation",
        expect: Expect::Recovery,
        scripts: &[&[
            Step::Accept(as_is),
            Step::Chunks(2),
            Step::Beat(|beat| beat.set(message::OFFSET, beat.number(message::OFFSET) + 8)),
            Step::Rest,
            Step::End(as_is),
        ]],
        ..CORRECT
    },
];
