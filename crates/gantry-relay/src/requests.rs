//! What a relay does with one request.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument, debug, info, info_span, warn};
use uuid::Uuid;

use super::throttle::REFUSALS;
use super::{Shared, transfer};
use crate::metrics::RequestLabel;
use gantry_bus::Message;
use gantry_bus::trace;
use gantry_proto::limits::PAGE_MAX;
use gantry_proto::message::{Envelope, json, push_error};
use gantry_proto::subject::Operation;
use gantry_proto::{
    Body, Code, GetRequest, HEADERS_MAX_BYTES, Headers, ListPage, ListRequest, StatRequest, StoreName, TransferId,
    WireError, check,
};
use gantry_store::Store;

/// How long a consumer should wait when the relay is at a limit.
const BUSY_RETRY_MS: u64 = 500;

/// Where the answers to one request go.
#[derive(Debug)]
pub(super) struct Requester {
    pub(super) shared: Arc<Shared>,
    pub(super) store_name: StoreName,
    pub(super) store: Arc<dyn Store>,
    /// The delivery subject; on the allow-list.
    pub(super) reply: String,
    operation: Operation,
    asked: Instant,
}

/// Takes one request and answers it on a task of its own.
pub(super) async fn handle(
    shared: &Arc<Shared>,
    operation: Operation,
    store_name: &StoreName,
    store: Arc<dyn Store>,
    request: Message,
) {
    shared.see_requests();
    let allowed = |reply: &String| shared.options.delivery_allow.allows(reply);
    let Some(reply) = request.reply.clone().filter(allowed) else {
        shared.metrics.refuse("reply_subject");
        if shared.throttle.admits("reply_subject", REFUSALS) {
            warn!(store = %store_name, operation = operation.name(), "refusing a request whose reply subject is not allowed");
        }
        return;
    };
    let requester = Requester {
        shared: Arc::clone(shared),
        store_name: store_name.clone(),
        store,
        reply,
        operation,
        asked: Instant::now(),
    };
    match operation {
        Operation::Get => handle_get(requester, &request).await,
        Operation::Stat | Operation::List => {
            let name = operation.name();
            let span = info_span!(
                "query",
                otel.kind = "server",
                otel.status_code = Empty,
                outcome = Empty,
                operation = name,
                store = %store_name,
            );
            trace::adopt(&span, &request.headers);
            let Ok(permit) = Arc::clone(&shared.queries).try_acquire_owned() else {
                return requester.refuse_aside(None, busy("too many requests at once")).instrument(span).await;
            };
            let answer = async move {
                requester.answer_query(&request.payload).await;
                drop(permit);
            };
            shared.tasks.spawn(answer.instrument(span));
        }
    }
}

async fn handle_get(requester: Requester, message: &Message) {
    let request = match GetRequest::parse(&message.payload) {
        Ok(request) => request,
        Err(error) => return requester.refuse_aside(None, error).await,
    };
    let shared = Arc::clone(&requester.shared);
    let Ok(permit) = Arc::clone(&shared.transfers).try_acquire_owned() else {
        let message = format!("all {} transfers of this relay are taken", shared.options.transfers_max);
        return requester.refuse_aside(request.context, busy(message)).await;
    };
    let Some(reservation) = shared.options.budget.try_reserve(shared.options.transfer_reserve_bytes) else {
        return requester.refuse_aside(request.context, busy("the memory budget of this relay is used up")).await;
    };
    let transfer = TransferId(Uuid::new_v4());
    let entry = shared.registry.enter(&shared, transfer);
    let span = info_span!(
        "transfer",
        otel.kind = "server",
        otel.status_code = Empty,
        outcome = Empty,
        %transfer,
        store = %requester.store_name,
    );
    trace::adopt(&span, &message.headers);
    let run = async move {
        transfer::run(requester, request, entry).await;
        drop((permit, reservation));
    };
    shared.tasks.spawn(run.instrument(span));
}

impl Requester {
    async fn answer_query(&self, payload: &[u8]) {
        let answer = match self.operation {
            Operation::Stat => self.stat(payload).await,
            Operation::List => self.list(payload).await,
            Operation::Get => return,
        };
        match answer {
            Ok(body) => {
                trace::record_outcome("ok", false);
                self.count(None);
                self.send(Message { payload: body, ..Message::default() }).await;
            }
            Err(error) => self.refuse(None, &error).await,
        }
    }

    async fn stat(&self, payload: &[u8]) -> Result<bytes::Bytes, WireError> {
        let request = StatRequest::parse(payload)?;
        let mut object = self.store.stat(&request.key, &request.pin).await.map_err(|error| error.to_wire())?;
        check::trim(&mut object);
        Ok(json(&object))
    }

    /// Lists a page that fits into one message, asking the store for fewer entries until it does.
    async fn list(&self, payload: &[u8]) -> Result<bytes::Bytes, WireError> {
        let mut request = ListRequest::parse(payload)?;
        let room = self.shared.buses.data.max_payload().saturating_sub(HEADERS_MAX_BYTES);
        let mut limit = request.limit.unwrap_or(PAGE_MAX).min(PAGE_MAX);
        loop {
            request.limit = Some(limit);
            let mut page: ListPage = self.store.list(&request).await.map_err(|error| error.to_wire())?;
            check::trim_page(&mut page, &request.prefix);
            let body = json(&page);
            if body.len() <= room {
                return Ok(body);
            }
            if limit == 1 {
                return Err(WireError::new(Code::Internal, format!("one entry does not fit into {room} bytes")));
            }
            limit /= 2;
        }
    }

    /// Answers with an error.
    pub(super) async fn refuse(&self, context: Option<String>, error: &WireError) {
        self.shared.metrics.refuse(error.code.name());
        self.count(Some(error));
        let (operation, reason) = (self.operation.name(), keyless(&error.message));
        if self.shared.throttle.admits(error.code.name(), REFUSALS) {
            info!(store = %self.store_name, operation, code = %error.code, reason, "refusing a request");
            debug!(%error, "the reason in full");
        }
        trace::record_outcome(error.code.name(), true);
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

    /// Refuses on a task of its own. While transfers fill the bus an answer takes long to be taken, and a request that
    /// waits behind many refusals is asked again before its turn.
    async fn refuse_aside(self, context: Option<String>, error: WireError) {
        let shared = Arc::clone(&self.shared);
        let Ok(permit) = Arc::clone(&shared.refusals).try_acquire_owned() else {
            return self.refuse(context, &error).await;
        };
        let refusing = async move {
            self.refuse(context, &error).await;
            drop(permit);
        };
        shared.tasks.spawn(refusing.in_current_span());
    }

    /// Counts a request as answered.
    pub(super) fn count(&self, error: Option<&WireError>) {
        self.shared.service.count(self.operation, &self.store_name, self.asked.elapsed(), error);
        let label = RequestLabel {
            operation: self.operation.name(),
            store: self.store_name.to_string(),
            result: error.map_or("ok", |error| error.code.name()),
        };
        self.shared.metrics.requests.get_or_create(&label).inc();
    }

    /// Returns how long ago the request came in.
    pub(super) fn elapsed(&self) -> Duration {
        self.asked.elapsed()
    }

    /// Publishes to the delivery subject; `false` when the message can't be sent any more, or not in time.
    pub(super) async fn send(&self, mut message: Message) -> bool {
        message.subject.clone_from(&self.reply);
        let outbox = &self.shared.outbox;
        tokio::select! {
            biased;
            sent = self.shared.buses.data.publish(message) => match sent {
                Ok(()) => {
                    outbox.see_bus();
                    true
                }
                Err(error) => {
                    if self.shared.throttle.admits("answer", REFUSALS) {
                        warn!(%error, "can't answer");
                    }
                    false
                }
            },
            () = self.shared.shutdown.force.cancelled() => false,
            () = outbox.bus_stuck(self.shared.options.idle_timeout) => {
                if self.shared.throttle.admits("answer", REFUSALS) {
                    warn!("giving an answer up: NATS has taken and brought nothing for the idle timeout");
                }
                false
            }
        }
    }
}

/// Returns a message for the log without what stands in quotes: that may be a key.
pub(super) fn keyless(message: &str) -> String {
    let (mut kept, mut is_quoted, mut is_escaped) = (String::new(), false, false);
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

fn busy(message: impl Into<String>) -> WireError {
    WireError::new(Code::Busy, message).with_retry_after_ms(BUSY_RETRY_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_at_info_names_no_key() {
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
