//! A scripted consumer's conversation with a relay: one delivery subject and the messages that arrive there.

use std::ops::Range;
use std::time::Duration;

use futures_util::StreamExt as _;
use gantry_bus::{self as bus, Message, NO_RESPONDERS, Subscription};
use gantry_proto::chunk::Chunk;
use gantry_proto::message::{self, Envelope, Wait};
use gantry_proto::subject::Operation;
use gantry_proto::{Accepted, Body, Code, End, TransferId, WireError};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::bench::{ANSWER_WITHIN, Bench, NOTHING_WITHIN, Outcome, check, rule};

/// The `context` of requests.
const CONTEXT: &str = "conformance 7: ü";

/// A conversation.
pub(super) struct Talk<'a> {
    bench: &'a Bench,
    pub(super) inbox: String,
    messages: Subscription,
    /// The context that the relay must repeat on every message.
    context: Option<String>,
    pub(super) transfer: Option<TransferId>,
}

/// A message that arrived.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) body: Body,
    pub(super) at: Instant,
}

impl<'a> Talk<'a> {
    /// Subscribes to a fresh inbox.
    pub(super) async fn open(bench: &'a Bench) -> Outcome<Self> {
        let inbox = bench.bus.new_inbox();
        let messages = bench.bus.subscribe(&inbox, None).await?;
        Ok(Self { bench, inbox, messages, context: None, transfer: None })
    }

    /// Requests the object with these further members.
    pub(super) async fn get(bench: &'a Bench, members: Value) -> Outcome<Self> {
        let mut body = json!({"key": bench.object.key, "context": CONTEXT});
        if let (Some(body), Value::Object(members)) = (body.as_object_mut(), members) {
            body.extend(members);
        }
        let mut talk = Self::open(bench).await?;
        talk.context = body["context"].as_str().map(str::to_owned);
        talk.request(body.to_string().into_bytes()).await?;
        Ok(talk)
    }

    /// Sends any body as a `get`.
    pub(super) async fn request(&self, body: Vec<u8>) -> Outcome {
        self.publish(self.bench.prefix.request(Operation::Get, &self.bench.store), body).await
    }

    /// Sends a control message.
    pub(super) async fn control(&self, accepted: &Accepted, body: &Value) -> Outcome {
        self.publish(accepted.control.clone(), body.to_string().into_bytes()).await
    }

    pub(super) async fn publish(&self, subject: String, payload: Vec<u8>) -> Outcome {
        let reply = Some(self.inbox.clone());
        let message = Message { subject, reply, payload: payload.into(), ..Message::default() };
        Ok(self.bench.bus.publish(message).await?)
    }

    /// Returns the next message, or `None` if nothing arrives within this time.
    pub(super) async fn next_within(&mut self, within: Duration) -> Outcome<Option<Arrived>> {
        let message = match timeout(within, self.messages.next()).await {
            Ok(Some(message)) => message,
            Ok(None) => return Err(bus::Error::Closed.into()),
            Err(_) => return Ok(None),
        };
        let at = Instant::now();
        if message.status == Some(NO_RESPONDERS) {
            return rule("nats-server reports that no relay listens");
        }

        let (envelope, body) = match message::decode(&message.headers, message.payload.clone()) {
            Ok(decoded) => decoded,
            Err(error) => return rule(format!("sent a malformed message: {error}")),
        };
        self.check_envelope(&message, &envelope, &body)?;
        Ok(Some(Arrived { body, at }))
    }

    /// Returns the next message.
    pub(super) async fn next(&mut self) -> Outcome<Arrived> {
        match self.next_within(ANSWER_WITHIN).await? {
            Some(arrived) => Ok(arrived),
            None => rule(format!("sent nothing for {} s", ANSWER_WITHIN.as_secs())),
        }
    }

    /// Returns the next message that is not a beat.
    pub(super) async fn next_but_beats(&mut self) -> Outcome<Body> {
        loop {
            match self.next().await?.body {
                Body::Beat { .. } => {}
                other => return Ok(other),
            }
        }
    }

    pub(super) async fn accepted(&mut self) -> Outcome<Accepted> {
        let accepted = match self.next_but_beats().await? {
            Body::Accepted(accepted) => *accepted,
            other => return rule(format!("answered with {} instead of accepted", describe(&other))),
        };
        let control = self.bench.prefix.control(&accepted.instance, accepted.transfer);
        check(accepted.control == control, || format!("`control` is {:?}", accepted.control))?;
        self.transfer = Some(accepted.transfer);
        Ok(accepted)
    }

    /// Waits for an error with this code.
    pub(super) async fn refused(&mut self, code: Code) -> Outcome<WireError> {
        match self.next_but_beats().await? {
            Body::Error(error) if error.code == code => {
                check(error.retryable == code.is_retryable(), || format!("`retryable` is {}", error.retryable))?;
                Ok(error)
            }
            other => rule(format!("answered with {} instead of {}", describe(&other), code.name())),
        }
    }

    /// Reads chunks up to this offset. Checks each one.
    pub(super) async fn read_to(&mut self, state: &mut Reading, offset: u64) -> Outcome {
        while state.offset < offset {
            match self.next_but_beats().await? {
                Body::Chunk(chunk) => state.take(&chunk)?,
                other => return rule(format!("sent {} at offset {}", describe(&other), state.offset)),
            }
        }
        Ok(())
    }

    /// Reads to the end, and gives credit whenever the relay waits for it.
    pub(super) async fn read_all(&mut self, accepted: &Accepted) -> Outcome<Reading> {
        let mut state = Reading::of(accepted);
        loop {
            match self.next().await?.body {
                Body::Chunk(chunk) => state.take(&chunk)?,
                Body::Beat { seq, offset, wait } => {
                    let is_expected = (seq, offset) == (state.chunks, state.offset);
                    check(is_expected, || format!("sent a beat with {seq} and {offset}"))?;
                    if wait == Wait::Credit {
                        state.credit = (state.offset + (1 << 20)).min(accepted.end).max(state.credit);
                        self.control(accepted, &json!({"credit": state.credit})).await?;
                    }
                }
                Body::End(end) => {
                    state.finish(end)?;
                    return Ok(state);
                }
                other @ (Body::Accepted(_) | Body::Error(_) | Body::Goaway) => {
                    return rule(format!("sent {} at offset {}", describe(&other), state.offset));
                }
            }
        }
    }

    /// Waits for a beat that waits for credit at this offset.
    pub(super) async fn blocked_at(&mut self, offset: u64) -> Outcome<Instant> {
        loop {
            let arrived = self.next().await?;
            match arrived.body {
                Body::Beat { offset: at, wait: Wait::Credit, .. } if at == offset => return Ok(arrived.at),
                Body::Beat { .. } => {}
                other => return rule(format!("sent {} instead of a beat at {offset}", describe(&other))),
            }
        }
    }

    /// Checks that nothing but beats arrives.
    pub(super) async fn nothing(&mut self) -> Outcome {
        let until = Instant::now() + NOTHING_WITHIN;
        while let Some(arrived) = self.next_within(until.saturating_duration_since(Instant::now())).await? {
            let is_beat = matches!(arrived.body, Body::Beat { .. });
            check(is_beat, || format!("sent {}", describe(&arrived.body)))?;
        }
        Ok(())
    }

    /// Checks that nothing at all arrives.
    pub(super) async fn silence(&mut self) -> Outcome {
        match self.next_within(NOTHING_WITHIN).await? {
            Some(arrived) => rule(format!("sent {}", describe(&arrived.body))),
            None => Ok(()),
        }
    }

    /// Checks the headers that all messages of a transfer have, and the reply subject.
    fn check_envelope(&self, message: &Message, envelope: &Envelope, body: &Body) -> Outcome {
        check(envelope.context == self.context, || format!("`Gantry-Context` is {:?}", envelope.context))?;
        if let (Some(own), Some(sent)) = (self.transfer, envelope.transfer) {
            check(own == sent, || format!("sent a message of the transfer {sent}"))?;
        }
        if matches!(body, Body::Error(_)) {
            let is_service_error = message.headers.get(message::SERVICE_ERROR).is_some()
                && message.headers.get(message::SERVICE_ERROR_CODE).is_some();
            check(is_service_error, || "an error lacks the headers of the services API".to_owned())?;
        }

        let Some(transfer) = envelope.transfer else {
            return check(matches!(body, Body::Error(_)), || format!("{} has no transfer", describe(body)));
        };
        let prefix = format!("{}.v1.gone.", self.bench.prefix);
        let reply = message.reply.as_deref().unwrap_or_default();
        let is_gone = reply.starts_with(&prefix) && reply.ends_with(&format!(".{transfer}"));
        let is_ended = matches!(body, Body::Error(error) if error.code == Code::Ended);
        check(is_gone || is_ended, || format!("the reply subject of {} is {reply:?}", describe(body)))
    }
}

/// How far a scripted consumer has read.
#[derive(Debug)]
pub(super) struct Reading {
    range: Range<u64>,
    pub(super) offset: u64,
    pub(super) chunks: u64,
    pub(super) credit: u64,
    chunk_max: u64,
    /// The checksum of what has been read.
    pub(super) crc: u64,
}

impl Reading {
    pub(super) const fn of(accepted: &Accepted) -> Self {
        Self {
            range: accepted.start..accepted.end,
            offset: accepted.start,
            chunks: 0,
            credit: accepted.credit,
            chunk_max: accepted.chunk_max,
            crc: 0,
        }
    }

    fn take(&mut self, chunk: &Chunk) -> Outcome {
        let len = chunk.payload.len() as u64;
        let place = (chunk.seq, chunk.offset);
        check(place == (self.chunks, self.offset), || {
            format!("sent chunk {place:?} instead of {:?}", (self.chunks, self.offset))
        })?;
        check(chunk.is_intact(), || format!("chunk {} does not match its CRC", chunk.seq))?;
        check(len <= self.chunk_max, || format!("sent a chunk of {len} bytes, more than {}", self.chunk_max))?;

        self.offset += len;
        self.chunks += 1;
        self.crc = gantry_proto::chunk::join_crcs(self.crc, chunk.crc, len);
        check(self.offset <= self.range.end, || format!("sent bytes past the range, up to {}", self.offset))?;
        check(self.offset <= self.credit, || format!("sent bytes up to {}, past credit {}", self.offset, self.credit))
    }

    pub(super) fn finish(&self, end: End) -> Outcome {
        check(self.offset == self.range.end, || format!("sent `end` at offset {}", self.offset))?;
        let counts = (self.chunks, self.offset - self.range.start);
        check((end.chunks, end.bytes) == counts, || format!("`end` counts {end:?} instead of {counts:?}"))
    }
}

/// Names a message.
pub(super) fn describe(body: &Body) -> String {
    match body {
        Body::Error(error) => format!("the error {} ({})", error.code.name(), error.message),
        other => other.type_name().to_owned(),
    }
}
