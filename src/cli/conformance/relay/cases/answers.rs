//! `stat`, `list`, discovery and the delivery allow-list.

use futures_util::StreamExt as _;
use gantry_bus::Message;
use gantry_proto::subject::{Operation, SERVICE};
use gantry_proto::{Code, ListPage, ObjectInfo, message};
use serde_json::{Value, json};
use tokio::time::timeout;
use uuid::Uuid;

use super::super::bench::{Bench, Case, NOTHING_WITHIN, Outcome, ask, check, parse, rule};

const STAT: &str = "stat";
const LIST: &str = "list";

/// The maximum number of pages to read.
const PAGES_MAX: usize = 5;

pub(super) const CASES: &[Case] = &[
    Case {
        id: "stat",
        section: STAT,
        rule: "the answer describes the object, without headers",
        run: |bench| Box::pin(stat(bench)),
    },
    Case {
        id: "stat-errors",
        section: STAT,
        rule: "errors of `stat` are those of the services API with a JSON body",
        run: |bench| Box::pin(stat_errors(bench)),
    },
    Case {
        id: "list",
        section: LIST,
        rule: "entries and prefixes are in ascending order, and pages keep to `limit`",
        run: |bench| Box::pin(list(bench)),
    },
    Case {
        id: "list-errors",
        section: LIST,
        rule: "a `limit` of 0, a long `prefix` and another `v` are rejected",
        run: |bench| Box::pin(list_errors(bench)),
    },
    Case {
        id: "discovery",
        section: "Discovery",
        rule: "a relay answers `$SRV.PING`, `$SRV.INFO` and `$SRV.STATS` with its metadata",
        run: |bench| Box::pin(discovery(bench)),
    },
    Case {
        id: "delivery",
        section: "Security",
        rule: "a relay publishes nothing to a reply subject outside its allow-list",
        run: |bench| Box::pin(delivery(bench)),
    },
];

async fn stat(bench: &Bench) -> Outcome {
    let answer = bench.ask_json(Operation::Stat, &json!({"key": bench.object.key, "colour": "blue"})).await?;
    let object: ObjectInfo = match serde_json::from_value(answer) {
        Ok(object) => object,
        Err(error) => return rule(format!("an unreadable answer: {error}")),
    };
    check(object == bench.object, || format!("the object is {object:?}"))
}

async fn stat_errors(bench: &Bench) -> Outcome {
    let key = bench.object.key.as_str();
    for (body, code) in [
        (json!({"key": format!("missing-{}", Uuid::new_v4())}), Code::NotFound),
        (json!({"key": key, "if_match": "\"no such version\""}), Code::Changed),
        (json!({"key": key, "v": 2}), Code::BadRequest),
        (json!({"key": ""}), Code::BadRequest),
    ] {
        refused(bench, Operation::Stat, &body, code).await?;
    }
    Ok(())
}

async fn list(bench: &Bench) -> Outcome {
    let mut token: Option<String> = None;
    let mut last = String::new();
    for _ in 0..PAGES_MAX {
        let body = json!({"limit": 3, "recursive": true, "token": token});
        let page: ListPage = parse(&bench.ask(Operation::List, body.to_string()).await?)?;
        check(page.entries.len() <= 3, || format!("a page has {} entries", page.entries.len()))?;
        for entry in &page.entries {
            check(last.as_bytes() < entry.key.as_bytes(), || format!("{:?} follows {last:?}", entry.key))?;
            last.clone_from(&entry.key);
        }
        token = page.next;
        if token.is_none() {
            break;
        }
    }

    // An empty body means `{}`.
    parse::<ListPage>(&bench.ask(Operation::List, Vec::new()).await?).map(drop)
}

async fn list_errors(bench: &Bench) -> Outcome {
    for body in [json!({"limit": 0}), json!({"prefix": "p".repeat(1025)}), json!({"v": 2}), json!({"limit": "many"})] {
        refused(bench, Operation::List, &body, Code::BadRequest).await?;
    }
    Ok(())
}

async fn refused(bench: &Bench, operation: Operation, body: &Value, code: Code) -> Outcome {
    let answer = bench.ask(operation, body.to_string()).await?;
    let Some(error) = message::error_of(&answer.headers, &answer.payload) else {
        return rule(format!("accepted {body}"));
    };
    check(error.code == code, || format!("answered {body} with {} instead of {}", error.code.name(), code.name()))?;
    let number = answer.headers.get(message::SERVICE_ERROR_CODE).map(str::to_owned);
    check(number.as_deref() == Some(&*code.number().to_string()), || format!("the number is {number:?}"))
}

async fn discovery(bench: &Bench) -> Outcome {
    for (verb, kind) in [("PING", "ping"), ("INFO", "info"), ("STATS", "stats")] {
        let answer: Value = parse(&ask(&*bench.bus, format!("$SRV.{verb}.{SERVICE}"), Vec::new()).await?)?;
        let expected = format!("io.nats.micro.v1.{kind}_response");
        check(answer["type"] == expected, || format!("`type` is {}", answer["type"]))?;
        check(answer["name"] == SERVICE, || format!("`name` is {}", answer["name"]))?;
        let metadata = &answer["metadata"];
        check(metadata["protocol"] == "1", || format!("`protocol` is {}", metadata["protocol"]))?;

        let instance = answer["id"].as_str().unwrap_or_default().to_owned();
        let own: Value = parse(&ask(&*bench.bus, format!("$SRV.{verb}.{SERVICE}.{instance}"), Vec::new()).await?)?;
        check(own["id"] == instance, || format!("{instance} is answered by {}", own["id"]))?;
    }
    Ok(())
}

async fn delivery(bench: &Bench) -> Outcome {
    let reply = format!("{}.conformance.reply.{}", bench.prefix, Uuid::new_v4().simple());
    let mut stray = bench.bus.subscribe(&reply, None).await?;
    let request = Message {
        subject: bench.prefix.request(Operation::Get, &bench.store),
        reply: Some(reply),
        payload: json!({"key": bench.object.key, "end": 10}).to_string().into(),
        ..Message::default()
    };
    bench.bus.publish(request).await?;
    match timeout(NOTHING_WITHIN, stray.next()).await {
        Ok(_) => rule("published to a subject that is not an inbox"),
        Err(_) => Ok(()),
    }
}
