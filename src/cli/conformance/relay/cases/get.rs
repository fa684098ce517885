//! Transfers, ranges and versions.

use gantry_proto::{Code, limits};
use serde_json::json;

use super::super::bench::{Bench, Broken, Case, Outcome, check};
use super::super::talk::Talk;

/// The largest object that is read as a whole, in bytes.
const WHOLE_MAX: u64 = 64 << 20;

pub(super) const CASES: &[Case] = &[
    Case {
        id: "get",
        section: "Messages of a transfer",
        rule: "chunks are contiguous, numbered and match their CRCs; `end` counts them",
        run: |bench| Box::pin(whole(bench)),
    },
    Case {
        id: "get-checksum",
        section: "Integrity",
        rule: "the bytes match the checksum that the store keeps",
        run: |bench| Box::pin(checksum(bench)),
    },
    Case {
        id: "get-accepted",
        section: "get",
        rule: "`accepted` describes the object and keeps within the bounds",
        run: |bench| Box::pin(accepted(bench)),
    },
    Case {
        id: "get-range",
        section: "get",
        rule: "a range has absolute offsets and an exclusive end",
        run: |bench| Box::pin(range(bench)),
    },
    Case {
        id: "get-empty-range",
        section: "get",
        rule: "`start` may equal the size: zero chunks and an `end`",
        run: |bench| Box::pin(empty_range(bench)),
    },
    Case {
        id: "get-end-past-size",
        section: "get",
        rule: "an `end` past the size means the size",
        run: |bench| Box::pin(end_past_size(bench)),
    },
    Case {
        id: "get-start-past-size",
        section: "get",
        rule: "a `start` past the size or past `end` is the error `range`",
        run: |bench| Box::pin(start_past_size(bench)),
    },
    Case {
        id: "get-pinned",
        section: "get",
        rule: "with the object's `if_match` the request is accepted",
        run: |bench| Box::pin(pinned(bench)),
    },
    Case {
        id: "get-changed",
        section: "get",
        rule: "with another `if_match` the answer is `changed`",
        run: |bench| Box::pin(changed(bench)),
    },
    Case {
        id: "get-missing",
        section: "Errors",
        rule: "a key without an object is `not_found`",
        run: |bench| Box::pin(missing(bench)),
    },
    Case {
        id: "get-chunk-max",
        section: "Bounds",
        rule: "`chunk_max` limits chunks; less than 1,024 counts as 1,024",
        run: |bench| Box::pin(chunk_max(bench)),
    },
    Case {
        id: "get-default-credit",
        section: "get",
        rule: "without `credit` and `window`, the credit is `start` + 2 MiB, limited to `end`",
        run: |bench| Box::pin(default_credit(bench)),
    },
    Case {
        id: "get-unknown-members",
        section: "Versions and extensions",
        rule: "a relay ignores unknown members, and takes `null` of optional ones as absent",
        run: |bench| Box::pin(unknown_members(bench)),
    },
];

async fn whole(bench: &Bench) -> Outcome {
    let end = bench.object.size.min(WHOLE_MAX);
    let mut talk = Talk::get(bench, json!({"end": end})).await?;
    let accepted = talk.accepted().await?;
    let read = talk.read_all(&accepted).await?;
    check(read.offset == end, || format!("sent {} bytes of {end}", read.offset))?;
    talk.silence().await
}

async fn checksum(bench: &Bench) -> Outcome {
    use gantry_proto::{ChecksumAlgorithm, ChecksumKind};

    let Some(stored) = &bench.object.checksum else { return Err(Broken::Inapplicable("the store keeps no checksum")) };
    if (stored.algorithm, stored.kind) != (ChecksumAlgorithm::Crc64Nvme, ChecksumKind::FullObject) {
        return Err(Broken::Inapplicable("the checksum is not CRC-64/NVME of the object"));
    }
    if bench.object.size > WHOLE_MAX {
        return Err(Broken::Inapplicable("the object is large"));
    }

    let mut talk = Talk::get(bench, json!({})).await?;
    let accepted = talk.accepted().await?;
    let read = talk.read_all(&accepted).await?;
    let value = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(read.crc.to_be_bytes())
    };
    check(value == stored.value, || format!("the bytes have the checksum {value}, stored is {}", stored.value))
}

async fn accepted(bench: &Bench) -> Outcome {
    let mut talk = Talk::get(bench, json!({"credit": 1000})).await?;
    let accepted = talk.accepted().await?;

    check(accepted.object == bench.object, || format!("the object is {:?}", accepted.object))?;
    let range = (accepted.start, accepted.end);
    check(range == (0, bench.object.size), || format!("the range is {range:?}"))?;
    check(accepted.credit == 1000, || format!("`credit` is {}", accepted.credit))?;
    check(accepted.window_max >= limits::WINDOW_MIN_BYTES, || format!("`window_max` is {}", accepted.window_max))?;
    check((50..=10_000).contains(&accepted.beat_ms), || format!("`beat_ms` is {}", accepted.beat_ms))?;
    check((1_000..=3_600_000).contains(&accepted.idle_ms), || format!("`idle_ms` is {}", accepted.idle_ms))?;
    talk.control(&accepted, &json!({"cancel": true})).await
}

async fn range(bench: &Bench) -> Outcome {
    let mut talk = Talk::get(bench, json!({"start": 12_345, "end": 67_890})).await?;
    let accepted = talk.accepted().await?;
    let range = (accepted.start, accepted.end);
    check(range == (12_345, 67_890), || format!("the range is {range:?}"))?;
    talk.read_all(&accepted).await.map(drop)
}

async fn empty_range(bench: &Bench) -> Outcome {
    let mut talk = Talk::get(bench, json!({"start": bench.object.size})).await?;
    let accepted = talk.accepted().await?;
    let read = talk.read_all(&accepted).await?;
    check(read.chunks == 0, || format!("sent {} chunks", read.chunks))
}

async fn end_past_size(bench: &Bench) -> Outcome {
    let start = bench.object.size - 1000;
    let mut talk = Talk::get(bench, json!({"start": start, "end": i64::MAX})).await?;
    let accepted = talk.accepted().await?;
    check(accepted.end == bench.object.size, || format!("`end` is {}", accepted.end))?;
    talk.read_all(&accepted).await.map(drop)
}

async fn start_past_size(bench: &Bench) -> Outcome {
    let size = bench.object.size;
    for members in [json!({"start": size + 1}), json!({"start": 10, "end": 9})] {
        Talk::get(bench, members).await?.refused(Code::Range).await?;
    }
    Ok(())
}

async fn pinned(bench: &Bench) -> Outcome {
    let pin = bench.object.pin();
    let members = json!({"if_match": pin.if_match, "version_id": pin.version_id, "end": 10});
    let mut talk = Talk::get(bench, members).await?;
    let accepted = talk.accepted().await?;
    talk.read_all(&accepted).await.map(drop)
}

async fn changed(bench: &Bench) -> Outcome {
    let mut talk = Talk::get(bench, json!({"if_match": "\"no such version\""})).await?;
    talk.refused(Code::Changed).await.map(drop)
}

async fn missing(bench: &Bench) -> Outcome {
    let key = format!("{}.missing-{}", &bench.object.key.as_str()[..0], uuid::Uuid::new_v4());
    Talk::get(bench, json!({"key": key})).await?.refused(Code::NotFound).await.map(drop)
}

async fn chunk_max(bench: &Bench) -> Outcome {
    for (requested, limit) in [(5000, 5000), (8, 1024)] {
        let mut talk = Talk::get(bench, json!({"chunk_max": requested, "end": 20_000})).await?;
        let accepted = talk.accepted().await?;
        check(accepted.chunk_max <= limit, || format!("`chunk_max` is {}", accepted.chunk_max))?;
        talk.read_all(&accepted).await?;
    }
    Ok(())
}

async fn default_credit(bench: &Bench) -> Outcome {
    let mut talk = Talk::get(bench, json!({"start": 100})).await?;
    let accepted = talk.accepted().await?;
    let expected = (100 + limits::WINDOW_DEFAULT_BYTES).min(accepted.end).min(100 + accepted.window_max);
    check(accepted.credit == expected, || format!("`credit` is {} instead of {expected}", accepted.credit))?;
    talk.control(&accepted, &json!({"cancel": true})).await
}

async fn unknown_members(bench: &Bench) -> Outcome {
    let members = json!({"colour": {"a": [1]}, "end": 5000, "if_match": null, "version_id": null, "chunk_max": null});
    let mut talk = Talk::get(bench, members).await?;
    let accepted = talk.accepted().await?;
    talk.read_all(&accepted).await.map(drop)
}
