//! An upstream store of a real relay, which serves objects in memory over a bus in memory.

mod failing;
mod ranges;
mod uplink;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt as _;

use gantry_client::bus::Bus;
use gantry_proto::{Key, ObjectInfo, Pin, Span};
use gantry_relay::metrics::RelayMetrics;
use gantry_relay::shutdown::Shutdown;
use gantry_relay::{Buses, Relay, Stores};
use gantry_store::{Error, Opened, Store};
use gantry_testing::bus::{Action, Fault, Memory, MemoryNetwork};
use gantry_testing::store::MemoryStore;

use crate::{Counts, Options, Relays, Upstream};

/// One relay with one store, `s`, and a consumer.
struct World {
    network: MemoryNetwork,
    consumer: Arc<Memory>,
    objects: Arc<MemoryStore>,
    relay: Relay,
    relays: Relays,
    store: Upstream,
}

impl World {
    async fn new() -> Self {
        Self::with(Options::default()).await
    }

    async fn with(options: Options) -> Self {
        let network = MemoryNetwork::new(1);
        let objects = Arc::new(MemoryStore::new(128 << 10));
        let stores: Stores = [("s".parse().unwrap(), Arc::clone(&objects) as Arc<dyn Store>)].into();
        let buses = Buses { requests: network.connect(), data: network.connect() };
        let metrics = Arc::new(RelayMetrics::default());
        let relay = Relay::start(buses, stores, gantry_relay::Options::default(), metrics, Shutdown::default()).await;

        let consumer = network.connect();
        let bus = Arc::clone(&consumer) as Arc<dyn Bus>;
        let relays = Relays::new(bus, gantry_client::Options::default(), options);
        let store = relays.store("s".parse().unwrap());
        Self { network, consumer, objects, relay: relay.unwrap(), relays, store }
    }

    /// Makes a message and its answer take this long together.
    fn delay(&self, round_trip: Duration) {
        let half = Fault::new(Action::Delay(round_trip / 2));
        self.network.add_fault(half.clone().to(self.consumer.id()));
        self.network.add_fault(half.from(self.consumer.id()));
    }

    /// Reads a range as a front does: after a description, and pinned to it.
    async fn read(&self, range: std::ops::Range<u64>) -> Result<Vec<u8>, Error> {
        let object = self.store.stat(&key(), &Pin::default()).await?;
        let opened = self.open(&object.pin(), range).await?;
        read(opened).await
    }

    async fn open(&self, pin: &Pin, range: std::ops::Range<u64>) -> Result<Opened, Error> {
        self.store.open(&key(), pin, Span { start: range.start, end: Some(range.end) }).await
    }

    fn counts(&self) -> Counts {
        self.relays.counts()
    }

    /// Waits until the relay has no transfers. Returns how long that took.
    async fn idle(&self) -> Duration {
        let started = tokio::time::Instant::now();
        while self.relay.transfers_active() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        started.elapsed()
    }
}

fn key() -> Key {
    "k".parse().unwrap()
}

/// Returns bytes that differ at every offset within 64 KiB, and from block to block.
fn content(len: usize, version: u8) -> Vec<u8> {
    (0..len).map(|at| (at ^ (at >> 8) ^ (at >> 16)).to_le_bytes()[0] ^ version).collect()
}

async fn read(opened: Opened) -> Result<Vec<u8>, Error> {
    let pieces: Vec<Bytes> = opened.body.try_collect().await?;
    Ok(pieces.concat())
}

async fn stat(world: &World) -> Result<ObjectInfo, Error> {
    world.store.stat(&key(), &Pin::default()).await
}
