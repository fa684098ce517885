//! The state that all cases of a relay share: the connection, the object, and how a broken rule is reported.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use futures_util::{StreamExt as _, TryFutureExt as _};
use gantry_bus::{self as bus, Bus, Message};
use gantry_proto::subject::{Operation, Prefix};
use gantry_proto::{ObjectInfo, StoreName, message};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::super::super::address::ObjectAddress;

/// The time limit for an answer.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How long the scripted consumer waits before it concludes that the relay sends nothing.
pub(super) const NOTHING_WITHIN: Duration = Duration::from_millis(700);

/// The smallest object that all cases can work with, in bytes.
const SIZE_MIN: u64 = 100_000;

/// Why a case did not pass.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// The relay broke a rule.
    #[error("{0}")]
    Rule(String),
    /// The case can't be run with this relay or object.
    #[error("not applicable: {0}")]
    Inapplicable(&'static str),
    /// The connection failed.
    #[error("the kit failed: {0}")]
    Bus(#[from] bus::Error),
}

/// The result of a case.
pub(super) type Outcome<T = ()> = Result<T, Broken>;

/// One case: a rule, and a conversation that shows whether a relay follows it.
pub(super) struct Case {
    pub(super) id: &'static str,
    /// The heading in `docs/PROTOCOL.md`.
    pub(super) section: &'static str,
    pub(super) rule: &'static str,
    pub(super) run: for<'a> fn(&'a Bench) -> LocalBoxFuture<'a, Outcome>,
}

/// The state that all cases share.
pub(super) struct Bench {
    pub(super) bus: Arc<dyn Bus>,
    pub(super) prefix: Prefix,
    pub(super) store: StoreName,
    pub(super) object: ObjectInfo,
}

impl Bench {
    /// Requests a description of the object from the relay.
    pub(super) async fn start(bus: Arc<dyn Bus>, prefix: Prefix, address: &ObjectAddress) -> Outcome<Self> {
        let subject = prefix.request(Operation::Stat, &address.store);
        let body = json!({"key": address.key}).to_string();
        let answer = ask(&*bus, subject, body.into_bytes()).await?;
        if let Some(error) = message::error_of(&answer.headers, &answer.payload) {
            return rule(format!("the relay answers `stat` with {}: {}", error.code.name(), error.message));
        }

        let object: ObjectInfo = parse(&answer)?;
        if object.size < SIZE_MIN {
            return rule(format!("the object has {} bytes; the cases need at least {SIZE_MIN}", object.size));
        }
        Ok(Self { bus, prefix, store: address.store.clone(), object })
    }

    /// Sends a request, and returns the first answer.
    pub(super) async fn ask(&self, operation: Operation, body: impl Into<Vec<u8>>) -> Outcome<Message> {
        ask(&*self.bus, self.prefix.request(operation, &self.store), body.into()).await
    }

    /// Sends a request, and returns the first answer, which must be JSON.
    pub(super) async fn ask_json(&self, operation: Operation, body: &Value) -> Outcome<Value> {
        let answer = self.ask(operation, body.to_string()).await?;
        check(answer.headers.is_empty(), || format!("the answer has headers: {:?}", answer.headers))?;
        parse(&answer)
    }
}

/// Publishes a message with a fresh inbox, and returns the first answer.
pub(super) async fn ask(bus: &dyn Bus, subject: String, payload: Vec<u8>) -> Outcome<Message> {
    let inbox = bus.new_inbox();
    let mut answers = bus.subscribe(&inbox, None).await?;
    let request =
        Message { subject: subject.clone(), reply: Some(inbox), payload: payload.into(), ..Message::default() };
    bus.publish(request).await?;

    let answer =
        timeout(ANSWER_WITHIN, answers.next()).map_err(|_| Broken::Rule(format!("no answer on {subject}"))).await?;
    match answer {
        Some(Message { status: Some(status), .. }) => rule(format!("nats-server answers {subject} with {status}")),
        Some(answer) => Ok(answer),
        None => Err(bus::Error::Closed.into()),
    }
}

/// Decodes a JSON body.
pub(super) fn parse<T: serde::de::DeserializeOwned>(answer: &Message) -> Outcome<T> {
    message::from_json(&answer.payload).map_err(|error| Broken::Rule(format!("an unreadable answer: {error}")))
}

/// Reports a broken rule unless `holds`.
pub(super) fn check(holds: bool, problem: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { rule(problem()) }
}

/// Reports a broken rule.
pub(super) fn rule<T>(problem: impl Into<String>) -> Outcome<T> {
    Err(Broken::Rule(problem.into()))
}
