//! The drivers of relay and consumer over the in-memory bus, with paused time: faults that real servers do not produce
//! on demand.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use gantry_bus::{Bus, Message};
use gantry_client::{self as consumer, Client, Download, Error, Get};
use gantry_proto::{Key, ListPage, ListRequest, ObjectInfo, Pin, Span};
use gantry_relay::metrics::RelayMetrics;
use gantry_relay::shutdown::Shutdown;
use gantry_relay::{self as relay, Relay};
use gantry_store::{self as store, Opened, Store};
use gantry_testing::bus::{Action, Fault, Memory, MemoryNetwork, When, WhileCut};

use tokio::time::Instant;

use crate::support::data::random_bytes;

const CHUNK: usize = 1000;

/// One in-memory object, delivered in irregular frames.
#[derive(Debug)]
struct OneObject(Bytes);

impl OneObject {
    fn info(&self, key: &Key) -> ObjectInfo {
        ObjectInfo::new(key.clone(), self.0.len() as u64, "\"one\"".to_owned())
    }
}

impl Store for OneObject {
    fn open<'a>(&'a self, key: &'a Key, _: &'a Pin, span: Span) -> BoxFuture<'a, Result<Opened, store::Error>> {
        async move {
            let size = self.0.len() as u64;
            let range = span.resolve(size).ok_or(store::Error::Range { start: span.start, size })?;
            let mut rest = self.0.slice(usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap());
            let mut frames = Vec::new();
            for len in (1..).map(|n| n * 379 % 2500 + 1) {
                if rest.is_empty() {
                    break;
                }
                frames.push(Ok(rest.split_to(len.min(rest.len()))));
            }
            Ok(Opened { object: self.info(key), body: futures_util::stream::iter(frames).boxed() })
        }
        .boxed()
    }

    fn stat<'a>(&'a self, key: &'a Key, _: &'a Pin) -> BoxFuture<'a, Result<ObjectInfo, store::Error>> {
        async move { Ok(self.info(key)) }.boxed()
    }

    fn list<'a>(&'a self, _: &'a ListRequest) -> BoxFuture<'a, Result<ListPage, store::Error>> {
        async { Ok(ListPage::default()) }.boxed()
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), store::Error>> {
        async { Ok(()) }.boxed()
    }
}

/// A store whose object arrives byte by byte and practically never ends.
#[derive(Debug)]
struct Trickle;

impl Trickle {
    const SIZE: u64 = 1 << 40;
}

impl Store for Trickle {
    fn open<'a>(&'a self, key: &'a Key, _: &'a Pin, _: Span) -> BoxFuture<'a, Result<Opened, store::Error>> {
        let object = ObjectInfo::new(key.clone(), Self::SIZE, "\"one\"".to_owned());
        let body = futures_util::stream::repeat(()).then(async |()| {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Ok(Bytes::from_static(b"."))
        });
        async { Ok(Opened { object, body: body.boxed() }) }.boxed()
    }

    fn stat<'a>(&'a self, _: &'a Key, _: &'a Pin) -> BoxFuture<'a, Result<ObjectInfo, store::Error>> {
        std::future::pending().boxed()
    }

    fn list<'a>(&'a self, _: &'a ListRequest) -> BoxFuture<'a, Result<ListPage, store::Error>> {
        std::future::pending().boxed()
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), store::Error>> {
        async { Ok(()) }.boxed()
    }
}

/// A store that never answers.
#[derive(Debug)]
struct Silent;

impl Store for Silent {
    fn open<'a>(&'a self, _: &'a Key, _: &'a Pin, _: Span) -> BoxFuture<'a, Result<Opened, store::Error>> {
        std::future::pending().boxed()
    }

    fn stat<'a>(&'a self, _: &'a Key, _: &'a Pin) -> BoxFuture<'a, Result<ObjectInfo, store::Error>> {
        std::future::pending().boxed()
    }

    fn list<'a>(&'a self, _: &'a ListRequest) -> BoxFuture<'a, Result<ListPage, store::Error>> {
        std::future::pending().boxed()
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), store::Error>> {
        std::future::pending().boxed()
    }
}

/// Waits until a relay has no transfers, and returns how long that took.
async fn emptied(relay: &Relay) -> Duration {
    let began = Instant::now();
    while relay.transfers_active() > 0 {
        assert!(began.elapsed() < Duration::from_secs(600), "the transfer does not end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    began.elapsed()
}

struct World {
    network: MemoryNetwork,
    bytes: Bytes,
    consumer_bus: Arc<Memory>,
    client: Client,
}

impl World {
    fn new(len: usize) -> Self {
        let network = MemoryNetwork::new(7);
        let consumer_bus = network.connect();
        let options =
            consumer::Options::default().window_initial_bytes(8 * CHUNK as u64).window_max_bytes(64 * CHUNK as u64);
        let client = Client::new(Arc::clone(&consumer_bus) as Arc<dyn Bus>, options);
        Self { network, bytes: random_bytes(1, len), consumer_bus, client }
    }

    async fn relay(&self, shutdown: Shutdown) -> (Relay, Arc<Memory>) {
        self.relay_of(OneObject(self.bytes.clone()), shutdown).await
    }

    async fn relay_of(&self, store: impl Store, shutdown: Shutdown) -> (Relay, Arc<Memory>) {
        let bus = self.network.connect();
        let store: Arc<dyn Store> = Arc::new(store);
        let stores = BTreeMap::from([("s".parse().unwrap(), store)]);
        let options = relay::Options { chunk_max_bytes: CHUNK, gather_min_bytes: 200, ..relay::Options::default() };
        let metrics = Arc::new(RelayMetrics::default());
        let relay = Relay::start(Arc::clone(&bus) as Arc<dyn Bus>, stores, options, metrics, shutdown).await.unwrap();
        (relay, bus)
    }

    async fn get(&self) -> Result<Download, Error> {
        self.client.get(Get::new("s".parse().unwrap(), "k".parse().unwrap())).await
    }

    async fn fetch(&self) -> Bytes {
        let download = tokio::time::timeout(Duration::from_secs(600), async {
            let chunks: Vec<Bytes> = self.get().await.unwrap().try_collect().await.unwrap();
            chunks.concat()
        });
        download.await.expect("the download ends in time").into()
    }
}

#[tokio::test(start_paused = true)]
async fn a_quiet_bus_carries_the_bytes_in_one_transfer() {
    let world = World::new(300_000);
    let (relay, _) = world.relay(Shutdown::default()).await;
    let download = world.get().await.unwrap();
    let progress = download.progress();
    let chunks: Vec<Bytes> = download.try_collect().await.unwrap();
    assert_eq!(chunks.concat(), world.bytes);
    assert_eq!(progress.borrow().recoveries, 0);
    assert_eq!(relay.transfers_active(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_empty_object_ends() {
    let world = World::new(0);
    let _relay = world.relay(Shutdown::default()).await;
    assert!(world.fetch().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn survives_a_bus_that_drops_repeats_delays_and_corrupts() {
    let world = World::new(300_000);
    let _relays = (world.relay(Shutdown::default()).await, world.relay(Shutdown::default()).await);
    for (action, probability) in
        [(Action::Drop, 0.02), (Action::Repeat, 0.05), (Action::Jitter(Duration::from_millis(30)), 0.02)]
    {
        world.network.add_fault(Fault::new(action).when(When::Probability(probability)));
    }
    // The relay rejects a damaged request as bad, since it can't detect the damage.
    let damage = Fault::new(Action::Corrupt).when(When::Probability(0.01));
    world.network.add_fault(damage.to(world.consumer_bus.id()));
    assert_eq!(world.fetch().await, world.bytes);
    let tally = world.network.tally();
    assert!(tally.dropped > 0 && tally.repeated > 0 && tally.delayed > 0 && tally.corrupted > 0, "{tally:?}");
}

#[tokio::test(start_paused = true)]
async fn survives_a_cut_on_either_side() {
    for cut_consumer in [true, false] {
        let world = World::new(300_000);
        let (_relay, relay_bus) = world.relay(Shutdown::default()).await;
        let victim = if cut_consumer { Arc::clone(&world.consumer_bus) } else { relay_bus };
        let mut download = world.get().await.unwrap();
        let mut bytes = Vec::from(download.next().await.unwrap().unwrap());

        victim.cut(WhileCut::Lose);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(20)).await;
            victim.restore();
        });

        while let Some(chunk) = download.try_next().await.unwrap() {
            bytes.extend_from_slice(&chunk);
        }

        assert_eq!(bytes, world.bytes);
    }
}

#[tokio::test(start_paused = true)]
async fn a_draining_relay_hands_over_to_another() {
    let world = World::new(300_000);
    let shutdown = Shutdown::default();
    let (first, _) = world.relay(shutdown.clone()).await;
    let mut download = world.get().await.unwrap();
    let mut bytes = Vec::from(download.next().await.unwrap().unwrap());
    let _second = world.relay(Shutdown::default()).await;
    shutdown.drain.cancel();
    first.wait().await.unwrap();
    while let Some(chunk) = download.try_next().await.unwrap() {
        bytes.extend_from_slice(&chunk);
    }
    assert_eq!(bytes, world.bytes);
    assert_eq!(download.progress().borrow().recoveries, 1);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_pauses_for_minutes_keeps_its_transfer() {
    let world = World::new(300_000);
    let _relay = world.relay(Shutdown::default()).await;
    let mut download = world.get().await.unwrap();
    let mut bytes = Vec::from(download.next().await.unwrap().unwrap());
    tokio::time::sleep(Duration::from_secs(300)).await;
    while let Some(chunk) = download.try_next().await.unwrap() {
        bytes.extend_from_slice(&chunk);
    }
    assert_eq!(bytes, world.bytes);
    assert_eq!(download.progress().borrow().recoveries, 0);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_download_frees_the_relay_at_once() {
    let world = World::new(300_000);
    let (relay, _) = world.relay(Shutdown::default()).await;
    let mut download = world.get().await.unwrap();
    download.next().await.unwrap().unwrap();
    assert_eq!(relay.transfers_active(), 1);
    drop(download);
    tokio::time::timeout(Duration::from_millis(10), async {
        while relay.transfers_active() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the transfer ends");
}

#[tokio::test(start_paused = true)]
async fn a_relay_whose_publish_is_not_accepted_frees_the_transfer() {
    let world = World::new(300_000);
    let (relay, relay_bus) = world.relay(Shutdown::default()).await;
    let mut download = world.get().await.unwrap();
    download.next().await.unwrap().unwrap();
    assert_eq!(relay.transfers_active(), 1);
    relay_bus.cut(WhileCut::Wait);
    let took = emptied(&relay).await;
    let idle = relay::Options::default().idle_timeout;
    assert!((idle..idle + Duration::from_secs(2)).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_disconnected_consumer_with_credit_is_abandoned_in_time() {
    let world = World::new(300_000);
    let (relay, _) = world.relay_of(Trickle, Shutdown::default()).await;
    let mut download = world.get().await.unwrap();
    download.next().await.unwrap().unwrap();
    // The relay is not notified: the bus accepts its messages and drops them.
    world.network.add_fault(Fault::new(Action::Drop).from(world.consumer_bus.id()));
    let took = emptied(&relay).await;
    assert!(took <= relay::Options::default().idle_timeout, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_drain_while_the_store_opens_is_answered_with_goaway() {
    let world = World::new(0);
    let shutdown = Shutdown::default();
    let (relay, _) = world.relay_of(Silent, shutdown.clone()).await;
    let inbox = world.consumer_bus.new_inbox();
    let mut answers = world.consumer_bus.subscribe(&inbox, None).await.unwrap();
    let request = Message {
        subject: "gantry.v1.get.s".to_owned(),
        reply: Some(inbox),
        payload: Bytes::from_static(br#"{"key":"k"}"#),
        ..Message::default()
    };
    world.consumer_bus.publish(request).await.unwrap();
    answers.next().await.unwrap();

    shutdown.drain.cancel();
    let last = loop {
        let answer = answers.next().await.unwrap();
        let kind = answer.headers.get("Gantry-Type").unwrap().to_owned();
        if kind != "beat" {
            break kind;
        }
    };

    assert_eq!(last, "goaway");
    relay.wait().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn distinguishes_a_missing_relay_from_a_missing_store() {
    let world = World::new(10);
    assert!(matches!(world.get().await, Err(Error::NoRelay { .. })));
    let _relay = world.relay(Shutdown::default()).await;
    let missing = world.client.get(Get::new("t".parse().unwrap(), "k".parse().unwrap())).await;
    assert!(matches!(missing, Err(Error::NoStore { .. })), "{missing:?}");
}
