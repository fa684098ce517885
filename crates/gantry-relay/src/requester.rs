//! The reply path to the consumer that sent a request.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info};

use crate::discovery::Service;
use crate::metrics::{RelayMetrics, RequestLabel};
use crate::outbox::Outbox;
use crate::throttle::{REFUSALS, Throttle};
use gantry_bus::{Message, trace};
use gantry_proto::message::{Envelope, json, push_error};
use gantry_proto::subject::Operation;
use gantry_proto::{Body, Headers, StoreName, WireError};

/// The parts of the relay that every answer passes through.
#[derive(Debug)]
pub(crate) struct Answering {
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) service: Arc<Service>,
    pub(crate) metrics: Arc<RelayMetrics>,
    pub(crate) throttle: Arc<Throttle>,
}

/// The sender of one request, and the subject for its answers.
#[derive(Debug)]
pub(crate) struct Requester {
    answering: Arc<Answering>,
    operation: Operation,
    store: StoreName,
    /// The delivery subject. It has been checked.
    reply: String,
    asked_at: Instant,
}

impl Requester {
    /// Creates the requester of a request. Its delivery subject, `reply`, must be allowed.
    pub(crate) fn new(answering: Arc<Answering>, operation: Operation, store: StoreName, reply: String) -> Self {
        Self { answering, operation, store, reply, asked_at: Instant::now() }
    }

    /// Returns the name of the requested store.
    pub(crate) const fn store(&self) -> &StoreName {
        &self.store
    }

    /// Returns the time since the request arrived.
    pub(crate) fn elapsed(&self) -> Duration {
        self.asked_at.elapsed()
    }

    /// Publishes to the delivery subject. Returns `false` if the message can no longer be sent, or not in time.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, the message is not sent.
    pub(crate) async fn send(&self, mut message: Message) -> bool {
        message.subject.clone_from(&self.reply);
        self.answering.outbox.send(message).await
    }

    /// Answers with an error.
    pub(crate) async fn refuse(&self, context: Option<String>, error: &WireError) {
        self.record_refusal(context.as_deref(), error);

        let (headers, payload) = match self.operation {
            Operation::Get => Envelope { transfer: None, context }.encode(&Body::Error(error.clone())),
            Operation::Stat | Operation::List => {
                let mut headers = Headers::default();
                push_error(&mut headers, error);
                (headers, json(error))
            }
        };
        self.send(Message { headers, payload, ..Message::default() }).await;
    }

    fn record_refusal(&self, correlation: Option<&str>, error: &WireError) {
        self.answering.metrics.refuse(error.code.name());
        self.count(Some(error));

        if self.answering.throttle.admits(error.code.name(), REFUSALS) {
            let operation = self.operation.name();
            let reason = keyless(&error.message);
            info!(store = %self.store, operation, correlation, code = %error.code, reason, "refusing a request");
            debug!(%error, "the complete reason");
        }
        trace::record_outcome(error.code.name(), true);
    }

    /// Counts a request as answered.
    pub(crate) fn count(&self, error: Option<&WireError>) {
        self.answering.service.count(self.operation, &self.store, self.elapsed(), error);

        let label = RequestLabel {
            operation: self.operation.name(),
            store: self.store.to_string(),
            result: error.map_or("ok", |error| error.code.name()),
        };
        self.answering.metrics.requests.get_or_create(&label).inc();
    }
}

/// Returns a message for the log without its quoted parts, which may be keys.
pub(crate) fn keyless(message: &str) -> String {
    let mut kept = String::new();
    let mut is_quoted = false;
    let mut is_escaped = false;

    for c in message.chars() {
        match c {
            '"' if !is_escaped => {
                kept.push_str(if is_quoted { "\"" } else { "\"…" });
                is_quoted = !is_quoted;
            }
            _ if is_quoted => {}
            _ => kept.push(c),
        }
        is_escaped = is_quoted && c == '\\' && !is_escaped;
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_at_info_contains_no_key() {
        for (message, reason) in [
            (
                format!("key {:?} in bucket {:?}: no such key (404)", "a\\\"b\"", "c"),
                "key \"…\" in bucket \"…\": no such key (404)",
            ),
            ("all 8 transfers are taken".to_owned(), "all 8 transfers are taken"),
            ("key \"cut off".to_owned(), "key \"…"),
        ] {
            assert_eq!(keyless(&message), reason);
        }
    }
}
