//! The consumer with a scripted relay, on an in-memory bus.

mod parallel;
mod resumed;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use gantry_bus::{self as bus, Bus as _, Message, Subscription};
use gantry_proto::chunk::Chunk;
use gantry_proto::message::{Body, Envelope, Wait, json};
use gantry_proto::receiver::Cause;
use gantry_proto::subject::Prefix;
use gantry_proto::{
    Accepted, Checksum, ChecksumAlgorithm, ChecksumKind, Control, End, GetRequest, ListRequest, ObjectInfo, Pin,
    TransferId,
};
use gantry_testing::bus::{Memory, MemoryNetwork, WhileCut};

use crate::driver::join;
use crate::verify::Proof;
use crate::{Client, Error, FileOptions, Get, Options};

const SIZE: u64 = 1_000_000;

/// A relay that the test controls, for one consumer.
struct Relay {
    bus: Arc<Memory>,
    requests: Subscription,
    controls: Subscription,
    transfer: TransferId,
    inbox: String,
    object: ObjectInfo,
}

impl Relay {
    async fn on(network: &MemoryNetwork) -> Self {
        let bus = network.connect();
        let requests = bus.subscribe("gantry.v1.get.s", None).await.unwrap();
        let controls = bus.subscribe("gantry.v1.ctl.relay.*", None).await.unwrap();
        Self {
            bus,
            requests,
            controls,
            transfer: TransferId(uuid::Uuid::from_u128(1)),
            inbox: String::new(),
            object: object(),
        }
    }

    /// Receives a request and accepts it.
    async fn accept(&mut self) -> GetRequest {
        let message = self.requests.next().await.unwrap();
        self.inbox = message.reply.unwrap();
        let mut request = GetRequest::parse(&message.payload).unwrap();
        request.apply_location(&self.bus.location().unwrap());
        let accepted = Accepted {
            host: None,
            transfer: self.transfer,
            instance: "relay".to_owned(),
            control: self.control_subject(),
            object: self.object.clone(),
            start: request.start,
            end: SIZE,
            credit: request.credit.unwrap(),
            window_max: SIZE,
            chunk_max: SIZE,
            beat_ms: 1000,
            idle_ms: 15_000,
        };
        self.say(&Body::Accepted(Box::new(accepted))).await;
        request
    }

    async fn say(&self, body: &Body) {
        let (headers, payload) = Envelope { transfer: Some(self.transfer), context: None }.encode(body);
        let reply = Some(self.control_subject());
        let message = Message { subject: self.inbox.clone(), reply, headers, payload, status: None };
        self.bus.publish(message).await.unwrap();
    }

    fn control_subject(&self) -> String {
        Prefix::default().control("relay", self.transfer)
    }

    async fn control(&mut self) -> Control {
        Control::parse(&self.controls.next().await.unwrap().payload).unwrap()
    }
}

fn object() -> ObjectInfo {
    ObjectInfo::new("k".parse().unwrap(), SIZE, "\"one\"".to_owned())
}

/// Returns the checksum that a store keeps of these bytes.
fn stored(bytes: &[u8]) -> Option<Checksum> {
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes);
    Some(Checksum {
        algorithm: ChecksumAlgorithm::Crc64Nvme,
        kind: ChecksumKind::FullObject,
        value: STANDARD.encode(crc.to_be_bytes()),
        parts: Vec::new(),
    })
}

/// Returns the bytes of the object.
fn body() -> Vec<u8> {
    vec![7; usize::try_from(SIZE).unwrap()]
}

fn client(bus: &Arc<Memory>, options: Options) -> Client {
    Client::new(Arc::clone(bus) as Arc<dyn bus::Bus>, options)
}

fn wanted() -> Get {
    Get::new("s".parse().unwrap(), "k".parse().unwrap())
}

/// A disk may fill up after the sink has received all bytes that the credit allowed. The driver once waited forever in
/// this case.
#[tokio::test(start_paused = true)]
async fn cancels_transfer_when_sink_fails_with_all_credit_used() {
    let network = MemoryNetwork::new(1);
    let mut relay = Relay::on(&network).await;
    let client = client(&network.connect(), Options { window_initial_bytes: 1000, ..Options::default() });
    let (download, _) = tokio::join!(client.get(wanted()), relay.accept());
    let mut parts = download.unwrap().into_parts();
    relay.say(&Body::Chunk(Chunk::new(0, 0, vec![0; 1000].into()))).await;
    relay.say(&Body::Beat { seq: 1, offset: 1000, wait: Wait::Credit }).await;
    parts.chunks.recv().await.unwrap();

    drop((parts.chunks, parts.written));
    let driven = tokio::time::timeout(Duration::from_secs(1), join(parts.driver)).await;

    assert!(matches!(driven, Ok(Err(Error::Cancelled))), "{driven:?}");
    while !relay.control().await.cancel {}
}

/// A bus that blocks every call, like async-nats without a connection once its queue is full.
#[derive(Debug)]
struct Stuck(Arc<Memory>);

impl bus::Bus for Stuck {
    fn publish(&self, _: Message) -> BoxFuture<'_, Result<(), bus::Error>> {
        Box::pin(std::future::pending())
    }

    fn subscribe<'a>(&'a self, _: &'a str, _: Option<&'a str>) -> BoxFuture<'a, Result<Subscription, bus::Error>> {
        Box::pin(std::future::pending())
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), bus::Error>> {
        Box::pin(std::future::pending())
    }

    fn reconnect(&self) -> BoxFuture<'_, Result<(), bus::Error>> {
        Box::pin(std::future::pending())
    }

    fn new_inbox(&self) -> String {
        self.0.new_inbox()
    }

    fn max_payload(&self) -> usize {
        self.0.max_payload()
    }

    fn server(&self) -> String {
        self.0.server()
    }

    fn received_bytes(&self) -> u64 {
        0
    }

    fn status(&self) -> watch::Receiver<bus::Status> {
        self.0.status()
    }

    fn events(&self) -> broadcast::Receiver<bus::Event> {
        self.0.events()
    }
}

#[tokio::test(start_paused = true)]
async fn gives_up_in_time_on_a_blocked_bus() {
    let stuck = Arc::new(Stuck(MemoryNetwork::new(1).connect()));
    let client = Client::new(stuck, Options { patience: Duration::from_secs(20), ..Options::default() });

    let get = tokio::time::timeout(Duration::from_secs(22), client.get(wanted())).await;
    assert!(matches!(get, Ok(Err(Error::GaveUp { cause: Cause::Stall, .. }))), "{get:?}");

    let (store, key) = ("s".parse().unwrap(), "k".parse().unwrap());
    let stat = tokio::time::timeout(Duration::from_secs(17), client.stat(&store, &key, &Pin::default())).await;
    assert!(matches!(stat, Ok(Err(Error::GaveUp { cause: Cause::Stall, .. }))), "{stat:?}");
}

/// nats-server delivers a request to one relay of the queue group, which may hang.
#[tokio::test(start_paused = true)]
async fn repeats_a_query_that_a_hanging_relay_received() {
    let network = MemoryNetwork::new(1);
    let bus = network.connect();
    let client = client(&network.connect(), Options::default());
    let mut questions = bus.subscribe("gantry.v1.stat.s", None).await.unwrap();
    let relay = async {
        questions.next().await.unwrap();
        let Message { reply, .. } = questions.next().await.unwrap();
        let answer = Message { subject: reply.unwrap(), payload: json(&object()), ..Message::default() };
        bus.publish(answer).await.unwrap();
    };

    let started = Instant::now();
    let get = wanted();
    let (stat, ()) = tokio::join!(client.stat(&get.store, &get.key, &get.pin), relay);

    assert_eq!(stat.unwrap(), object());
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

/// The first download gets a kilobyte, and a wrong checksum. The second one gets the right checksum for the same `ETag`.
#[tokio::test]
async fn restarts_when_the_part_file_contradicts_the_object() {
    let network = MemoryNetwork::new(1);
    let mut relay = Relay::on(&network).await;
    let client = client(&network.connect(), Options::default());
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let body = body();

    relay.object.checksum = stored(b"other");
    let options = FileOptions::default();
    let interrupted = client.download(wanted(), &target, options.clone());
    let serve = async {
        relay.accept().await;
        relay.say(&Body::Chunk(Chunk::new(0, 0, body[..1000].to_vec().into()))).await;
        let part = folder.path().join(".file.gantry-part");
        while std::fs::metadata(&part).map_or(0, |metadata| metadata.len()) < 1000 {
            tokio::task::yield_now().await;
        }
        options.cancel.cancel();
    };
    let (interrupted, ()) = tokio::join!(interrupted, serve);
    assert!(matches!(interrupted, Err(Error::Cancelled)), "{interrupted:?}");

    relay.object.checksum = stored(&body);
    let again = client.download(wanted(), &target, FileOptions::default());
    let serve = async {
        assert_eq!(relay.accept().await.start, 1000);
        relay.transfer = TransferId(uuid::Uuid::from_u128(2));
        assert_eq!(relay.accept().await.start, 0);
        relay.say(&Body::Chunk(Chunk::new(0, 0, body.clone().into()))).await;
        relay.say(&Body::End(End { chunks: 1, bytes: SIZE })).await;
    };
    let (again, ()) = tokio::join!(again, serve);

    let report = again.unwrap();
    assert_eq!((report.fetched_bytes, report.resumed_from), (SIZE, None));
    assert!(report.restarted.is_some());
    assert!(matches!(report.proof, Proof::FullObject { .. }), "{:?}", report.proof);
    assert_eq!(std::fs::read(&target).unwrap(), body);
}

/// Answers every request on a subject with the same body.
async fn answer(bus: Arc<Memory>, subject: &str, body: String) {
    let mut questions = bus.subscribe(subject, None).await.unwrap();
    while let Some(question) = questions.next().await {
        let message = Message { subject: question.reply.unwrap(), payload: body.clone().into(), ..Message::default() };
        bus.publish(message).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn reports_a_missing_store_only_if_a_relay_with_the_same_prefix_answers() {
    let answers = |prefix: &str| format!(r#"{{"name":"gantry","id":"1","metadata":{{"prefix":"{prefix}"}}}}"#);
    for (body, is_ours) in [(answers("gantry"), true), (answers("other"), false), ("hello".to_owned(), false)] {
        let network = MemoryNetwork::new(1);
        let client = client(&network.connect(), Options::default());

        let ended = tokio::select! {
            ended = client.get(wanted()) => ended.map(|_| ()),
            () = answer(network.connect(), "$SRV.PING.gantry", body) => panic!("the subscription ended"),
        };

        assert!(
            matches!(ended, Err(Error::NoStore { .. }) if is_ours)
                || matches!(ended, Err(Error::NoRelay { .. }) if !is_ours)
        );
    }
}

/// A relay that came back between the request and the question which stores there are was once named as the only one that
/// exists instead.
#[tokio::test(start_paused = true)]
async fn a_store_that_is_back_is_left_for_a_moment_only() {
    for (name, is_back) in [("s", true), ("t", false)] {
        let network = MemoryNetwork::new(1);
        let client = client(&network.connect(), Options::default());
        let endpoints = format!(r#","endpoints":[{{"metadata":{{"store":"{name}"}}}}]"#);
        let about = |more: &str| format!(r#"{{"name":"gantry","id":"1","metadata":{{"prefix":"gantry"}}{more}}}"#);

        let ended = tokio::select! {
            ended = client.get(wanted()) => ended.map(|_| ()),
            () = answer(network.connect(), "$SRV.PING.gantry", about("")) => panic!("the subscription ended"),
            () = answer(network.connect(), "$SRV.INFO.gantry", about(&endpoints)) => panic!("the subscription ended"),
        };

        assert_eq!(matches!(ended, Err(Error::StoreLeft(_))), is_back, "{ended:?}");
        assert_eq!(matches!(ended, Err(Error::NoStore { .. })), !is_back, "{ended:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn rejects_answers_about_something_else() {
    let describe = |key: &str, size: u64| format!(r#"{{"key":"{key}","size":{size},"etag":"1"}}"#);
    let list = |entries: &str| format!(r#"{{"entries":[{entries}],"prefixes":[]}}"#);
    let entry = |key: &str| format!(r#"{{"key":"{key}","size":1}}"#);
    for (stat, page, is_right) in [
        (describe("k", 1), list(&entry("a/b")), true),
        (describe("other", 1), list(&entry("b")), false),
        (describe("k", 1 << 63), list(&entry("a/\\n")), false),
        ("[".repeat(10_000), list(&[entry("a/b"), entry("a/c"), entry("a/d")].join(",")), false),
    ] {
        let network = MemoryNetwork::new(1);
        let client = client(&network.connect(), Options::default());
        let store = "s".parse().unwrap();
        let request = ListRequest { prefix: "a/".to_owned(), limit: Some(2), ..ListRequest::default() };

        let asking = async {
            let (key, pin) = ("k".parse().unwrap(), Pin::default());
            (client.stat(&store, &key, &pin).await, client.list_page(&store, &request).await)
        };
        // Biased, so that the answering side subscribes before the requests are sent.
        let (described, listed) = tokio::select! {
            biased;
            () = answer(network.connect(), "gantry.v1.stat.s", stat) => panic!("the subscription ended"),
            () = answer(network.connect(), "gantry.v1.list.s", page) => panic!("the subscription ended"),
            answers = asking => answers,
        };

        assert!(described.is_ok() == is_right && listed.is_ok() == is_right, "{described:?} {listed:?}");
        assert!(is_right || matches!(described, Err(Error::Malformed(_))), "{described:?}");
        assert!(is_right || matches!(listed, Err(Error::Malformed(_))), "{listed:?}");
    }
}

/// The sum of the current time and an unlimited patience is not a valid time.
#[tokio::test(start_paused = true)]
async fn retries_without_end_with_unlimited_patience() {
    let bus = MemoryNetwork::new(1).connect();
    bus.cut(WhileCut::Wait);
    let client = client(&bus, Options { patience: Duration::MAX, ..Options::default() });

    let waiting = tokio::time::timeout(Duration::from_secs(3600), client.get(wanted())).await;

    assert!(waiting.is_err(), "{waiting:?}");
}
