//! How a consumer continues after a failure: on the same version, from the first missing byte.

use gantry_proto::message;

use super::super::case::{CORRECT, Case, Check, Expect, Level, OBJECT, Object, Step, Stored, as_is};

const RECOVERY: &str = "Recovery";

/// Some chunks, and then a failure.
const INTERRUPTED: &[Step] = &[Step::Accept(as_is), Step::Chunks(3), Step::Error("store_unavailable", true, None)];

pub(super) const CASES: &[Case] = &[
    Case {
        id: "resume",
        section: RECOVERY,
        rule: "a new `get` on a fresh delivery subject starts at the first missing byte, in the same version",
        level: Level::Resuming,
        scripts: &[INTERRUPTED, INTERRUPTED],
        checks: &[Check::Requests(3), Check::ResumesExactly],
        ..CORRECT
    },
    Case {
        id: "resume-at-the-end",
        section: "get",
        rule: "`start` may equal the size; the range is then empty",
        level: Level::Resuming,
        scripts: &[&[Step::Accept(as_is), Step::Rest, Step::Error("internal", true, None)]],
        checks: &[Check::Requests(2), Check::ResumesExactly],
        ..CORRECT
    },
    Case {
        id: "resume-other-etag",
        section: RECOVERY,
        rule: "an `accepted` with another `etag` ends the download",
        level: Level::Resuming,
        expect: Expect::Failure,
        scripts: &[
            INTERRUPTED,
            &[Step::Accept(|body| body["etag"] = "\"conformance-2\"".into()), Step::Rest, Step::End(as_is)],
        ],
        checks: &[Check::Requests(2)],
        ..CORRECT
    },
    Case {
        id: "resume-other-size",
        section: RECOVERY,
        rule: "an `accepted` with another `size` ends the download",
        level: Level::Resuming,
        expect: Expect::Failure,
        scripts: &[
            INTERRUPTED,
            &[
                Step::Accept(|body| {
                    body["size"] = 70_000.into();
                    body["end"] = 70_000.into();
                }),
                Step::Chunks(1),
                Step::End(as_is),
            ],
        ],
        checks: &[Check::Requests(2)],
        ..CORRECT
    },
    Case {
        id: "resume-other-version",
        section: "get",
        rule: "in a recovery, a consumer must not continue with an `accepted` that states another `version_id`",
        level: Level::Resuming,
        // Only the bytes show that a consumer has mixed two versions. It may also end the download.
        expect: Expect::NoWrongFile,
        object: Object { checksum: Stored::Nothing, ..OBJECT },
        scripts: &[
            INTERRUPTED,
            &[
                Step::Accept(|body| body["version_id"] = "version-2".into()),
                Step::Chunk(|chunk| {
                    chunk.payload[0] ^= 1;
                    chunk.set(message::CRC, format!("{:016x}", gantry_proto::chunk::crc(&chunk.payload)));
                }),
                Step::Rest,
                Step::End(as_is),
            ],
        ],
        ..CORRECT
    },
    Case {
        id: "resume-other-checksum",
        section: "get",
        rule: "in a recovery, a consumer must not continue with an `accepted` that states another checksum",
        level: Level::Resuming,
        scripts: &[
            INTERRUPTED,
            &[Step::Accept(|body| body["checksum"]["value"] = "AAAAAAAAAAA=".into()), Step::Rest, Step::End(as_is)],
        ],
        checks: &[Check::Requests(3)],
        ..CORRECT
    },
    Case {
        id: "resume-later-checksum",
        section: "get",
        rule: "in a recovery, a checksum that the first `accepted` did not state contradicts nothing",
        level: Level::Resuming,
        scripts: &[&[
            Step::Accept(|body| {
                if let Some(members) = body.as_object_mut() {
                    members.remove("checksum");
                }
            }),
            Step::Chunks(3),
            Step::Error("store_unavailable", true, None),
        ]],
        checks: &[Check::Requests(2)],
        ..CORRECT
    },
    Case {
        id: "resume-other-start",
        section: "get",
        rule: "in a recovery, `start` is the requested one",
        level: Level::Resuming,
        scripts: &[INTERRUPTED, &[Step::Accept(|body| body["start"] = 0.into()), Step::Rest, Step::End(as_is)]],
        checks: &[Check::Requests(3)],
        ..CORRECT
    },
    Case {
        id: "resume-replaced",
        section: "Errors",
        rule: "the error `changed` in answer to a pinned request ends the download",
        level: Level::Resuming,
        expect: Expect::Failure,
        scripts: &[INTERRUPTED, &[Step::Refusal("changed", false, None)]],
        checks: &[Check::Requests(2)],
        ..CORRECT
    },
    Case {
        id: "resume-after-gap",
        section: RECOVERY,
        rule: "after a `503` to a request, once a relay has accepted, the consumer requests again",
        expect: Expect::Recovery,
        scripts: &[&[Step::Accept(as_is), Step::Chunks(3), Step::Leave, Step::Error("draining", true, None)]],
        checks: &[Check::ResumesExactly],
        ..CORRECT
    },
    Case {
        id: "resume-in-pieces",
        section: "Bounds",
        rule: "requests sent immediately after progress are limited to 8, then one per 100 ms",
        level: Level::Full,
        scripts: &[PIECE, PIECE, PIECE, PIECE, PIECE, PIECE, PIECE, PIECE, PIECE, PIECE],
        checks: &[Check::ResumesExactly],
        ..CORRECT
    },
];

/// One chunk, and then a failure.
const PIECE: &[Step] = &[Step::Accept(as_is), Step::Chunks(1), Step::Error("internal", true, None)];
