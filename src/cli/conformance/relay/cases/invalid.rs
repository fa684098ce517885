//! Requests that break a rule.

use gantry_proto::{CONTEXT_MAX_BYTES, Code, Key, REQUEST_MAX_BYTES};
use serde_json::{Value, json};

use super::super::bench::{Bench, Case, Outcome, check};
use super::super::talk::Talk;

const GET: &str = "get";
const LIMITS: &str = "Types and limits";
const BOUNDS: &str = "Bounds";

pub(super) const CASES: &[Case] = &[
    Case {
        id: "bad-json",
        section: LIMITS,
        rule: "a body that is not one JSON object is a `bad_request`",
        run: |bench| Box::pin(json_bodies(bench)),
    },
    Case {
        id: "bad-size",
        section: LIMITS,
        rule: "a body has at most 16,384 bytes",
        run: |bench| Box::pin(long_body(bench)),
    },
    Case {
        id: "bad-key",
        section: LIMITS,
        rule: "a key has 1 to 1024 bytes without NUL, CR and LF",
        run: |bench| Box::pin(keys(bench)),
    },
    Case {
        id: "bad-numbers",
        section: LIMITS,
        rule: "offsets and counts are integers from 0 to 2^63 - 1",
        run: |bench| Box::pin(numbers(bench)),
    },
    Case {
        id: "bad-null",
        section: LIMITS,
        rule: "`null` is invalid for a member with a default",
        run: |bench| Box::pin(nulls(bench)),
    },
    Case {
        id: "bad-version",
        section: "Versions and extensions",
        rule: "`v` must be absent or 1",
        run: |bench| Box::pin(named(bench, "v", json!(2))),
    },
    Case {
        id: "bad-chunk-max",
        section: BOUNDS,
        rule: "`chunk_max` is not 0",
        run: |bench| Box::pin(named(bench, "chunk_max", json!(0))),
    },
    Case {
        id: "bad-window",
        section: BOUNDS,
        rule: "`window` is not 0",
        run: |bench| Box::pin(named(bench, "window", json!(0))),
    },
    Case {
        id: "bad-window-and-credit",
        section: GET,
        rule: "`window` and `credit` exclude each other",
        run: |bench| Box::pin(window_and_credit(bench)),
    },
    Case {
        id: "bad-context",
        section: LIMITS,
        rule: "`context` has at most 256 bytes without control characters, and no white space at either end",
        run: |bench| Box::pin(contexts(bench)),
    },
    Case {
        id: "bad-request-context",
        section: "Errors",
        rule: "a rejection has `Gantry-Context` if the request was JSON with a valid `context`",
        run: |bench| Box::pin(named(bench, "start", json!("zero"))),
    },
];

/// Sends a body that is rejected without a context.
async fn rejects(bench: &Bench, body: impl Into<Vec<u8>>, member: &str) -> Outcome {
    let mut talk = Talk::open(bench).await?;
    talk.request(body.into()).await?;
    let error = talk.refused(Code::BadRequest).await?;
    check(error.message.contains(member), || format!("the message does not name {member}: {}", error.message))
}

/// Sends a request with this invalid member.
async fn named(bench: &Bench, name: &str, value: Value) -> Outcome {
    let mut members = json!({});
    members[name] = value;
    let error = Talk::get(bench, members).await?.refused(Code::BadRequest).await?;
    let member = format!("`{name}`");
    check(error.message.contains(&member), || format!("the message does not name {member}: {}", error.message))
}

async fn json_bodies(bench: &Bench) -> Outcome {
    for body in ["", "{", "[1]", "\"key\"", "{\"key\": \"a\"} x", "\u{0}"] {
        rejects(bench, body, "").await?;
    }
    rejects(bench, b"{\"key\": \"\xff\"}".to_vec(), "").await
}

async fn long_body(bench: &Bench) -> Outcome {
    let body = json!({"key": bench.object.key, "pad": "x".repeat(REQUEST_MAX_BYTES)});
    rejects(bench, body.to_string(), "").await
}

async fn keys(bench: &Bench) -> Outcome {
    rejects(bench, "{}", "`key`").await?;
    for key in ["", "a\nb", "a\rb", "a\u{0}b", &"k".repeat(Key::MAX_BYTES + 1)] {
        rejects(bench, json!({"key": key}).to_string(), "`key`").await?;
    }
    rejects(bench, r#"{"key": 5}"#, "`key`").await
}

async fn numbers(bench: &Bench) -> Outcome {
    for name in ["start", "end", "credit", "window", "chunk_max"] {
        for value in [json!(-1), json!(1.5), json!("1"), json!(1_u64 << 63), json!(true)] {
            named(bench, name, value).await?;
        }
    }
    Ok(())
}

async fn nulls(bench: &Bench) -> Outcome {
    for name in ["start", "keeps_alive"] {
        named(bench, name, Value::Null).await?;
    }
    Ok(())
}

async fn window_and_credit(bench: &Bench) -> Outcome {
    let error = Talk::get(bench, json!({"window": 1000, "credit": 1000})).await?.refused(Code::BadRequest).await?;
    check(error.message.contains("`window`"), || format!("the message does not name `window`: {}", error.message))
}

async fn contexts(bench: &Bench) -> Outcome {
    for context in ["a\nb", " a", "a ", &"c".repeat(CONTEXT_MAX_BYTES + 1)] {
        let body = json!({"key": bench.object.key, "context": context});
        rejects(bench, body.to_string(), "`context`").await?;
    }
    Ok(())
}
