//! The end of a transfer, and events that are not its end.

use super::super::case::{CORRECT, Case, Check, Expect, Level, Step, as_is};

const INTEGRITY: &str = "Integrity";

pub(super) const CASES: &[Case] = &[
    Case {
        id: "end-chunks",
        section: INTEGRITY,
        rule: "a consumer must compare the number of chunks in `end`",
        expect: Expect::Recovery,
        scripts: &[&[
            Step::Accept(as_is),
            Step::Rest,
            Step::End(|end| end["chunks"] = (end["chunks"].as_u64().unwrap_or_default() + 1).into()),
        ]],
        ..CORRECT
    },
    Case {
        id: "end-bytes",
        section: INTEGRITY,
        rule: "a consumer must compare the number of bytes in `end`",
        expect: Expect::Recovery,
        scripts: &[&[
            Step::Accept(as_is),
            Step::Rest,
            Step::End(|end| end["bytes"] = (end["bytes"].as_u64().unwrap_or_default() + 1).into()),
        ]],
        ..CORRECT
    },
    Case {
        id: "end-odd-numbers",
        section: "Types and limits",
        rule: "a count is a number, and a text of digits is of another type",
        expect: Expect::Recovery,
        scripts: &[&[
            Step::Accept(as_is),
            Step::Rest,
            Step::End(|end| end["chunks"] = end["chunks"].to_string().into()),
        ]],
        ..CORRECT
    },
    Case {
        id: "end-early",
        section: INTEGRITY,
        rule: "a download is done only when the bytes are contiguous up to `end`",
        expect: Expect::Recovery,
        scripts: &[&[Step::Accept(as_is), Step::Chunks(3), Step::End(as_is)]],
        checks: &[Check::ResumesExactly],
        ..CORRECT
    },
    Case {
        id: "end-after-loss",
        section: INTEGRITY,
        rule: "an `end` whose counts include a lost chunk does not complete the file",
        expect: Expect::Recovery,
        scripts: &[&[
            Step::Accept(as_is),
            Step::Chunks(5),
            Step::Lose,
            Step::Lose,
            Step::Lose,
            Step::Lose,
            Step::Lose,
            Step::Lose,
            Step::Lose,
            Step::End(as_is),
        ]],
        checks: &[Check::ResumesExactly],
        ..CORRECT
    },
    Case {
        id: "end-lost",
        section: INTEGRITY,
        rule: "a consumer must not infer the end from silence or the last byte",
        expect: Expect::Recovery,
        scripts: &[&[Step::Accept(as_is), Step::Rest]],
        checks: &[Check::ResumesExactly],
        ..CORRECT
    },
    Case {
        id: "end-lost-with-beats",
        section: "Order",
        rule: "beats after the last byte of the range count as silence",
        level: Level::Resuming,
        scripts: &[&[Step::Accept(as_is), Step::Rest, Step::Beats(100)]],
        checks: &[Check::ResumesExactly],
        ..CORRECT
    },
    Case {
        id: "end-of-larger-object",
        section: INTEGRITY,
        rule: "`bytes` is `end` - `start` of `accepted`, whatever the relay had announced as the size",
        expect: Expect::Failure,
        scripts: &[&[
            Step::Accept(|body| {
                let size = body["size"].as_u64().unwrap_or_default() + 1000;
                body["size"] = size.into();
                body["end"] = size.into();
            }),
            Step::Rest,
            Step::End(as_is),
        ]],
        ..CORRECT
    },
    Case {
        id: "goaway",
        section: "Recovery",
        rule: "after `goaway`, the consumer requests the rest",
        expect: Expect::Recovery,
        scripts: &[&[
            Step::Accept(as_is),
            Step::Chunks(2),
            Step::Raw(|draft| draft.set(gantry_proto::message::TYPE, "goaway")),
        ]],
        checks: &[Check::ResumesExactly],
        ..CORRECT
    },
    Case {
        id: "goaway-before-accepted",
        section: "Order",
        rule: "`goaway` may be the first message",
        expect: Expect::Recovery,
        scripts: &[&[Step::Raw(|draft| draft.set(gantry_proto::message::TYPE, "goaway"))]],
        ..CORRECT
    },
];
