//! Objects and answers that are correct but unusual, and errors.

use gantry_proto::message;

use super::super::case::{CHUNK, CORRECT, Case, Check, Expect, Level, OBJECT, Object, Stage, Step, as_is};

const GET: &str = "get";
const ERRORS: &str = "Errors";

pub(super) const CASES: &[Case] = &[
    Case { id: "get", section: GET, rule: "a correct transfer ends with the complete file", ..CORRECT },
    Case {
        id: "get-empty",
        section: GET,
        rule: "the transfer of an empty object has no chunks and an `end`",
        object: Object { size: 0, ..OBJECT },
        ..CORRECT
    },
    Case {
        id: "get-one-byte",
        section: GET,
        rule: "an object may have a single byte",
        object: Object { size: 1, ..OBJECT },
        ..CORRECT
    },
    Case {
        id: "get-odd-key",
        section: "Types and limits",
        rule: "a key is any text of 1 to 1024 bytes without NUL, CR or LF",
        object: Object { key: "../ü \"quotes\" {} $HOME *.>", ..OBJECT },
        ..CORRECT
    },
    Case {
        id: "get-many-windows",
        section: "Credit",
        rule: "the consumer gives credit until the end of a large object",
        object: Object { size: 150 * CHUNK, ..OBJECT },
        ..CORRECT
    },
    Case {
        id: "unknown-members",
        section: "Versions and extensions",
        rule: "both sides must ignore members and headers that they don't know",
        scripts: &[&[
            Step::Accept(|body| body["hops"] = serde_json::json!([1, {"a": null}])),
            Step::Chunk(|chunk| chunk.set("Gantry-Later", "1")),
            Step::Rest,
            Step::End(|body| body["later"] = true.into()),
        ]],
        ..CORRECT
    },
    Case {
        id: "null-members",
        section: "Types and limits",
        rule: "a receiver should treat `null` as absent for an optional member without a default",
        scripts: &[&[
            Step::Accept(|body| {
                body["last_modified"] = serde_json::Value::Null;
                body["content_type"] = serde_json::Value::Null;
            }),
            Step::Rest,
            Step::End(as_is),
        ]],
        ..CORRECT
    },
    Case {
        id: "missing-members",
        section: GET,
        rule: "`accepted` need not have `metadata`, and the members that are absent when unknown",
        scripts: &[&[
            Step::Accept(|body| {
                if let Some(members) = body.as_object_mut() {
                    members.retain(|name, _| !["metadata", "version_id", "checksum"].contains(&name.as_str()));
                }
            }),
            Step::Rest,
            Step::End(as_is),
        ]],
        ..CORRECT
    },
    Case {
        id: "beats-before-accepted",
        section: "Order",
        rule: "beats may precede `accepted`, while the relay opens the store",
        scripts: &[&[Step::Beats(8), Step::Accept(as_is), Step::Rest, Step::End(as_is)]],
        checks: &[Check::Requests(1)],
        ..CORRECT
    },
    Case {
        id: "error-not-found",
        section: ERRORS,
        rule: "an error that is not retryable ends the download",
        expect: Expect::Failure,
        scripts: &[&[Step::Refusal("not_found", false, None)]],
        checks: &[Check::Requests(1)],
        ..CORRECT
    },
    Case {
        id: "error-busy",
        section: ERRORS,
        rule: "after a retryable error, the consumer waits `retry_after_ms` and requests again",
        expect: Expect::Recovery,
        scripts: &[&[Step::Refusal("busy", true, Some(700))]],
        checks: &[Check::WaitsBeforeRetry(700)],
        ..CORRECT
    },
    Case {
        id: "error-unknown-retryable",
        section: ERRORS,
        rule: "a consumer that receives an unknown `code` must act on `retryable`: here true",
        expect: Expect::Recovery,
        scripts: &[&[Step::Refusal("overloaded", true, None)]],
        ..CORRECT
    },
    Case {
        id: "error-unknown-final",
        section: ERRORS,
        rule: "a consumer that receives an unknown `code` must act on `retryable`: here false",
        expect: Expect::Failure,
        scripts: &[&[Step::Refusal("abolished", false, None)]],
        checks: &[Check::Requests(1)],
        ..CORRECT
    },
    Case {
        id: "error-without-body",
        section: ERRORS,
        rule: "an error without a readable JSON body counts as `internal`, which is retryable",
        expect: Expect::Recovery,
        scripts: &[&[Step::Raw(|draft| {
            draft.set(message::TYPE, "error");
            draft.set(message::SERVICE_ERROR, "from a proxy");
            draft.set(message::SERVICE_ERROR_CODE, 500);
            draft.payload = b"<html>".to_vec();
        })]],
        ..CORRECT
    },
    Case {
        id: "error-without-retryable",
        section: ERRORS,
        rule: "an error without `retryable` is unreadable, whatever its `code`",
        expect: Expect::Recovery,
        scripts: &[&[Step::Raw(|draft| {
            draft.set(message::TYPE, "error");
            draft.set(message::SERVICE_ERROR, "not found");
            draft.set(message::SERVICE_ERROR_CODE, 404);
            draft.payload = br#"{"code": "not_found", "message": "not found"}"#.to_vec();
        })]],
        ..CORRECT
    },
    Case {
        id: "error-odd-members",
        section: ERRORS,
        rule: "an error with a member of another type is unreadable",
        expect: Expect::Recovery,
        scripts: &[&[Step::Raw(|draft| {
            draft.set(message::TYPE, "error");
            draft.set(message::SERVICE_ERROR, "not found");
            draft.set(message::SERVICE_ERROR_CODE, 404);
            draft.payload = br#"{"code": "not_found", "message": "not found", "retryable": "false"}"#.to_vec();
        })]],
        ..CORRECT
    },
    Case {
        id: "error-odd-text",
        section: ERRORS,
        rule: "an error whose body is not UTF-8 is unreadable",
        expect: Expect::Recovery,
        scripts: &[&[Step::Raw(|draft| {
            draft.set(message::TYPE, "error");
            draft.set(message::SERVICE_ERROR, "not found");
            draft.set(message::SERVICE_ERROR_CODE, 404);
            draft.payload = b"{\"code\": \"not_found\", \"message\": \"\xff\", \"retryable\": false}".to_vec();
        })]],
        ..CORRECT
    },
    Case {
        id: "error-midway",
        section: ERRORS,
        rule: "an `error` during a transfer ends it; after a retryable one, the consumer requests the rest",
        expect: Expect::Recovery,
        scripts: &[&[Step::Accept(as_is), Step::Chunks(2), Step::Error("store_unavailable", true, None)]],
        checks: &[Check::ResumesExactly],
        ..CORRECT
    },
    Case {
        id: "error-changed",
        section: ERRORS,
        rule: "the error `changed` during a transfer ends the download",
        expect: Expect::Failure,
        scripts: &[&[Step::Accept(as_is), Step::Chunks(2), Step::Error("changed", false, None)]],
        checks: &[Check::Requests(1)],
        ..CORRECT
    },
    Case {
        id: "no-relay",
        section: "Recovery",
        rule: "a consumer fails soon if no relay serves the store",
        expect: Expect::Failure,
        stage: Stage::Empty,
        ..CORRECT
    },
    Case {
        id: "no-relay-for-a-moment",
        section: ERRORS,
        rule: "a `503` to the first requests means that no relay listens at this moment",
        expect: Expect::Recovery,
        scripts: &[&[Step::Leave, Step::Refusal("draining", true, None)]],
        ..CORRECT
    },
    Case {
        id: "retries-are-spaced",
        section: "Recovery",
        rule: "recoveries without progress should be spaced, from 100 ms doubling to 2 s, with jitter",
        level: Level::Resuming,
        scripts: &[
            &[Step::Accept(as_is), Step::Chunks(1), Step::Error("store_unavailable", true, None)],
            &[Step::Refusal("store_unavailable", true, None)],
            &[Step::Refusal("busy", true, None)],
            &[Step::Refusal("store_unavailable", true, None)],
            &[Step::Refusal("busy", true, None)],
        ],
        checks: &[Check::SpacesRetries],
        ..CORRECT
    },
];
