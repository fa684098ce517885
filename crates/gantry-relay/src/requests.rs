//! Handles requests.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tracing::field::Empty;
use tracing::{Instrument, debug, info_span, warn};
use uuid::Uuid;

use crate::active::Activity;
use crate::admission::{Limits, StoreLimits};
use crate::lifetime::Lifetime;
use crate::options::Options;
use crate::page;
use crate::registry::{self, Registry};
use crate::requester::{Answering, Requester};
use crate::throttle::REFUSALS;
use crate::transfer;
use gantry_bus::{Message, trace};
use gantry_proto::limits::PAGE_MAX;
use gantry_proto::message::{self, json};
use gantry_proto::subject::Operation;
use gantry_proto::{
    Code, GetRequest, HEADERS_MAX_BYTES, ListPage, ListRequest, StatRequest, StoreName, TransferId, Via, WireError,
    check,
};
use gantry_store::{Store, via};

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

    /// Returns a store's share of the relay's limits.
    pub(crate) fn limits_of(&self, store: &StoreName) -> StoreLimits {
        self.limits.of_store(store.as_str())
    }

    /// Checks one request, and answers it in a separate task.
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

    async fn handle_get(&self, requester: Requester, limits: &StoreLimits, store: Arc<dyn Store>, message: &Message) {
        let mut request = match GetRequest::parse(&message.payload) {
            Ok(request) => request,
            Err(error) => {
                let context = GetRequest::context_of(&message.payload);
                return self.refuse_aside(requester, context, error).await;
            }
        };
        let via = match self.via(message) {
            Ok(via) => via,
            Err(error) => return self.refuse_aside(requester, request.context, error).await,
        };
        if request.near.is_some()
            && let Some(location) = self.answering.outbox.location()
        {
            request.apply_location(&location);
        }
        let place = match limits.admit_transfer() {
            Ok(place) => place,
            Err(error) => return self.refuse_aside(requester, request.context, error).await,
        };

        let transfer = TransferId(Uuid::new_v4());
        let shown = self.options.shows_keys.then(|| (request.key.to_string(), request.context.clone()));
        let entry = self.registry.enter(transfer, Activity::new(requester.store().clone(), shown));
        let span = info_span!(
            "transfer",
            otel.kind = "server",
            otel.status_code = Empty,
            outcome = Empty,
            %transfer,
            store = %requester.store(),
            correlation = request.context.as_deref(),
        );
        trace::adopt(&span, &message.headers);

        let context = Arc::clone(&self.transfers);
        let run = async move {
            transfer::run(context, requester, store, request, entry).await;
            drop(place);
        };
        self.lifetime.tasks.spawn(via::scope(via, run).instrument(span));
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

        let via = match self.via(&request) {
            Ok(via) => via,
            Err(error) => return self.refuse_aside(requester, None, error).instrument(span).await,
        };
        let id = registry::Query {
            subject: request.subject,
            reply: request.reply.unwrap_or_default(),
            payload: request.payload.clone(),
        };
        let Some(entry) = self.registry.enter_query(id) else {
            return debug!("ignoring a request that is being answered");
        };
        let permit = match limits.admit_query() {
            Ok(permit) => permit,
            Err(error) => return self.refuse_aside(requester, None, error).instrument(span).await,
        };

        let room = self.answering.outbox.max_payload().saturating_sub(HEADERS_MAX_BYTES);
        let lifetime = Arc::clone(&self.lifetime);
        let answer = async move {
            let answer = tokio::select! {
                answer = answer_query(query, &*store, &request.payload, room) => answer,
                // A store that does not answer must not delay the shutdown.
                () = lifetime.goaway.cancelled() => Err(draining()),
                () = lifetime.shutdown.force.cancelled() => return,
            };
            send_answer(&requester, answer).await;
            drop((permit, entry));
        };
        self.lifetime.tasks.spawn(via::scope(via, answer).instrument(span));
    }

    /// Returns the relays that a request has passed once this one asks others for it.
    fn via(&self, request: &Message) -> Result<Via, WireError> {
        let via = Via::parse(request.headers.get(message::VIA))?;
        let instance = self.transfers.subjects.instance();
        via.check(instance)?;
        Ok(via.and(instance))
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

/// An operation with a single message as its answer.
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

/// Returns an answer of at most `room` bytes.
async fn answer_query(query: Query, store: &dyn Store, payload: &[u8], room: usize) -> Result<bytes::Bytes, WireError> {
    match query {
        Query::Stat => stat(store, payload).await,
        Query::List => list(store, payload, room).await,
    }
}

async fn send_answer(requester: &Requester, answer: Result<bytes::Bytes, WireError>) {
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

fn draining() -> WireError {
    WireError::new(Code::Draining, "this relay is shutting down")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::StreamExt;
    use futures_util::future::{BoxFuture, FutureExt, pending};
    use tokio::time::{sleep, timeout};

    use crate::metrics::RelayMetrics;
    use crate::shutdown::Shutdown;
    use crate::{Options, Relay, Stores};
    use gantry_bus::{Bus, Subscription};
    use gantry_proto::message::error_of;
    use gantry_proto::{Key, ObjectInfo, Pin, Span};
    use gantry_store::{Error, Opened};
    use gantry_testing::bus::MemoryNetwork;
    use gantry_testing::store::MemoryStore;

    use super::*;

    /// A store that never answers.
    #[derive(Debug)]
    struct Silent;

    impl Store for Silent {
        fn open<'a>(&'a self, _: &'a Key, _: &'a Pin, _: Span) -> BoxFuture<'a, Result<Opened, Error>> {
            pending().boxed()
        }

        fn stat<'a>(&'a self, _: &'a Key, _: &'a Pin) -> BoxFuture<'a, Result<ObjectInfo, Error>> {
            pending().boxed()
        }

        fn list<'a>(&'a self, _: &'a ListRequest) -> BoxFuture<'a, Result<ListPage, Error>> {
            pending().boxed()
        }

        fn probe(&self) -> BoxFuture<'_, Result<(), Error>> {
            pending().boxed()
        }
    }

    struct World {
        network: MemoryNetwork,
        relay: Relay,
        shutdown: Shutdown,
    }

    impl World {
        /// Starts a relay with the stores `silent` and `good`, which has the object `k`.
        async fn start(options: Options) -> Self {
            let good = MemoryStore::new(1000);
            good.put("k".parse().unwrap(), "bytes");
            let stores = Stores::from([
                ("good".parse().unwrap(), Arc::new(good) as Arc<dyn Store>),
                ("silent".parse().unwrap(), Arc::new(Silent) as Arc<dyn Store>),
            ]);

            let (network, shutdown) = (MemoryNetwork::new(1), Shutdown::default());
            let metrics = Arc::new(RelayMetrics::default());
            let relay = Relay::start(network.connect(), stores, options, metrics, shutdown.clone()).await.unwrap();
            Self { network, relay, shutdown }
        }

        async fn ask(&self, operation: Operation, store: &str) -> Subscription {
            let consumer = self.network.connect();
            let inbox = consumer.new_inbox();
            let answers = consumer.subscribe(&inbox, None).await.unwrap();

            let subject = format!("gantry.v1.{}.{store}", operation.name());
            let payload = if operation == Operation::List { "{}" } else { r#"{"key":"k","credit":10}"# };
            let request = Message { subject, reply: Some(inbox), payload: payload.into(), ..Message::default() };
            consumer.publish(request).await.unwrap();
            answers
        }

        /// Returns the first message that is not a beat.
        async fn answer(answers: &mut Subscription) -> Message {
            loop {
                let answer = timeout(Duration::from_secs(1), answers.next()).await.expect("no answer").unwrap();
                if answer.headers.get("Gantry-Type") != Some("beat") {
                    return answer;
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_store_does_not_block_requests_to_another() {
        let world = World::start(Options { transfers_max: 8, ..Options::default() }).await;
        let mut waiting = Vec::new();
        for operation in Operation::ALL {
            for _ in 0..100 {
                waiting.push(world.ask(operation, "silent").await);
            }
        }
        sleep(Duration::from_secs(1)).await;
        assert_eq!(world.relay.transfers_active(), 6);

        let mut get = world.ask(Operation::Get, "good").await;
        assert_eq!(World::answer(&mut get).await.headers.get("Gantry-Type"), Some("accepted"));
        for operation in [Operation::Stat, Operation::List] {
            let answer = World::answer(&mut world.ask(operation, "good").await).await;
            assert!(error_of(&answer.headers, &answer.payload).is_none(), "{operation:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_repeated_query_is_answered_once() {
        let world = World::start(Options::default()).await;
        let consumer = world.network.connect();
        let inbox = consumer.new_inbox();
        let mut answers = consumer.subscribe(&inbox, None).await.unwrap();
        let ask = async |store: &str| {
            let subject = format!("gantry.v1.list.{store}");
            let reply = Some(inbox.clone());
            consumer.publish(Message { subject, reply, payload: "{}".into(), ..Message::default() }).await.unwrap();
        };

        for _ in 0..100 {
            ask("silent").await;
        }
        sleep(Duration::from_millis(1)).await;
        assert_eq!(world.relay.registry.queries(), 1);

        // A request with another inbox is another query, and so is the same request after its answer.
        for _ in 0..2 {
            ask("good").await;
            World::answer(&mut answers).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_queries_that_the_store_does_not_answer() {
        for grace in [Duration::ZERO, Duration::from_secs(7)] {
            let world = World::start(Options { drain_grace: grace, ..Options::default() }).await;
            let mut queries = Vec::new();
            for operation in [Operation::Stat, Operation::List] {
                queries.push(world.ask(operation, "silent").await);
            }
            sleep(Duration::from_millis(1)).await;

            let began = tokio::time::Instant::now();
            world.shutdown.drain.cancel();
            timeout(Duration::from_secs(10), world.relay.wait()).await.expect("it ends").unwrap();

            assert!((grace..grace + Duration::from_millis(10)).contains(&began.elapsed()), "{:?}", began.elapsed());
            for query in &mut queries {
                let answer = World::answer(query).await;
                let error = error_of(&answer.headers, &answer.payload).expect("an error");
                assert_eq!(error.code, Code::Draining);
            }
        }
    }
}
