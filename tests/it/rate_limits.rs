//! The rate limits of relays and consumers, over the in-memory bus and with paused time.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use gantry_bus::rate::RateLimit;
use gantry_bus::{Bus, Message};
use gantry_client::{self as consumer, Client, Get};
use gantry_relay::metrics::RelayMetrics;
use gantry_relay::shutdown::Shutdown;
use gantry_relay::{Options, Relay, Stores};
use gantry_store::Store;
use gantry_testing::bus::MemoryNetwork;
use gantry_testing::store::MemoryStore;

const MIB_PER_S: u64 = 1 << 20;

/// A relay with an in-memory store `s`.
struct World {
    network: MemoryNetwork,
    _relay: Relay,
}

impl World {
    /// Starts a relay with a limit of 1 MiB/s.
    async fn of_objects(objects: impl IntoIterator<Item = (String, usize)>) -> Self {
        Self::start(objects, Some(limit())).await
    }

    async fn start(objects: impl IntoIterator<Item = (String, usize)>, rate_limit: Option<RateLimit>) -> Self {
        let store = MemoryStore::new(64 << 10);
        for (key, len) in objects {
            store.put(key.parse().unwrap(), vec![7; len]);
        }
        let network = MemoryNetwork::new(1);
        let stores: Stores = BTreeMap::from([("s".parse().unwrap(), Arc::new(store) as Arc<dyn Store>)]);
        let options = Options { rate_limit, ..Options::default() };
        let metrics = Arc::new(RelayMetrics::default());
        let relay = Relay::start(network.connect(), stores, options, metrics, Shutdown::default()).await.unwrap();
        // Time to save up for a burst while idle, if that were possible.
        sleep(Duration::from_secs(60)).await;
        Self { network, _relay: relay }
    }

    fn client(&self) -> Client {
        Client::new(self.network.connect(), consumer::Options::default())
    }
}

fn limit() -> RateLimit {
    RateLimit::new(NonZeroU64::new(MIB_PER_S).unwrap())
}

/// Downloads an object. Returns its length, and the longest time without a byte.
async fn download(client: &Client, key: String) -> (usize, Duration) {
    let mut since = Instant::now();
    let mut download = client.get(Get::new("s".parse().unwrap(), key.parse().unwrap())).await.unwrap();
    let mut len = 0;
    let mut longest = Duration::ZERO;
    while let Some(piece) = download.next().await {
        len += piece.unwrap().len();
        longest = longest.max(since.elapsed());
        since = Instant::now();
    }
    assert_eq!(download.progress().borrow().recoveries, 0);
    (len, longest)
}

#[tokio::test(start_paused = true)]
async fn a_hundred_small_objects_keep_to_the_limit() {
    for (len, is_concurrent) in [(20_000, true), (20_000, false), (5_000, true)] {
        let world = World::of_objects((0..100).map(|n| (n.to_string(), len))).await;
        let client = world.client();
        let began = Instant::now();

        if is_concurrent {
            join_all((0..100).map(|n| download(&client, n.to_string()))).await;
        } else {
            for n in 0..100 {
                assert_eq!(download(&client, n.to_string()).await.0, len);
            }
        }

        let took = began.elapsed().as_secs_f64();
        let expected = (100 * len) as f64 / MIB_PER_S as f64;
        println!("100 objects of {len} bytes: {took:.3} s, {:.3} of the limit", expected / took);
        assert!((0.9..1.1).contains(&(took / expected)), "{took} s, not {expected} s");
    }
}

/// Each object fits into the first chunk, which a limit between chunks would not delay.
#[tokio::test(start_paused = true)]
async fn a_hundred_small_objects_keep_to_the_limit_of_their_consumer() {
    for is_concurrent in [true, false] {
        let world = World::start((0..100).map(|n| (n.to_string(), 20_000)), None).await;
        let options = consumer::Options::default().rate_limit(Some(limit()));
        let client = Client::new(world.network.connect(), options);
        let began = Instant::now();

        if is_concurrent {
            join_all((0..100).map(|n| download(&client, n.to_string()))).await;
        } else {
            for n in 0..100 {
                download(&client, n.to_string()).await;
            }
        }

        let took = began.elapsed().as_secs_f64();
        let expected = 2_000_000.0 / MIB_PER_S as f64;
        assert!((0.9..1.1).contains(&(took / expected)), "{took} s, not {expected} s");
    }
}

#[tokio::test(start_paused = true)]
async fn cancelled_requests_leave_no_debt() {
    let world = World::of_objects([("k".to_owned(), 2 << 20)]).await;
    let bus = world.network.connect();
    let mut cancelled = Vec::new();
    for _ in 0..200 {
        let inbox = bus.new_inbox();
        let mut answers = bus.subscribe(&inbox, None).await.unwrap();
        let payload = Bytes::from_static(br#"{"key":"k","credit":0}"#);
        let subject = "gantry.v1.get.s".to_owned();
        bus.publish(Message { subject, reply: Some(inbox), payload, ..Message::default() }).await.unwrap();
        let accepted: serde_json::Value = serde_json::from_slice(&answers.next().await.unwrap().payload).unwrap();
        let subject = accepted["control"].as_str().unwrap().to_owned();
        let payload = Bytes::from_static(br#"{"cancel":true}"#);
        bus.publish(Message { subject, payload, ..Message::default() }).await.unwrap();
        cancelled.push(answers);
    }
    // Consumers that give all credit, and leave as soon as they are accepted.
    let client = world.client();
    for _ in 0..200 {
        drop(client.get(Get::new("s".parse().unwrap(), "k".parse().unwrap())).await.unwrap());
    }
    let began = Instant::now();

    assert_eq!(download(&client, "k".to_owned()).await.0, 2 << 20);

    println!("2 MiB after 400 cancelled requests: {:.3} s", began.elapsed().as_secs_f64());
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn all_of_many_transfers_make_progress() {
    let world = World::of_objects([("k".to_owned(), 60_000)]).await;
    let clients: Vec<_> = (0..341).map(|_| world.client()).collect();
    let began = Instant::now();

    let ends = join_all(clients.iter().map(|client| download(client, "k".to_owned()))).await;

    let longest = ends.iter().map(|(_, longest)| *longest).max().unwrap();
    println!("341 times 60,000 bytes: {:.1} s, longest silence {longest:?}", began.elapsed().as_secs_f64());
    assert!(ends.iter().all(|(len, _)| *len == 60_000));
    assert!(longest < Duration::from_secs(10), "{longest:?}");
    let expected = 341.0 * 60_000.0 / MIB_PER_S as f64;
    assert!((0.9..1.1).contains(&(began.elapsed().as_secs_f64() / expected)), "{:?}", began.elapsed());
}
