//! A transfer that waits for its turn behind other transfers.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use uuid::Uuid;

use super::*;
use crate::active::Activity;
use crate::caution::Caution;
use crate::discovery::Service;
use crate::lifetime::Lifetime;
use crate::metrics::RelayMetrics;
use crate::options::Options;
use crate::outbox::{Outbox, Turn};
use crate::registry::Registry;
use crate::requester::Answering;
use crate::shutdown::Shutdown;
use crate::subjects::Subjects;
use crate::throttle::Throttle;
use gantry_bus::{Bus, Subscription};
use gantry_proto::subject::Operation;
use gantry_proto::{Control, TransferId};
use gantry_testing::bus::MemoryNetwork;
use gantry_testing::store::MemoryStore;

const TRANSFER: TransferId = TransferId(Uuid::nil());

/// One transfer, and the messages that its consumer receives.
struct World {
    registry: Arc<Registry>,
    answers: Subscription,
    transfer: JoinHandle<()>,
}

/// Returns the parts of a relay that one transfer needs.
fn context(bus: Arc<dyn Bus>) -> (Arc<Context>, Arc<Answering>) {
    let options = Arc::new(Options::default());
    let subjects = Arc::new(Subjects::new(options.prefix.clone()));
    let lifetime = Arc::new(Lifetime::new(Shutdown::default()));
    let throttle = Arc::new(Throttle::default());
    let metrics = Arc::new(RelayMetrics::default());
    let outbox = Arc::new(Outbox::new(bus, options.idle_timeout, Arc::clone(&lifetime), Arc::clone(&throttle)));

    let answering = Answering {
        outbox: Arc::clone(&outbox),
        service: Arc::new(Service::new(subjects.instance(), &options, Arc::default())),
        metrics: Arc::clone(&metrics),
        throttle: Arc::clone(&throttle),
    };
    let context = Context {
        host: "host".to_owned(),
        options,
        subjects,
        outbox,
        lifetime,
        metrics,
        throttle,
        caution: Caution::default(),
    };
    (Arc::new(context), Arc::new(answering))
}

impl World {
    /// Starts a transfer.
    async fn start(context: Arc<Context>, answering: Arc<Answering>, network: &MemoryNetwork) -> Self {
        let consumer = network.connect();
        let inbox = consumer.new_inbox();
        let answers = consumer.subscribe(&inbox, None).await.unwrap();

        let store = MemoryStore::new(1000);
        store.put("k".parse().unwrap(), "bytes");
        let registry = Arc::new(Registry::default());
        let entry = registry.enter(TRANSFER, Activity::new("s".parse().unwrap(), None));
        let requester = Requester::new(answering, Operation::Get, "s".parse().unwrap(), inbox);
        let request = GetRequest::new("k".parse().unwrap());

        let run = run(context, requester, Arc::new(store), request, entry);
        Self { registry, answers, transfer: tokio::spawn(run) }
    }

    /// Returns the type of the next message.
    async fn next(&mut self) -> String {
        let answer = timeout(Duration::from_secs(10), self.answers.next()).await.expect("the relay is silent");
        answer.unwrap().headers.get("Gantry-Type").unwrap().to_owned()
    }

    /// Waits until the transfer ends, which must happen at once.
    async fn ended(self) {
        timeout(Duration::from_millis(10), self.transfer).await.expect("the transfer does not end").unwrap();
    }
}

fn all_turns(outbox: &Outbox) -> Vec<Turn<'_>> {
    std::iter::from_fn(|| outbox.try_turn()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_transfer_sends_beats_until_its_turn() {
    let network = MemoryNetwork::new(1);
    let (context, answering) = context(network.connect());
    let turns = all_turns(&context.outbox);
    let mut world = World::start(Arc::clone(&context), answering, &network).await;

    for expected in ["accepted", "beat", "beat"] {
        assert_eq!(world.next().await, expected);
    }
    assert_eq!(context.metrics.transfers_queued.get(), 1);

    drop(turns);
    for expected in ["chunk", "end"] {
        assert_eq!(world.next().await, expected);
    }
    assert_eq!(context.metrics.transfers_queued.get(), 0);
    world.ended().await;
}

#[tokio::test(start_paused = true)]
async fn a_cancel_ends_a_transfer_before_its_turn() {
    let network = MemoryNetwork::new(1);
    let (context, answering) = context(network.connect());
    let _turns = all_turns(&context.outbox);
    let mut world = World::start(Arc::clone(&context), answering, &network).await;
    assert_eq!(world.next().await, "accepted");

    world.registry.hear_control(TRANSFER, Control::cancel());

    world.ended().await;
    assert_eq!(context.metrics.transfers_queued.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_a_transfer_before_its_turn() {
    let network = MemoryNetwork::new(1);
    let (context, answering) = context(network.connect());
    let _turns = all_turns(&context.outbox);
    let mut world = World::start(Arc::clone(&context), answering, &network).await;
    assert_eq!(world.next().await, "accepted");

    context.lifetime.goaway.cancel();

    assert_eq!(world.next().await, "goaway");
    world.ended().await;
}
