//! Control messages: cancel, probe, and messages that the relay ignores. Also the ends of a transfer without one.

use std::time::Duration;

use gantry_proto::{Accepted, Body, Code, TransferId};
use serde_json::json;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::super::bench::{Bench, Broken, Case, Outcome, check, rule};
use super::super::talk::{Reading, Talk, describe};

/// The longest `idle_ms` that the kit waits for.
const IDLE_MAX_MS: u64 = 20_000;

/// The time limit for a relay to notice that a consumer has left.
const GONE_WITHIN: Duration = Duration::from_secs(5);

pub(super) const CASES: &[Case] = &[
    Case {
        id: "cancel",
        section: "How a transfer ends",
        rule: "after `cancel`, the relay sends nothing more, whatever credit follows",
        run: |bench| Box::pin(cancel(bench)),
    },
    Case {
        id: "control-malformed",
        section: "Credit",
        rule: "the relay ignores a malformed control message",
        run: |bench| Box::pin(malformed(bench)),
    },
    Case {
        id: "control-unknown",
        section: "Credit",
        rule: "the relay does not answer a control message that names no active transfer",
        run: |bench| Box::pin(unknown(bench)),
    },
    Case {
        id: "probe-unknown",
        section: "Liveness",
        rule: "a probe for a transfer that the relay does not know is answered with `ended`",
        run: |bench| Box::pin(probe_unknown(bench)),
    },
    Case {
        id: "probe-ended",
        section: "Liveness",
        rule: "a probe for a transfer that has ended is answered with `ended`",
        run: |bench| Box::pin(probe_ended(bench)),
    },
    Case {
        id: "probe-active",
        section: "Liveness",
        rule: "a probe does not disturb an active transfer",
        run: |bench| Box::pin(probe_active(bench)),
    },
    Case {
        id: "consumer-leaves",
        section: "Liveness",
        rule: "the relay ends the transfer if nobody listens on the delivery subject",
        run: |bench| Box::pin(consumer_leaves(bench)),
    },
    Case {
        id: "idle",
        section: "Liveness",
        rule: "a relay that is blocked on credit for `idle_ms` without a control message sends the error `idle`",
        run: |bench| Box::pin(idle(bench)),
    },
    Case {
        id: "two-transfers",
        section: "Messages of a transfer",
        rule: "transfers of one consumer do not wait for each other",
        run: |bench| Box::pin(two_transfers(bench)),
    },
];

async fn start(bench: &Bench) -> Outcome<(Talk<'_>, Accepted, Reading)> {
    let mut talk = Talk::get(bench, json!({"credit": 1000})).await?;
    let accepted = talk.accepted().await?;
    let mut read = Reading::of(&accepted);
    talk.read_to(&mut read, 1000).await?;
    Ok((talk, accepted, read))
}

async fn cancel(bench: &Bench) -> Outcome {
    let (mut talk, accepted, _) = start(bench).await?;
    talk.control(&accepted, &json!({"credit": 1000, "cancel": true})).await?;
    talk.control(&accepted, &json!({"credit": 50_000})).await?;
    talk.nothing().await
}

async fn malformed(bench: &Bench) -> Outcome {
    let (mut talk, accepted, mut read) = start(bench).await?;
    for body in ["", "{", "[]", "7", r#"{"credit": -1}"#, r#"{"cancel": "yes"}"#, r#"{"credit": 9223372036854775808}"#]
    {
        talk.publish(accepted.control.clone(), body.as_bytes().to_vec()).await?;
    }
    talk.nothing().await?;

    read.credit = 2000;
    talk.control(&accepted, &json!({"credit": 2000, "colour": "blue"})).await?;
    talk.read_to(&mut read, 2000).await?;
    talk.control(&accepted, &json!({"cancel": true})).await
}

async fn unknown(bench: &Bench) -> Outcome {
    let (talk, accepted, _) = start(bench).await?;
    let mut other = Talk::open(bench).await?;
    let subject = bench.prefix.control(&accepted.instance, TransferId(Uuid::new_v4()));
    other.publish(subject, json!({"credit": 1}).to_string().into_bytes()).await?;
    other.silence().await?;
    talk.control(&accepted, &json!({"cancel": true})).await
}

async fn probe_unknown(bench: &Bench) -> Outcome {
    let (talk, accepted, _) = start(bench).await?;
    let mut other = Talk::open(bench).await?;
    let transfer = TransferId(Uuid::new_v4());
    other.transfer = Some(transfer);
    let subject = bench.prefix.control(&accepted.instance, transfer);
    other.publish(subject, json!({"credit": 1, "probe": true}).to_string().into_bytes()).await?;
    other.refused(Code::Ended).await?;
    talk.control(&accepted, &json!({"cancel": true})).await
}

async fn probe_ended(bench: &Bench) -> Outcome {
    let mut talk = Talk::get(bench, json!({"end": 1000})).await?;
    let accepted = talk.accepted().await?;
    talk.read_all(&accepted).await?;

    let mut other = Talk::open(bench).await?;
    other.transfer = Some(accepted.transfer);
    other.control(&accepted, &json!({"credit": 1000, "probe": true})).await?;
    other.refused(Code::Ended).await.map(drop)
}

async fn probe_active(bench: &Bench) -> Outcome {
    let (mut talk, accepted, mut read) = start(bench).await?;
    talk.control(&accepted, &json!({"credit": 1000, "probe": true})).await?;
    talk.nothing().await?;
    read.credit = 2000;
    talk.control(&accepted, &json!({"credit": 2000})).await?;
    talk.read_to(&mut read, 2000).await?;
    talk.control(&accepted, &json!({"cancel": true})).await
}

async fn consumer_leaves(bench: &Bench) -> Outcome {
    let (talk, accepted, _) = start(bench).await?;
    drop(talk);
    let until = Instant::now() + GONE_WITHIN.max(Duration::from_millis(accepted.beat_ms * 3));

    let mut other = Talk::open(bench).await?;
    other.transfer = Some(accepted.transfer);
    while Instant::now() < until {
        other.control(&accepted, &json!({"probe": true})).await?;
        match other.next_within(Duration::from_millis(200)).await? {
            Some(arrived) => match arrived.body {
                Body::Error(error) if error.code == Code::Ended => return Ok(()),
                body => return rule(format!("sent {}", describe(&body))),
            },
            None => sleep(Duration::from_millis(100)).await,
        }
    }
    rule("the transfer still lives")
}

async fn idle(bench: &Bench) -> Outcome {
    // The relay starts to count when it has accepted, or later.
    let began = Instant::now();
    let (mut talk, accepted, _) = start(bench).await?;
    if accepted.idle_ms > IDLE_MAX_MS {
        talk.control(&accepted, &json!({"cancel": true})).await?;
        return Err(Broken::Inapplicable("`idle_ms` is long"));
    }

    loop {
        let arrived = talk.next().await?;
        let waited = arrived.at - began;
        check(waited < Duration::from_millis(accepted.idle_ms + 5000), || format!("no error after {waited:?}"))?;
        match arrived.body {
            Body::Beat { .. } => {}
            Body::Error(error) if error.code == Code::Idle => {
                let least = Duration::from_millis(accepted.idle_ms).saturating_sub(Duration::from_millis(500));
                return check(waited >= least, || format!("ended the transfer after only {waited:?}"));
            }
            other => return rule(format!("sent {}", describe(&other))),
        }
    }
}

async fn two_transfers(bench: &Bench) -> Outcome {
    let (mut first, accepted, mut read) = start(bench).await?;
    let mut second = Talk::get(bench, json!({"end": 50_000})).await?;
    let other = second.accepted().await?;
    check(other.transfer != accepted.transfer, || "both have the same id".to_owned())?;
    second.read_all(&other).await?;

    read.credit = 2000;
    first.control(&accepted, &json!({"credit": 2000})).await?;
    first.read_to(&mut read, 2000).await?;
    first.control(&accepted, &json!({"cancel": true})).await
}
