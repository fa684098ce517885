//! Credit: consumers give it, repeat it, and enforce its limit.

use super::super::case::{CHUNK, CORRECT, Case, Check, Expect, Level, OBJECT, Object, SIZE, Step, as_is};

const CREDIT: &str = "Credit";

pub(super) const CASES: &[Case] = &[
    Case {
        id: "credit-beat",
        section: CREDIT,
        rule: "a consumer answers a beat with `Gantry-Wait: credit`",
        scripts: &[&[Step::Accept(as_is), Step::Chunks(2), Step::AwaitControls(1), Step::Rest, Step::End(as_is)]],
        ..CORRECT
    },
    Case {
        id: "credit-lost",
        section: CREDIT,
        rule: "if a control message was lost, the consumer must send its state again",
        scripts: &[&[Step::Accept(as_is), Step::Chunks(2), Step::LoseControls(2), Step::Rest, Step::End(as_is)]],
        checks: &[Check::Requests(1)],
        ..CORRECT
    },
    Case {
        id: "credit-lost-often",
        section: CREDIT,
        rule: "a consumer answers beats for as long as the relay waits",
        object: Object { size: 30 * CHUNK, ..OBJECT },
        scripts: &[&[
            Step::Accept(as_is),
            Step::Chunks(4),
            Step::LoseControls(4),
            Step::Chunks(12),
            Step::LoseControls(3),
            Step::Rest,
            Step::End(as_is),
        ]],
        checks: &[Check::Requests(1)],
        ..CORRECT
    },
    Case {
        id: "credit-exceeded",
        section: "Recovery",
        rule: "a chunk past the credit is a violation",
        expect: Expect::Recovery,
        // The first chunk is longer than the window. After smaller chunks, a consumer that has already reported written
        // bytes could not detect the violation.
        scripts: &[&[
            Step::Accept(|body| {
                body["credit"] = 1000.into();
                body["window_max"] = 1000.into();
            }),
            Step::Flood,
            Step::End(as_is),
        ]],
        ..CORRECT
    },
    Case {
        id: "credit-exceeded-later",
        section: CREDIT,
        rule: "only control messages raise the credit of `accepted`",
        expect: Expect::Recovery,
        // Whatever the consumer has reported by then, its credit ends before the long chunk does.
        scripts: &[&[
            Step::Accept(|body| body["chunk_max"] = SIZE.into()),
            Step::Chunks(2),
            Step::LongChunk,
            Step::End(as_is),
        ]],
        checks: &[Check::ResumesExactly],
        ..CORRECT
    },
    Case {
        id: "beat-store",
        section: "Messages of a transfer",
        rule: "a beat that waits for the store shows that the relay is alive",
        scripts: &[&[Step::Accept(as_is), Step::Chunks(2), Step::Beats(20), Step::Rest, Step::End(as_is)]],
        checks: &[Check::Requests(1)],
        ..CORRECT
    },
    Case {
        id: "beat-flood",
        section: "Bounds",
        rule: "control messages that repeat the previous credit in answer to beats are limited to 4, then one per 100 ms",
        level: Level::Full,
        scripts: &[&[Step::Accept(as_is), Step::Chunks(2), Step::Nag(2000), Step::Rest, Step::End(as_is)]],
        checks: &[Check::ControlsAtMost(100)],
        ..CORRECT
    },
];
