//! What a relay does with one request.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tracing::field::Empty;
use tracing::{Instrument, info_span, warn};
use uuid::Uuid;

use crate::admission::{Limits, StoreLimits};
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

/// Maximum number of refusals that wait for the bus at once. Above it, the requests behind them wait as well.
const REFUSALS_MAX: usize = 1024;

/// Handles the requests of all stores.
#[derive(Debug)]
pub(crate) struct Requests {
    options: Arc<Options>,
    limits: Limits,
    refusals: Arc<Semaphore>,
    registry: Arc<Registry>,
    lifetime: Arc<Lifetime>,
    answering: Arc<Answering>,
    transfers: Arc<transfer::Context>,
}

impl Requests {
    pub(crate) fn new(
        options: Arc<Options>,
        registry: Arc<Registry>,
        lifetime: Arc<Lifetime>,
        answering: Arc<Answering>,
        transfers: Arc<transfer::Context>,
    ) -> Self {
        let limits = Limits::new(&options);
        let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
        Self { options, limits, refusals, registry, lifetime, answering, transfers }
    }

    /// Returns the share that a store has of the relay's limits.
    pub(crate) fn limits_of(&self, store: &StoreName) -> StoreLimits {
        self.limits.of_store(store.as_str())
    }

    /// Checks one request, and answers it on a task of its own.
    pub(crate) async fn handle(
        &self,
        operation: Operation,
        store_name: &StoreName,
        limits: &StoreLimits,
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
            Operation::Get => self.handle_get(requester, limits, store, &request).await,
            Operation::Stat => self.handle_query(requester, Query::Stat, limits, store, request).await,
            Operation::List => self.handle_query(requester, Query::List, limits, store, request).await,
        }
    }

    async fn handle_get(
        &self,
        requester: Requester,
        limits: &StoreLimits,
        store: Arc<dyn Store>,
        message: &Message,
    ) {
        let request = match GetRequest::parse(&message.payload) {
            Ok(request) => request,
            Err(error) => return self.refuse_aside(requester, None, error).await,
        };
        let place = match limits.admit_transfer() {
            Ok(place) => place,
            Err(error) => return self.refuse_aside(requester, request.context, error).await,
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
            drop(place);
        };
        self.lifetime.tasks.spawn(run.instrument(span));
    }

    async fn handle_query(
        &self,
        requester: Requester,
        query: Query,
        limits: &StoreLimits,
        store: Arc<dyn Store>,
        request: Message,
    ) {
        let span = info_span!(
            "query",
            otel.kind = "server",
            otel.status_code = Empty,
            outcome = Empty,
            operation = query.name(),
            store = %requester.store(),
        );
        trace::adopt(&span, &request.headers);

        let permit = match limits.admit_query() {
            Ok(permit) => permit,
            Err(error) => return self.refuse_aside(requester, None, error).instrument(span).await,
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
        let Ok(permit) = Arc::clone(&self.refusals).try_acquire_owned() else {
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
