//! The protocol by hand: a relay in the test's process on a real nats-server, observed with plain core NATS calls.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, StatusCode, Subscriber};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use gantry_bus::nats;
use gantry_proto::{
    Checksum, ChecksumAlgorithm, ChecksumKind, Key, ListEntry, ListPage, ListRequest, ObjectInfo, Pin, Span,
};
use gantry_relay::metrics::{ConnectionLabel, ReasonLabel, RelayMetrics};
use gantry_relay::shutdown::Shutdown;
use gantry_relay::{Buses, Options, Relay, Stores};
use gantry_store::{self as store, Opened, Store};
use serde_json::Value;
use tokio::time::timeout;

use crate::support::{DEADLINE, Nats};

/// The modification time of every object of a [`Shelf`].
const WRITTEN: &str = "2026-01-02T03:04:05Z";

/// How a [`Shelf`] serves a key.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    /// Delivers these bytes in one frame.
    Bytes(Bytes),
    /// Delivers the first half of these bytes, and then reports that the object was replaced.
    Replaced(Bytes),
    /// Delivers the first half of these bytes, and then stalls forever.
    Stuck(Bytes),
    /// Never finishes opening.
    Shut,
}

/// An in-memory store.
#[derive(Debug, Default)]
pub(crate) struct Shelf(BTreeMap<String, Item>);

impl Shelf {
    pub(crate) fn put(mut self, key: &str, item: Item) -> Self {
        self.0.insert(key.to_owned(), item);
        self
    }

    pub(crate) fn bytes(self, key: &str, bytes: impl Into<Bytes>) -> Self {
        self.put(key, Item::Bytes(bytes.into()))
    }

    fn find(&self, key: &Key, pin: &Pin) -> Result<(ObjectInfo, &Item), store::Error> {
        let item = self.0.get(key.as_str());
        let item = item.ok_or_else(|| store::Error::NotFound(format!("no object {:?}", key.as_str())))?;
        let bytes = item.bytes();
        let etag = format!("\"{:x}\"", bytes.len());

        if pin.if_match.as_ref().is_some_and(|wanted| *wanted != etag) {
            return Err(store::Error::Changed(format!("the object's etag is {etag} now")));
        }
        let crc = gantry_proto::chunk::crc(bytes);
        let mut info = ObjectInfo::new(key.clone(), bytes.len() as u64, etag);
        info.last_modified = Some(WRITTEN.to_owned());
        info.content_type = Some("text/plain".to_owned());
        info.metadata = BTreeMap::from([("colour".to_owned(), "blue".to_owned())]);
        info.checksum = Some(Checksum {
            algorithm: ChecksumAlgorithm::Crc64Nvme,
            kind: ChecksumKind::FullObject,
            value: STANDARD.encode(crc.to_be_bytes()),
            parts: Vec::new(),
        });

        Ok((info, item))
    }
}

impl Item {
    const fn bytes(&self) -> &Bytes {
        static NONE: Bytes = Bytes::new();
        match self {
            Self::Bytes(bytes) | Self::Replaced(bytes) | Self::Stuck(bytes) => bytes,
            Self::Shut => &NONE,
        }
    }
}

impl Store for Shelf {
    fn open<'a>(&'a self, key: &'a Key, pin: &'a Pin, span: Span) -> BoxFuture<'a, Result<Opened, store::Error>> {
        async move {
            let (object, item) = self.find(key, pin)?;
            if matches!(item, Item::Shut) {
                return std::future::pending().await;
            }
            let range =
                span.resolve(object.size).ok_or(store::Error::Range { start: span.start, size: object.size })?;
            let bytes = item.bytes();
            let end = usize::try_from(range.end).unwrap();
            let limit = if matches!(item, Item::Bytes(_)) { end } else { end.min(bytes.len() / 2) };
            let frame = bytes.slice(usize::try_from(range.start).unwrap().min(limit)..limit);
            let frames = futures_util::stream::iter((!frame.is_empty()).then_some(Ok(frame)));
            let body = match item {
                Item::Bytes(_) | Item::Shut => frames.boxed(),
                Item::Replaced(_) => {
                    let changed = store::Error::Changed("the object was replaced while it was read".to_owned());
                    frames.chain(futures_util::stream::iter([Err(changed)])).boxed()
                }
                Item::Stuck(_) => frames.chain(futures_util::stream::pending()).boxed(),
            };
            Ok(Opened { object, body })
        }
        .boxed()
    }

    fn stat<'a>(&'a self, key: &'a Key, pin: &'a Pin) -> BoxFuture<'a, Result<ObjectInfo, store::Error>> {
        async move { self.find(key, pin).map(|(object, _)| object) }.boxed()
    }

    fn list<'a>(&'a self, request: &'a ListRequest) -> BoxFuture<'a, Result<ListPage, store::Error>> {
        async move {
            let limit = request.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap());
            let after = request.token.as_deref().unwrap_or_default();
            let mut keys = self.0.keys().filter(|key| key.starts_with(&request.prefix) && key.as_str() > after);
            let mut page = ListPage::default();
            for key in keys.by_ref().take(limit) {
                let (info, _) = self.find(&key.parse().unwrap(), &Pin::default())?;
                let mut entry = ListEntry::new(key.clone(), info.size);
                entry.etag = Some(info.etag);
                entry.last_modified = info.last_modified;
                page.entries.push(entry);
            }
            page.next = keys.next().and(page.entries.last()).map(|last| last.key.clone());
            Ok(page)
        }
        .boxed()
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), store::Error>> {
        async { Ok(()) }.boxed()
    }
}

/// A relay in this process with the store `files`, and a connection that observes it.
pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) relay: Relay,
    pub(crate) metrics: Arc<RelayMetrics>,
    pub(crate) shutdown: Shutdown,
    pub(crate) nats: Nats,
}

impl World {
    pub(crate) async fn new(shelf: Shelf, options: Options) -> Self {
        Self::on(Nats::plain().await, shelf, options).await
    }

    pub(crate) async fn on(nats: Nats, shelf: Shelf, options: Options) -> Self {
        let metrics = Arc::new(RelayMetrics::default());
        let shutdown = Shutdown::default();
        let relay = start_relay(&nats, "files", shelf, options, Arc::clone(&metrics), shutdown.clone()).await;
        let client = nats.client().await;
        is_heard(&client, relay.instance()).await;
        Self { client, relay, metrics, shutdown, nats }
    }

    pub(crate) async fn inbox(&self) -> Inbox {
        Inbox::new(&self.client).await
    }

    /// Sends a request for an operation on the store `files`.
    pub(crate) async fn ask(&self, operation: &str, body: impl Into<Bytes>) -> Inbox {
        Inbox::ask(&self.client, &format!("gantry.v1.{operation}.files"), body).await
    }

    pub(crate) async fn get(&self, body: Value) -> Inbox {
        self.ask("get", body.to_string()).await
    }

    /// Returns how often the relay has replaced one of its connections.
    pub(crate) fn reconnects(&self, connection: &'static str) -> u64 {
        self.metrics.nats_reconnects.get_or_create(&ConnectionLabel { connection }).get()
    }

    /// Returns how often the relay has refused a request for this reason.
    pub(crate) fn refused(&self, reason: &'static str) -> u64 {
        self.metrics.refused.get_or_create(&ReasonLabel { reason }).get()
    }
}

/// Starts a relay with one store, on its own connections.
pub(crate) async fn start_relay(
    nats: &Nats,
    store: &str,
    shelf: Shelf,
    options: Options,
    metrics: Arc<RelayMetrics>,
    shutdown: Shutdown,
) -> Relay {
    start_relay_at(&nats.url(), store, shelf, options, metrics, shutdown).await
}

/// Starts a relay with one store, on its own connections to this address.
pub(crate) async fn start_relay_at(
    url: &str,
    store: &str,
    shelf: Shelf,
    options: Options,
    metrics: Arc<RelayMetrics>,
    shutdown: Shutdown,
) -> Relay {
    let connect = || nats::connect(nats::Options { servers: vec![url.to_owned()], ..nats::Options::default() });
    let buses = Buses { requests: connect().await.unwrap(), data: connect().await.unwrap() };
    let stores: Stores = BTreeMap::from([(store.parse().unwrap(), Arc::new(shelf) as Arc<dyn Store>)]);
    Relay::start(buses, stores, options, metrics, shutdown).await.unwrap()
}

/// Waits until the server has processed a relay's subscriptions.
pub(crate) async fn is_heard(client: &Client, instance: &str) {
    loop {
        let mut inbox = Inbox::ask(client, &format!("$SRV.PING.gantry.{instance}"), "").await;
        if !inbox.next().await.is_no_responders() {
            return;
        }
    }
}

/// Receives the answers to one request.
pub(crate) struct Inbox {
    client: Client,
    pub(crate) subject: String,
    messages: Subscriber,
}

impl Inbox {
    pub(crate) async fn new(client: &Client) -> Self {
        let subject = client.new_inbox();
        let messages = client.subscribe(subject.clone()).await.unwrap();
        Self { client: client.clone(), subject, messages }
    }

    /// Sends a request whose answers arrive here.
    pub(crate) async fn ask(client: &Client, subject: &str, body: impl Into<Bytes>) -> Self {
        let inbox = Self::new(client).await;
        client.publish_with_reply(subject.to_owned(), inbox.subject.clone(), body.into()).await.unwrap();
        inbox
    }

    /// Returns the next message, as received by async-nats.
    pub(crate) async fn message(&mut self) -> async_nats::Message {
        let next = timeout(DEADLINE, self.messages.next()).await.expect("a message within the deadline");
        next.expect("the subscription lives")
    }

    /// Returns the next message of a transfer.
    pub(crate) async fn next(&mut self) -> Heard {
        Heard(self.message().await)
    }

    /// Returns the next message other than a beat.
    pub(crate) async fn next_but_beats(&mut self) -> Heard {
        loop {
            let heard = self.next().await;
            if heard.kind() != "beat" {
                return heard;
            }
        }
    }

    pub(crate) async fn say(&self, control: &str, body: Value) {
        self.client
            .publish_with_reply(control.to_owned(), self.subject.clone(), body.to_string().into())
            .await
            .unwrap();
    }

    pub(crate) async fn unsubscribe(mut self) {
        self.messages.unsubscribe().await.unwrap();
        self.client.flush().await.unwrap();
    }

    /// Gives all credit, reads to the end, and returns the bytes.
    pub(crate) async fn read_all(mut self) -> Bytes {
        let accepted = self.next_but_beats().await;
        assert_eq!(accepted.kind(), "accepted", "{accepted:?}");
        let control = accepted.json()["control"].as_str().unwrap().to_owned();
        let mut bytes = Vec::new();
        loop {
            let heard = self.next().await;
            match heard.kind() {
                "chunk" => bytes.extend_from_slice(&heard.0.payload),
                "beat" => self.say(&control, serde_json::json!({"credit": i64::MAX})).await,
                "end" => return bytes.into(),
                _ => panic!("{heard:?}"),
            }
        }
    }
}

/// A received message.
#[derive(Debug)]
pub(crate) struct Heard(pub(crate) async_nats::Message);

impl Heard {
    /// Returns `Gantry-Type`, or an empty text if the header is missing.
    pub(crate) fn kind(&self) -> &str {
        self.header("Gantry-Type").unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.0.headers.as_ref()?.get(name).map(|value| value.as_str())
    }

    pub(crate) fn headers(&self) -> BTreeMap<String, String> {
        let headers = self.0.headers.iter().flat_map(|map| map.iter());
        headers.map(|(name, values)| (name.to_string(), values[0].as_str().to_owned())).collect()
    }

    pub(crate) fn number(&self, name: &str) -> u64 {
        let text = self.header(name).unwrap_or_else(|| panic!("no {name}: {self:?}"));
        text.parse().unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.0.payload).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn reply(&self) -> Option<&str> {
        self.0.reply.as_deref()
    }

    pub(crate) fn is_no_responders(&self) -> bool {
        self.0.status == Some(StatusCode::NO_RESPONDERS)
    }
}

/// A relay that sends beats every 50 ms and small chunks.
pub(crate) fn lively() -> Options {
    Options {
        chunk_max_bytes: 1000,
        gather_min_bytes: 200,
        beat_interval: Duration::from_millis(50),
        idle_timeout: Duration::from_secs(30),
        ..Options::default()
    }
}
