//! Credit, and windows that the relay computes.

use std::time::Duration;

use gantry_proto::message::Wait;
use gantry_proto::{Body, limits};
use serde_json::json;
use tokio::time::Instant;

use super::super::bench::{Bench, Case, Outcome, check, rule};
use super::super::talk::{Reading, Talk, describe};

const CREDIT: &str = "Credit";
const WINDOWS: &str = "Windows that the relay computes";

pub(super) const CASES: &[Case] = &[
    Case {
        id: "credit-limit",
        section: CREDIT,
        rule: "the relay must not send a byte at or past the credit, and cuts a chunk to fit",
        run: |bench| Box::pin(limit(bench)),
    },
    Case {
        id: "credit-beats",
        section: CREDIT,
        rule: "a relay that becomes blocked sends a beat at once, and then one every `beat_ms`",
        run: |bench| Box::pin(beats(bench)),
    },
    Case {
        id: "credit-highest",
        section: CREDIT,
        rule: "the relay uses the highest credit that it has received",
        run: |bench| Box::pin(highest(bench)),
    },
    Case {
        id: "credit-fragments",
        section: "Bounds",
        rule: "fragments by credit in tiny steps are limited to 16, then one per 10 ms",
        run: |bench| Box::pin(fragments(bench)),
    },
    Case {
        id: "window",
        section: WINDOWS,
        rule: "the relay takes `written` + `window` as the credit",
        run: |bench| Box::pin(window(bench)),
    },
    Case {
        id: "window-ignores-credit",
        section: WINDOWS,
        rule: "with a `window`, the relay ignores `credit`",
        run: |bench| Box::pin(window_ignores_credit(bench)),
    },
    Case {
        id: "window-written-past-sent",
        section: WINDOWS,
        rule: "the relay takes `written` as at most what it has sent",
        run: |bench| Box::pin(window_limits_written(bench)),
    },
    Case {
        id: "window-too-large",
        section: "Bounds",
        rule: "a `window` past `window_max` counts as `window_max`",
        run: |bench| Box::pin(window_too_large(bench)),
    },
    Case {
        id: "never-silent",
        section: "Liveness",
        rule: "the relay is never silent for longer than `beat_ms`",
        run: |bench| Box::pin(never_silent(bench)),
    },
    Case {
        id: "first-answer",
        section: "Liveness",
        rule: "a relay acknowledges a request within 50 ms",
        run: |bench| Box::pin(first_answer(bench)),
    },
];

/// The tolerance for a message that is later than expected.
const SLACK: Duration = Duration::from_millis(500);

async fn limit(bench: &Bench) -> Outcome {
    let mut talk = Talk::get(bench, json!({"credit": 1000})).await?;
    let accepted = talk.accepted().await?;
    let mut read = Reading::of(&accepted);

    for credit in [1000, 1001, 50_000] {
        read.credit = credit;
        talk.control(&accepted, &json!({"credit": credit})).await?;
        talk.read_to(&mut read, credit).await?;
        talk.nothing().await?;
    }
    talk.control(&accepted, &json!({"cancel": true})).await
}

async fn beats(bench: &Bench) -> Outcome {
    let mut talk = Talk::get(bench, json!({"credit": 1000})).await?;
    let accepted = talk.accepted().await?;
    talk.read_to(&mut Reading::of(&accepted), 1000).await?;
    let blocked = Instant::now();

    let mut previous = talk.blocked_at(1000).await?;
    check(previous - blocked < SLACK, || format!("sent the first beat after {:?}", previous - blocked))?;
    for _ in 0..2 {
        let beat = talk.blocked_at(1000).await?;
        let gap = beat - previous;
        let limit = Duration::from_millis(accepted.beat_ms) + SLACK;
        check(gap <= limit, || format!("was silent for {gap:?} instead of {} ms", accepted.beat_ms))?;
        previous = beat;
    }
    talk.control(&accepted, &json!({"cancel": true})).await
}

async fn highest(bench: &Bench) -> Outcome {
    let mut talk = Talk::get(bench, json!({"credit": 1000})).await?;
    let accepted = talk.accepted().await?;
    let mut read = Reading::of(&accepted);
    for credit in [3000, 2000, 10] {
        talk.control(&accepted, &json!({"credit": credit})).await?;
    }

    read.credit = 3000;
    talk.read_to(&mut read, 3000).await?;
    talk.nothing().await?;
    talk.control(&accepted, &json!({"cancel": true})).await
}

async fn fragments(bench: &Bench) -> Outcome {
    const STEPS: u64 = 300;
    let mut talk = Talk::get(bench, json!({"credit": 1000})).await?;
    let accepted = talk.accepted().await?;
    let mut read = Reading::of(&accepted);
    talk.read_to(&mut read, 1000).await?;

    let began = Instant::now();
    read.credit = 1000 + STEPS;
    for step in 1..=STEPS {
        talk.control(&accepted, &json!({"credit": 1000 + step})).await?;
    }
    talk.read_to(&mut read, 1000 + STEPS).await?;
    let most = 2 + u64::from(16_u32) + u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX) / 10;
    check(read.chunks <= most, || format!("sent {} chunks within {:?}", read.chunks, began.elapsed()))?;
    talk.control(&accepted, &json!({"cancel": true})).await
}

async fn window(bench: &Bench) -> Outcome {
    let mut talk = Talk::get(bench, json!({"window": 8000, "start": 100})).await?;
    let accepted = talk.accepted().await?;
    check(accepted.credit == 8100, || format!("`credit` is {}", accepted.credit))?;
    let mut read = Reading::of(&accepted);

    talk.read_to(&mut read, 8100).await?;
    talk.nothing().await?;
    talk.control(&accepted, &json!({"written": 5000})).await?;
    read.credit = 13_000;
    talk.read_to(&mut read, 13_000).await?;
    talk.nothing().await?;

    // An older state changes nothing, and the last one opens the window again.
    talk.control(&accepted, &json!({"written": 3000})).await?;
    talk.nothing().await?;
    talk.control(&accepted, &json!({"written": 13_000})).await?;
    read.credit = 21_000;
    talk.read_to(&mut read, 21_000).await?;
    talk.control(&accepted, &json!({"cancel": true})).await
}

async fn window_ignores_credit(bench: &Bench) -> Outcome {
    let mut talk = Talk::get(bench, json!({"window": 8000})).await?;
    let accepted = talk.accepted().await?;
    let mut read = Reading::of(&accepted);
    talk.read_to(&mut read, 8000).await?;
    talk.control(&accepted, &json!({"credit": 50_000})).await?;
    talk.nothing().await?;
    talk.control(&accepted, &json!({"cancel": true})).await
}

async fn window_limits_written(bench: &Bench) -> Outcome {
    let mut talk = Talk::get(bench, json!({"window": 8000})).await?;
    let accepted = talk.accepted().await?;
    let mut read = Reading::of(&accepted);
    talk.read_to(&mut read, 8000).await?;
    talk.control(&accepted, &json!({"written": 60_000})).await?;
    read.credit = 16_000;
    talk.read_to(&mut read, 16_000).await?;
    talk.nothing().await?;
    talk.control(&accepted, &json!({"cancel": true})).await
}

async fn window_too_large(bench: &Bench) -> Outcome {
    let mut talk = Talk::get(bench, json!({"window": i64::MAX})).await?;
    let accepted = talk.accepted().await?;
    let most = accepted.window_max.min(accepted.end);
    check(accepted.credit == most, || format!("`credit` is {} instead of {most}", accepted.credit))?;
    talk.control(&accepted, &json!({"cancel": true})).await
}

async fn never_silent(bench: &Bench) -> Outcome {
    let mut talk = Talk::get(bench, json!({"credit": 0})).await?;
    let accepted = talk.accepted().await?;
    let limit = limits::beat(Duration::from_millis(accepted.beat_ms)) + SLACK;
    for _ in 0..3 {
        let Some(arrived) = talk.next_within(limit).await? else { return rule(format!("was silent for {limit:?}")) };
        let is_expected = matches!(arrived.body, Body::Beat { seq: 0, offset: 0, wait: Wait::Credit | Wait::Store });
        check(is_expected, || format!("sent {} without credit", describe(&arrived.body)))?;
    }
    talk.control(&accepted, &json!({"cancel": true})).await
}

async fn first_answer(bench: &Bench) -> Outcome {
    let began = Instant::now();
    let mut talk = Talk::get(bench, json!({"end": 10})).await?;
    let first = talk.next().await?;
    check(first.at - began < SLACK, || format!("sent the first message after {:?}", first.at - began))
}
