//! `docs/PROTOCOL.md` matches the code: its transcript is played against a relay, and its tables are compared.

use std::collections::BTreeMap;

use bytes::Bytes;
use gantry_proto::subject::QUEUE_GROUP;
use gantry_proto::{CONTEXT_MAX_BYTES, Code, HEADERS_MAX_BYTES, Key, REQUEST_MAX_BYTES, limits};
use gantry_relay::Options;
use serde_json::Value;

use crate::raw::{Heard, Inbox, Item, Shelf, World};

const PROTOCOL: &str = include_str!("../../docs/PROTOCOL.md");

/// A message in a transcript.
#[derive(Debug, Default)]
pub(crate) struct Line {
    pub(crate) is_consumers: bool,
    pub(crate) subject: String,
    pub(crate) reply: Option<String>,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) payload: String,
}

/// Maps the transcript's placeholders to the names of this run, and back.
#[derive(Default)]
struct Names {
    real: BTreeMap<String, String>,
}

#[tokio::test]
async fn a_relay_sends_the_documented_transcript() {
    let shelf = Shelf::default()
        .bytes("greeting.txt", "Hello from the relay")
        .put("image.bin", Item::Replaced(Bytes::from_static(b"0123456789abcdef")));
    // The relay must send the bytes that a store delivers before it fails.
    let world = World::new(shelf, Options { gather_min_bytes: 4, ..Options::default() }).await;
    let mut names = Names::default();
    let mut inboxes: BTreeMap<String, Inbox> = BTreeMap::new();
    let lines = transcript(PROTOCOL);
    assert!(lines.len() > 15, "only {} messages found", lines.len());

    for line in &lines {
        if line.is_consumers {
            let reply = line.reply.clone().expect("a consumer names its inbox");
            if !inboxes.contains_key(&reply) {
                let inbox = world.inbox().await;
                names.learn(&reply, &inbox.subject);
                inboxes.insert(reply.clone(), inbox);
            }
            let subject = names.to_real(&line.subject);
            let payload = Bytes::from(line.payload.clone());
            world.client.publish_with_reply(subject, inboxes[&reply].subject.clone(), payload).await.unwrap();
        } else {
            let inbox = inboxes.get_mut(&line.subject).expect("the inbox was named before");
            let is_beat = line.headers.get("Gantry-Type").is_some_and(|kind| kind == "beat");
            // On a busy machine a second may pass, and the relay then sends a beat that is not in the transcript.
            let heard = if is_beat { inbox.next().await } else { inbox.next_but_beats().await };
            names.learn_from(line, &heard);
            compare(line, &heard, &names);
        }
    }
}

#[test]
fn the_documented_errors_match_the_code() {
    let table = PROTOCOL.split("\n## Errors\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = table.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let code = cells.next()?.trim_end_matches('`').to_owned();
        Some((code, cells.next()?.parse::<u16>().ok()?, cells.next()? == "yes"))
    });
    let codes = Code::ALL.map(|code| (code.name().to_owned(), code.number(), code.is_retryable()));
    assert_eq!(rows.collect::<Vec<_>>(), codes);
}

#[test]
fn the_documented_limits_match_the_code() {
    let options = Options::default();
    for limit in [
        format!("at most {} bytes |", grouped(REQUEST_MAX_BYTES)),
        format!("at most {CONTEXT_MAX_BYTES} bytes"),
        format!("1 to {} bytes of UTF-8", Key::MAX_BYTES),
        format!("{HEADERS_MAX_BYTES} bytes of it are left for\nheaders"),
        format!("the relay's ({} by default)", grouped(options.chunk_max_bytes)),
        format!("| `beat_ms` | {} ms |", grouped(options.beat_interval.as_millis())),
        format!("| `idle_ms` | {} ms |", grouped(options.idle_timeout.as_millis())),
        format!("| drain grace | {} ms |", grouped(options.drain_grace.as_millis())),
        format!("queue group `{QUEUE_GROUP}`"),
    ] {
        assert!(PROTOCOL.contains(&limit), "{limit:?} is not in the document");
    }
}

#[test]
fn the_documented_bounds_match_the_code() {
    let ms = |bound: std::time::Duration| grouped(bound.as_millis());
    for row in [
        format!("| `chunk_max` of a request | consumer | {} (0 is rejected) |", grouped(limits::CHUNK_MIN_BYTES)),
        format!("| `window_max` | relay | {} |", limits::WINDOW_MIN_BYTES),
        format!("| `beat_ms` | relay | {} | {} |", ms(limits::BEAT_MIN), ms(limits::BEAT_MAX)),
        format!("| `idle_ms` | relay | {} | {} |", ms(limits::IDLE_MIN), ms(limits::IDLE_MAX)),
        format!("| `retry_after_ms` | relay | 0 | {} |", ms(limits::RETRY_AFTER_MAX)),
        format!("| `limit` of a list | consumer | 1 (0 is rejected) | {} |", grouped(limits::PAGE_MAX)),
        format!("| `token`, `next` | both | 0 | {} bytes |", grouped(limits::TOKEN_MAX_BYTES)),
        format!("| `etag`, `version_id` | relay | 1 | {} bytes", grouped(limits::VERSION_MAX_BYTES)),
        format!("names and values together | relay | 0 | {} bytes |", grouped(limits::METADATA_MAX_BYTES)),
        format!("`last_modified` | relay | 0 | {} bytes |", grouped(limits::DESCRIPTION_MAX_BYTES)),
        format!("| `value` of a checksum | relay | 0 | {} bytes |", grouped(limits::CHECKSUM_MAX_BYTES)),
        format!("| `parts` of a checksum | relay | 0 | {} runs |", grouped(limits::PART_RUNS_MAX)),
        format!("| `message` of an error | relay | 0 | {} bytes |", grouped(limits::MESSAGE_MAX_BYTES)),
        format!("| answer to a `$SRV` question | relay | 0 | {} bytes |", grouped(limits::SERVICE_MAX_BYTES)),
        format!("token of 1 to {} characters from `A-Z a-z 0-9 _ -` |", limits::INSTANCE_MAX_BYTES),
    ] {
        assert!(PROTOCOL.contains(&row), "{row:?} is not in the document");
    }
}

/// Writes a number with commas between its thousands.
fn grouped(number: impl ToString) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn compare(line: &Line, heard: &Heard, names: &Names) {
    let documented = |text: &str| names.to_documented(text);
    assert_eq!(heard.reply().map(documented), line.reply, "{line:?}");
    let headers: BTreeMap<_, _> = heard.headers().into_iter().map(|(name, value)| (name, documented(&value))).collect();
    assert_eq!(headers, line.headers, "{line:?}");
    let payload = documented(std::str::from_utf8(&heard.0.payload).unwrap());
    match (serde_json::from_str::<Value>(&payload), serde_json::from_str::<Value>(&line.payload)) {
        (Ok(mut heard), Ok(mut documented)) => {
            forget_version(&mut heard);
            forget_version(&mut documented);
            assert_eq!(heard, documented, "{line:?}");
        }
        _ => assert_eq!(payload, line.payload, "{line:?}"),
    }
}

/// Replaces values that vary: each release changes the service's version, and each machine has its own name.
fn forget_version(body: &mut Value) {
    if let Some(version) = body.get_mut("version") {
        *version = Value::Null;
    }
    for place in ["/metadata/host", "/host"] {
        if let Some(host) = body.pointer_mut(place) {
            *host = Value::Null;
        }
    }
}

impl Names {
    fn learn(&mut self, documented: &str, real: &str) {
        self.real.entry(documented.to_owned()).or_insert_with(|| real.to_owned());
    }

    /// Learns the instance, the transfer and the relay's secret from the first message that contains them.
    fn learn_from(&mut self, line: &Line, heard: &Heard) {
        if let (Some(documented), Some(real)) = (line.headers.get("Gantry-Transfer"), heard.header("Gantry-Transfer")) {
            self.learn(documented, real);
        }
        if line.headers.get("Gantry-Type").is_some_and(|kind| kind == "accepted") {
            let documented: Value = serde_json::from_str(&line.payload).unwrap();
            self.learn(documented["instance"].as_str().unwrap(), heard.json()["instance"].as_str().unwrap());
        }
        if let (Some(documented), Some(real)) = (&line.reply, heard.reply()) {
            for (documented, real) in documented.split('.').zip(real.split('.')).skip(3) {
                self.learn(documented, real);
            }
        }
    }

    fn to_real(&self, text: &str) -> String {
        self.real.iter().fold(text.to_owned(), |text, (documented, real)| text.replace(documented, real))
    }

    fn to_documented(&self, text: &str) -> String {
        self.real.iter().fold(text.to_owned(), |text, (documented, real)| text.replace(real, documented))
    }
}

/// Parses the messages in a document's fenced blocks.
pub(crate) fn transcript(document: &str) -> Vec<Line> {
    let blocks = document.split("```transcript\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.flat_map(messages).collect()
}

fn messages(block: &str) -> Vec<Line> {
    let mut found: Vec<Line> = Vec::new();
    let mut in_payload = false;

    for text in block.lines() {
        let Some((from, addressed)) = text.split_once("> ").filter(|(from, _)| ["C", "R"].contains(from)) else {
            let line = found.last_mut().expect("a block begins with a message");
            match text.split_once(": ") {
                _ if in_payload => {
                    line.payload.push_str(text);
                    line.payload.push('\n');
                }
                Some((name, value)) => drop(line.headers.insert(name.to_owned(), value.to_owned())),
                None => in_payload = text.is_empty(),
            }
            continue;
        };
        in_payload = false;
        let (subject, reply) =
            addressed.split_once(" reply ").map_or((addressed, None), |(s, r)| (s, Some(r.to_owned())));
        found.push(Line { is_consumers: from == "C", subject: subject.to_owned(), reply, ..Line::default() });
    }

    for line in &mut found {
        line.payload.truncate(line.payload.trim_end().len());
    }
    found
}
