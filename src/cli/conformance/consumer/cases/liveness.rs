//! Silence: of a relay that is frozen, dead or gone.

use super::super::case::{CORRECT, Case, Check, Expect, Level, Step, as_is};

const LIVENESS: &str = "Liveness";

pub(super) const CASES: &[Case] = &[
    Case {
        id: "silence-before-accepted",
        section: LIVENESS,
        rule: "a consumer that receives no answer considers the relay lost",
        expect: Expect::Recovery,
        scripts: &[&[]],
        ..CORRECT
    },
    Case {
        id: "silence-after-beat",
        section: LIVENESS,
        rule: "a relay that stops sending beats before `accepted` is lost",
        expect: Expect::Recovery,
        scripts: &[&[Step::Beats(2)]],
        ..CORRECT
    },
    Case {
        id: "silence-midway",
        section: LIVENESS,
        rule: "a relay that is silent for three times `beat_ms` (at least 3 s) is lost",
        expect: Expect::Recovery,
        scripts: &[&[Step::Accept(as_is), Step::Chunks(2)]],
        checks: &[Check::ResumesExactly],
        ..CORRECT
    },
    Case {
        id: "silence-between-beats",
        section: LIVENESS,
        rule: "a relay with a longer `beat_ms` may be silent for three times as long",
        level: Level::Resuming,
        scripts: &[&[
            Step::Accept(|body| body["beat_ms"] = 3000.into()),
            Step::Chunks(2),
            Step::Pause(4500),
            Step::Rest,
            Step::End(as_is),
        ]],
        checks: &[Check::Requests(1)],
        ..CORRECT
    },
    Case {
        id: "controls-unheard",
        section: LIVENESS,
        rule: "a relay that is not silent lives, although nobody receives the control messages for a moment",
        level: Level::Resuming,
        // Three chunks, or all that a smaller window permits, are more than half of the window, so that every consumer sends
        // a control message meanwhile.
        scripts: &[&[
            Step::Accept(|body| body["beat_ms"] = 3000.into()),
            Step::Die,
            Step::GrantedChunks(3),
            Step::Beats(4),
            Step::Revive,
            Step::Rest,
            Step::End(as_is),
        ]],
        checks: &[Check::Requests(1)],
        ..CORRECT
    },
    Case {
        id: "repeats-are-silence",
        section: "Order",
        rule: "repeats must not restart the stall timer",
        level: Level::Resuming,
        scripts: &[&[Step::Accept(as_is), Step::Chunks(2), Step::StaleBeats(40)]],
        checks: &[Check::ResumesExactly, Check::RetriesWithin(5000)],
        ..CORRECT
    },
    Case {
        id: "probe",
        section: LIVENESS,
        rule: "a consumer should send a control message when it has received nothing for `beat_ms` / 2",
        level: Level::Full,
        scripts: &[&[Step::Accept(as_is), Step::Chunks(2), Step::Pause(1500), Step::Rest, Step::End(as_is)]],
        checks: &[Check::Probes, Check::Requests(1)],
        ..CORRECT
    },
    Case {
        id: "probe-ended",
        section: LIVENESS,
        rule: "the answer `ended` to a probe saves the stall timeout",
        level: Level::Full,
        scripts: &[&[Step::Accept(as_is), Step::Rest, Step::LoseEnd]],
        checks: &[Check::ResumesExactly, Check::RetriesWithin(2500)],
        ..CORRECT
    },
    Case {
        id: "relay-dies",
        section: LIVENESS,
        rule: "a `503` for a control message, and silence of 1.25 `beat_ms`, show that the relay is lost",
        level: Level::Full,
        scripts: &[&[Step::Accept(as_is), Step::Chunks(2), Step::Die]],
        checks: &[Check::ResumesExactly, Check::RetriesWithin(2500)],
        ..CORRECT
    },
    Case {
        id: "keeps-alive",
        section: LIVENESS,
        rule: "a consumer that sets `keeps_alive` sends a control message within each `idle_ms`",
        scripts: &[&[Step::Accept(as_is), Step::Chunks(2), Step::Beats(18), Step::Rest, Step::End(as_is)]],
        checks: &[Check::KeepsAlive, Check::Requests(1)],
        ..CORRECT
    },
];
