//! A consumer of version 0.1 gets from today's relay what its document promised: that version's transcript is played again.
//!
//! What has changed since then, and why a consumer of version 0.1 does not mind:
//!
//! - A `chunk_max` below 1,024 counts as 1,024, so that chunks are larger. Such a consumer compares a chunk with the
//!   `chunk_max` of `accepted` only, and counts the chunks that it receives.
//! - The reply subject of a transfer's messages is no longer the control subject. It publishes to `control`.
//! - Texts of errors are worded differently, and objects have further members.

use std::collections::BTreeMap;

use bytes::Bytes;
use gantry_relay::Options;
use serde_json::{Value, json};

use crate::raw::{Heard, Inbox, Item, Shelf, World};
use crate::transcript::{Line, transcript};

const TRANSCRIPT: &str = include_str!("transcript_of_0_1.md");

/// How far a consumer has got in one transfer.
#[derive(Default)]
struct Progress {
    control: String,
    transfer: String,
    /// What the transcript's chunks and the relay's chunks contain.
    documented: Vec<u8>,
    received: Vec<u8>,
    start: usize,
    chunks: u64,
    chunk_max: usize,
}

#[tokio::test]
async fn the_transcript_of_version_0_1_is_still_valid() {
    let shelf = Shelf::default()
        .bytes("greeting.txt", "Hello from the relay")
        .put("image.bin", Item::Replaced(Bytes::from_static(b"0123456789abcdef")));
    let world = World::new(shelf, Options { gather_min_bytes: 4, ..Options::default() }).await;
    let mut inboxes: BTreeMap<String, (Inbox, Progress)> = BTreeMap::new();
    let lines = transcript(TRANSCRIPT);
    assert!(lines.len() > 15, "only {} messages found", lines.len());

    for line in &lines {
        if line.is_consumers {
            let reply = line.reply.clone().expect("a consumer names its inbox");
            if !inboxes.contains_key(&reply) {
                inboxes.insert(reply.clone(), (world.inbox().await, Progress::default()));
            }
            let (inbox, progress) = &inboxes[&reply];
            let is_control = line.subject.starts_with("gantry.v1.ctl.");
            let subject = if is_control { progress.control.clone() } else { line.subject.clone() };
            let payload = Bytes::from(line.payload.clone());
            world.client.publish_with_reply(subject, inbox.subject.clone(), payload).await.unwrap();
        } else {
            let (inbox, progress) = inboxes.get_mut(&line.subject).expect("the inbox was named before");
            progress.take(line, inbox).await;
        }
    }
}

impl Progress {
    /// Reads what corresponds to one message of the transcript.
    async fn take(&mut self, line: &Line, inbox: &mut Inbox) {
        match line.headers.get("Gantry-Type").map(String::as_str) {
            Some("chunk") => {
                self.documented.extend_from_slice(line.payload.as_bytes());
                // The relay may have sent these bytes together with the previous ones.
                while self.received.len() < self.documented.len() {
                    let chunk = inbox.next_but_beats().await;
                    self.take_chunk(line, &chunk);
                }
                assert!(self.received.starts_with(&self.documented), "{:?}", self.received);
            }
            Some("beat") => {
                let beat = inbox.next().await;
                let wait = (beat.kind(), beat.header("Gantry-Wait"));
                assert_eq!(wait, ("beat", line.headers.get("Gantry-Wait").map(String::as_str)), "{beat:?}");
                let position = (beat.number("Gantry-Seq"), beat.header("Gantry-Offset").map(str::to_owned));
                assert_eq!(position, (self.chunks, line.headers.get("Gantry-Offset").cloned()), "{beat:?}");
            }
            kind => {
                let heard = inbox.next_but_beats().await;
                assert_eq!(heard.header("Gantry-Type"), kind, "{heard:?}");
                self.take_answer(line, &heard);
            }
        }
    }

    fn take_chunk(&mut self, line: &Line, chunk: &Heard) {
        let position = (chunk.number("Gantry-Seq"), chunk.number("Gantry-Offset"));
        assert_eq!(position, (self.chunks, (self.start + self.received.len()) as u64), "{chunk:?}");
        assert_eq!(chunk.header("Gantry-Context"), line.headers.get("Gantry-Context").map(String::as_str));
        assert_eq!(chunk.header("Gantry-Transfer"), Some(self.transfer.as_str()));
        let crc = format!("{:016x}", gantry_proto::chunk::crc(&chunk.0.payload));
        assert_eq!(chunk.header("Gantry-Crc"), Some(crc.as_str()));
        assert!(chunk.0.payload.len() <= self.chunk_max, "{chunk:?}");

        self.chunks += 1;
        self.received.extend_from_slice(&chunk.0.payload);
    }

    fn take_answer(&mut self, line: &Line, heard: &Heard) {
        let mut documented: Value = serde_json::from_str(&line.payload).unwrap();
        let body = heard.json();
        for (name, value) in &line.headers {
            let own = heard.header(name);
            match name.as_str() {
                // Its value and its wording vary.
                "Gantry-Transfer" | "Nats-Service-Error" => assert!(own.is_some(), "{heard:?}"),
                _ => assert_eq!(own, Some(value.as_str()), "{heard:?}"),
            }
        }

        if line.headers.get("Gantry-Type").is_some_and(|kind| kind == "accepted") {
            self.take_accepted(&body);
            for name in ["transfer", "instance", "control"] {
                documented[name] = body[name].clone();
            }
            documented["chunk_max"] = json!(1024);
        }
        if line.headers.get("Gantry-Type").is_some_and(|kind| kind == "end") {
            assert_eq!(body["chunks"], self.chunks);
            documented["chunks"] = json!(self.chunks);
        }
        for name in ["message", "id", "version"] {
            if let Some(value) = documented.get_mut(name) {
                *value = body[name].clone();
            }
        }
        has_members(&body, &documented);
    }

    fn take_accepted(&mut self, body: &Value) {
        self.control = body["control"].as_str().unwrap().to_owned();
        self.transfer = body["transfer"].as_str().unwrap().to_owned();
        self.start = usize::try_from(body["start"].as_u64().unwrap()).unwrap();
        self.chunk_max = usize::try_from(body["chunk_max"].as_u64().unwrap()).unwrap();
        let instance = body["instance"].as_str().unwrap();
        assert_eq!(self.control, format!("gantry.v1.ctl.{instance}.{}", self.transfer));
    }
}

/// Compares each documented member. There may be further ones.
fn has_members(body: &Value, documented: &Value) {
    let Some(members) = documented.as_object() else {
        assert_eq!(body, documented);
        return;
    };
    members.iter().for_each(|(name, value)| has_members(&body[name], value));
}
