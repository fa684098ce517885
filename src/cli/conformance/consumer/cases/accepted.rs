//! The values in `accepted` that a consumer must check.

use super::super::case::{CORRECT, Case, Check, Expect, FIRST_CHUNK, Level, OBJECT, Object, Step, Stored, as_is};

const GET: &str = "get";
const BOUNDS: &str = "Bounds";
const INTEGRITY: &str = "Integrity";

pub(super) const CASES: &[Case] = &[
    Case {
        id: "accepted-other-control",
        section: GET,
        rule: "a consumer must not publish to a control subject that the relay has made up",
        expect: Expect::Recovery,
        scripts: &[&[Step::Accept(|body| body["control"] = "trap".into()), Step::Rest, Step::End(as_is)]],
        ..CORRECT
    },
    Case {
        id: "accepted-other-instance",
        section: GET,
        rule: "`control` names the instance of `accepted`",
        expect: Expect::Recovery,
        scripts: &[&[Step::Accept(|body| body["instance"] = "another".into()), Step::Rest, Step::End(as_is)]],
        ..CORRECT
    },
    Case {
        id: "accepted-odd-instance",
        section: GET,
        rule: "an instance is one token of letters, digits, `_` and `-`",
        expect: Expect::Recovery,
        scripts: &[&[
            Step::Accept(|body| {
                let control = body["control"].as_str().unwrap_or_default().replace(".ctl.", ".ctl.a.b.");
                let instance = format!("a.b.{}", body["instance"].as_str().unwrap_or_default());
                body["control"] = control.into();
                body["instance"] = instance.into();
            }),
            Step::Rest,
            Step::End(as_is),
        ]],
        ..CORRECT
    },
    Case {
        id: "accepted-odd-transfer",
        section: GET,
        rule: "a transfer id is a UUID in lower case with hyphens",
        expect: Expect::Recovery,
        scripts: &[&[Step::AcceptOdd, Step::Rest, Step::End(as_is)]],
        ..CORRECT
    },
    Case {
        id: "accepted-other-transfer",
        section: GET,
        rule: "`transfer` equals the header `Gantry-Transfer`",
        expect: Expect::Recovery,
        scripts: &[&[Step::AcceptAsAnother, Step::Rest, Step::End(as_is)]],
        ..CORRECT
    },
    Case {
        id: "accepted-other-key",
        section: GET,
        rule: "`key` is the requested key",
        expect: Expect::Recovery,
        scripts: &[&[Step::Accept(|body| body["key"] = "another.bin".into()), Step::Rest, Step::End(as_is)]],
        ..CORRECT
    },
    Case {
        id: "accepted-other-start",
        section: GET,
        rule: "`start` is the requested one",
        expect: Expect::Recovery,
        scripts: &[&[Step::Accept(|body| body["start"] = 1000.into()), Step::Rest, Step::End(as_is)]],
        ..CORRECT
    },
    Case {
        id: "accepted-other-end",
        section: GET,
        rule: "`end` is the requested one, limited to `size`",
        expect: Expect::Recovery,
        scripts: &[&[Step::Accept(|body| body["end"] = FIRST_CHUNK.into()), Step::Chunks(1), Step::End(as_is)]],
        ..CORRECT
    },
    Case {
        id: "accepted-repeated",
        section: "Order",
        rule: "a second `accepted` of the same transfer is a repeat",
        level: Level::Resuming,
        scripts: &[&[Step::Accept(as_is), Step::Chunks(2), Step::Accept(as_is), Step::Rest, Step::End(as_is)]],
        checks: &[Check::Requests(1)],
        ..CORRECT
    },
    Case {
        id: "bounds-negative-size",
        section: BOUNDS,
        rule: "a size is an integer from 0 to 2^63 - 1",
        level: Level::Resuming,
        expect: Expect::Recovery,
        scripts: &[&[Step::Accept(|body| body["size"] = (-1).into())]],
        ..CORRECT
    },
    Case {
        id: "bounds-huge-size",
        section: BOUNDS,
        rule: "a size past 2^63 - 1 is rejected, and nothing is allocated for it",
        expect: Expect::Recovery,
        scripts: &[&[Step::Accept(|body| {
            body["size"] = u64::MAX.into();
            body["end"] = u64::MAX.into();
        })]],
        ..CORRECT
    },
    Case {
        id: "bounds-chunk-max",
        section: BOUNDS,
        rule: "`chunk_max` of `accepted` is at least 1",
        level: Level::Resuming,
        expect: Expect::Recovery,
        scripts: &[&[Step::Accept(|body| body["chunk_max"] = 0.into())]],
        ..CORRECT
    },
    Case {
        id: "bounds-chunk-max-too-large",
        section: BOUNDS,
        rule: "`chunk_max` of `accepted` is at most the requested one",
        level: Level::Resuming,
        expect: Expect::Recovery,
        scripts: &[&[Step::Accept(|body| body["chunk_max"] = i64::MAX.into()), Step::Rest, Step::End(as_is)]],
        ..CORRECT
    },
    Case {
        id: "bounds-window-max",
        section: BOUNDS,
        rule: "`window_max` is at least 1",
        level: Level::Resuming,
        expect: Expect::Recovery,
        scripts: &[&[Step::Accept(|body| body["window_max"] = 0.into())]],
        ..CORRECT
    },
    Case {
        id: "bounds-long-etag",
        section: BOUNDS,
        rule: "an `etag` has at most 1,024 bytes, because requests repeat it",
        level: Level::Resuming,
        expect: Expect::Recovery,
        scripts: &[&[Step::Accept(|body| body["etag"] = "e".repeat(20_000).into())]],
        ..CORRECT
    },
    Case {
        id: "bounds-odd-version",
        section: BOUNDS,
        rule: "a `version_id` has no control characters, because requests repeat it",
        level: Level::Resuming,
        expect: Expect::Recovery,
        scripts: &[&[Step::Accept(|body| body["version_id"] = "version\u{85}1".into()), Step::Rest, Step::End(as_is)]],
        ..CORRECT
    },
    Case {
        id: "bounds-short-timers",
        section: BOUNDS,
        rule: "`beat_ms` and `idle_ms` below their bounds count as the nearest bound",
        level: Level::Resuming,
        scripts: &[&[
            Step::Accept(|body| {
                body["beat_ms"] = 0.into();
                body["idle_ms"] = 0.into();
            }),
            Step::Chunks(2),
            Step::Beats(5),
            Step::Rest,
            Step::End(as_is),
        ]],
        checks: &[Check::ControlsAtMost(60)],
        ..CORRECT
    },
    Case {
        id: "integrity-checksum",
        section: INTEGRITY,
        rule: "bytes that do not match the store's checksum are not a complete file",
        level: Level::Resuming,
        expect: Expect::Failure,
        object: Object { checksum: Stored::Wrong, ..OBJECT },
        ..CORRECT
    },
    Case {
        id: "integrity-composite",
        section: INTEGRITY,
        rule: "a composite checksum is that of the digests of the parts",
        object: Object { checksum: Stored::Composite, ..OBJECT },
        ..CORRECT
    },
    Case {
        id: "integrity-composite-wrong",
        section: INTEGRITY,
        rule: "bytes that do not match a composite checksum are not a complete file",
        level: Level::Full,
        expect: Expect::Failure,
        object: Object { checksum: Stored::WrongComposite, ..OBJECT },
        ..CORRECT
    },
    Case {
        id: "integrity-sha256-wrong",
        section: INTEGRITY,
        rule: "bytes that do not match a SHA-256 are not a complete file",
        level: Level::Full,
        expect: Expect::Failure,
        object: Object { checksum: Stored::WrongSha256, ..OBJECT },
        ..CORRECT
    },
    Case {
        id: "integrity-short",
        section: INTEGRITY,
        rule: "a checksum that is shorter than a digest is invalid, and not another one",
        level: Level::Resuming,
        object: Object { checksum: Stored::Short, ..OBJECT },
        ..CORRECT
    },
    Case {
        id: "integrity-invalid",
        section: INTEGRITY,
        rule: "an invalid checksum proves nothing, and a consumer may keep the bytes",
        level: Level::Resuming,
        expect: Expect::NoWrongFile,
        object: Object { checksum: Stored::Invalid, ..OBJECT },
        ..CORRECT
    },
    Case {
        id: "integrity-none",
        section: INTEGRITY,
        rule: "a store may keep no checksum",
        object: Object { checksum: Stored::Nothing, ..OBJECT },
        ..CORRECT
    },
];
