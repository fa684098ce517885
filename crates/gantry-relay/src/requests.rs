//! What a relay does with one request.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tracing::field::Empty;
use tracing::{Instrument, info_span, warn};
use uuid::Uuid;

use crate::lifetime::Lifetime;
use crate::options::Options;
use crate::page;
use crate::registry::Registry;
use crate::requester::{Answering, Requester};
use crate::throttle::REFUSALS;
use crate::transfer;
use gantry_bus::{Message, trace};
use gantry_proto::limits::PAGE_MAX;
use gantry_proto::message::json;
use gantry_proto::subject::Operation;
use gantry_proto::{
    Code, GetRequest, HEADERS_MAX_BYTES, ListPage, ListRequest, StatRequest, StoreName, TransferId, WireError, check,
};
use gantry_store::Store;

/// Maximum number of `stat` and `list` requests served at once. Above it, the relay answers `busy`.
const QUERIES_MAX: usize = 64;

/// Maximum number of refusals that wait for the bus at once. Above it, the requests behind them wait as well.
const REFUSALS_MAX: usize = 1024;

/// How long a consumer should wait when the relay is at a limit.
const BUSY_RETRY_MS: u64 = 500;

/// Handles the requests of all stores.
#[derive(Debug)]
pub(crate) struct Requests {
    options: Arc<Options>,
    limits: Limits,
    registry: Arc<Registry>,
    lifetime: Arc<Lifetime>,
    answering: Arc<Answering>,
    transfers: Arc<transfer::Context>,
}

/// What may run at once.
#[derive(Debug)]
struct Limits {
    transfers: Arc<Semaphore>,
    queries: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
}

impl Requests {
    pub(crate) fn new(
        options: Arc<Options>,
        registry: Arc<Registry>,
        lifetime: Arc<Lifetime>,
        answering: Arc<Answering>,
        transfers: Arc<transfer::Context>,
    ) -> Self {
        let limits = Limits {
            transfers: Arc::new(Semaphore::new(options.transfers_max)),
            queries: Arc::new(Semaphore::new(QUERIES_MAX)),
            refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
        };
        Self { options, limits, registry, lifetime, answering, transfers }
    }

    /// Checks one request, and answers it on a task of its own.
    pub(crate) async fn handle(
        &self,
        operation: Operation,
        store_name: &StoreName,
        store: Arc<dyn Store>,
        request: Message,
    ) {
        let Answering { outbox, metrics, throttle, .. } = &*self.answering;
        outbox.see_requests();

        let allowed = |reply: &String| self.options.delivery_allow.allows(reply);
        let Some(reply) = request.reply.clone().filter(allowed) else {
            metrics.refuse("reply_subject");
            if throttle.admits("reply_subject", REFUSALS) {
                warn!(store = %store_name, operation = operation.name(), "refusing a request whose reply subject is not allowed");
            }
            return;
        };

        let requester = Requester::new(Arc::clone(&self.answering), operation, store_name.clone(), reply);
        match operation {
            Operation::Get => self.handle_get(requester, store, &request).await,
            Operation::Stat => self.handle_query(requester, Query::Stat, store, request).await,
            Operation::List => self.handle_query(requester, Query::List, store, request).await,
        }
    }

    async fn handle_get(&self, requester: Requester, store: Arc<dyn Store>, message: &Message) {
        let request = match GetRequest::parse(&message.payload) {
            Ok(request) => request,
            Err(error) => {
                let context = GetRequest::context_of(&message.payload);
                return self.refuse_aside(requester, context, error).await;
            }
        };
        let Ok(permit) = Arc::clone(&self.limits.transfers).try_acquire_owned() else {
            let message = format!("all {} transfers of this relay are taken", self.options.transfers_max);
            return self.refuse_aside(requester, request.context, busy(message)).await;
        };
        let Some(reservation) = self.options.budget.try_reserve(self.options.transfer_reserve_bytes) else {
            let error = busy("the memory budget of this relay is used up");
            return self.refuse_aside(requester, request.context, error).await;
        };

        let transfer = TransferId(Uuid::new_v4());
        let entry = self.registry.enter(transfer);
        let span = info_span!(
            "transfer",
            otel.kind = "server",
            otel.status_code = Empty,
            outcome = Empty,
            %transfer,
            store = %requester.store(),
        );
        trace::adopt(&span, &message.headers);

        let context = Arc::clone(&self.transfers);
        let run = async move {
            transfer::run(context, requester, store, request, entry).await;
            drop((permit, reservation));
        };
        self.lifetime.tasks.spawn(run.instrument(span));
    }

    async fn handle_query(&self, requester: Requester, query: Query, store: Arc<dyn Store>, request: Message) {
        let span = info_span!(
            "query",
            otel.kind = "server",
            otel.status_code = Empty,
            outcome = Empty,
            operation = query.name(),
            store = %requester.store(),
        );
        trace::adopt(&span, &request.headers);

        let Ok(permit) = Arc::clone(&self.limits.queries).try_acquire_owned() else {
            let error = busy("too many requests at once");
            return self.refuse_aside(requester, None, error).instrument(span).await;
        };

        let room = self.answering.outbox.max_payload().saturating_sub(HEADERS_MAX_BYTES);
        let answer = async move {
            answer_query(&requester, query, &*store, &request.payload, room).await;
            drop(permit);
        };
        self.lifetime.tasks.spawn(answer.instrument(span));
    }

    /// Refuses a request in a separate task. While transfers fill the bus, publishing an answer takes long, and the
    /// consumer of a request that waits behind many refusals would repeat it before its turn.
    async fn refuse_aside(&self, requester: Requester, context: Option<String>, error: WireError) {
        let Ok(permit) = Arc::clone(&self.limits.refusals).try_acquire_owned() else {
            return requester.refuse(context, &error).await;
        };

        let refusing = async move {
            requester.refuse(context, &error).await;
            drop(permit);
        };
        self.lifetime.tasks.spawn(refusing.in_current_span());
    }
}

/// An operation that is answered by one message.
#[derive(Clone, Copy, Debug)]
enum Query {
    Stat,
    List,
}

impl Query {
    const fn name(self) -> &'static str {
        match self {
            Self::Stat => Operation::Stat.name(),
            Self::List => Operation::List.name(),
        }
    }
}

/// Answers with at most `room` bytes.
async fn answer_query(requester: &Requester, query: Query, store: &dyn Store, payload: &[u8], room: usize) {
    let answer = match query {
        Query::Stat => stat(store, payload).await,
        Query::List => list(store, payload, room).await,
    };

    match answer {
        Ok(payload) => {
            trace::record_outcome("ok", false);
            requester.count(None);
            requester.send(Message { payload, ..Message::default() }).await;
        }
        Err(error) => requester.refuse(None, &error).await,
    }
}

async fn stat(store: &dyn Store, payload: &[u8]) -> Result<bytes::Bytes, WireError> {
    let request = StatRequest::parse(payload)?;
    let mut object = store.stat(&request.key, &request.pin).await.map_err(|error| error.to_wire())?;
    check::make_sendable(&mut object)?;
    Ok(json(&object))
}

/// Lists a page that fits into one message. If the store's page is too long, only its first names are sent.
async fn list(store: &dyn Store, payload: &[u8], room: usize) -> Result<bytes::Bytes, WireError> {
    let mut request = ListRequest::parse(payload)?;
    let mut limit = request.limit.unwrap_or(PAGE_MAX).min(PAGE_MAX);

    loop {
        request.limit = Some(limit);
        let mut page: ListPage = store.list(&request).await.map_err(|error| error.to_wire())?;
        check::trim_page(&mut page, &request.prefix);

        if let Some(body) = page::fit(page, room, |name| store.token_after(name)) {
            return Ok(body);
        }
        if limit == 1 {
            return Err(WireError::new(Code::Internal, format!("one entry does not fit into {room} bytes")));
        }
        // The store can't continue after any name, or it is unknown which names were omitted.
        limit /= 2;
    }
}

fn busy(message: impl Into<String>) -> WireError {
    WireError::new(Code::Busy, message).with_retry_after_ms(BUSY_RETRY_MS)
}
