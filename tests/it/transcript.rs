//! The worked transcript of `docs/PROTOCOL.md` is what a relay sends: it is played against one.

use std::collections::BTreeMap;

use bytes::Bytes;
use gantry_relay::relay::Options;
use serde_json::Value;

use crate::raw::{Heard, Inbox, Item, Shelf, World};

const PROTOCOL: &str = include_str!("../../docs/PROTOCOL.md");

/// A message of the transcript.
#[derive(Debug, Default)]
struct Line {
    is_consumers: bool,
    subject: String,
    reply: Option<String>,
    headers: BTreeMap<String, String>,
    payload: String,
}

/// What stands in the transcript for the names that only a run knows, to and fro.
#[derive(Default)]
struct Names {
    real: BTreeMap<String, String>,
}

#[tokio::test]
async fn the_documented_transcript_is_what_a_relay_sends() {
    let shelf = Shelf::default()
        .bytes("greeting.txt", "Hello from the relay")
        .put("image.bin", Item::Replaced(Bytes::from_static(b"0123456789abcdef")));
    let world = World::new(shelf, Options::default()).await;
    let mut names = Names::default();
    let mut inboxes: BTreeMap<String, Inbox> = BTreeMap::new();
    let lines = transcript();
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
            let heard = inbox.next().await;
            names.learn_from(line, &heard);
            compare(line, &heard, &names);
        }
    }
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

/// A release changes the version that a service states; the document need not follow.
fn forget_version(body: &mut Value) {
    if let Some(version) = body.get_mut("version") {
        *version = Value::Null;
    }
}

impl Names {
    fn learn(&mut self, documented: &str, real: &str) {
        self.real.entry(documented.to_owned()).or_insert_with(|| real.to_owned());
    }

    /// Takes the instance and the transfer from where a message first names them.
    fn learn_from(&mut self, line: &Line, heard: &Heard) {
        if let (Some(documented), Some(real)) = (line.headers.get("Gantry-Transfer"), heard.header("Gantry-Transfer")) {
            self.learn(documented, real);
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

/// Reads the messages out of the document's fenced blocks.
fn transcript() -> Vec<Line> {
    let blocks = PROTOCOL.split("```transcript\n").skip(1).map(|rest| rest.split("```").next().unwrap());
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
