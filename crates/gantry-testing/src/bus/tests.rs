use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};

use super::network::{is_pattern, matches};
use super::*;
use gantry_bus::NO_RESPONDERS;

fn message(subject: &str, payload: &'static str) -> Message {
    Message { subject: subject.to_owned(), payload: Bytes::from_static(payload.as_bytes()), ..Message::default() }
}

async fn send(bus: &Memory, subject: &str, payload: &'static str) {
    bus.publish(message(subject, payload)).await.unwrap();
}

/// Returns the messages that have arrived.
fn arrived(subscription: &mut Subscription) -> Vec<String> {
    std::iter::from_fn(|| subscription.next().now_or_never().flatten())
        .map(|message| String::from_utf8(message.payload.to_vec()).unwrap())
        .collect()
}

#[test]
fn wildcards_match_as_in_nats() {
    for (pattern, subject, expected) in [
        ("a.b", "a.b", true),
        ("a.b", "a.c", false),
        ("a.*", "a.b", true),
        ("a.*", "a.b.c", false),
        ("a.*", "a", false),
        ("*.b", "a.b", true),
        ("a.>", "a.b.c", true),
        ("a.>", "a", false),
        (">", "a", true),
        ("a", "a.b", false),
    ] {
        assert_eq!(matches(pattern, subject), expected, "{pattern} and {subject}");
    }

    for (subject, expected) in
        [("a.b", true), ("a.>", true), ("*.>", true), ("a.>.b", false), ("a..b", false), ("", false), ("a b", false)]
    {
        assert_eq!(is_pattern(subject), expected, "{subject:?}");
    }
}

#[tokio::test]
async fn every_plain_subscriber_and_one_of_a_queue_group_hear_a_message() {
    let network = MemoryNetwork::new(1);
    let one = network.connect();
    let other = network.connect();
    let mut plain = [one.subscribe("a.*", None).await.unwrap(), other.subscribe("a.>", None).await.unwrap()];
    let mut group = [one.subscribe("a.b", Some("q")).await.unwrap(), other.subscribe("a.b", Some("q")).await.unwrap()];

    for _ in 0..100 {
        send(&one, "a.b", "x").await;
    }

    assert!(plain.iter_mut().all(|subscription| arrived(subscription).len() == 100));
    let shares = group.each_mut().map(|subscription| arrived(subscription).len());
    assert_eq!(shares.iter().sum::<usize>(), 100);
    assert!(shares.iter().all(|share| *share > 20), "{shares:?}");
}

#[tokio::test]
async fn publisher_hears_503_on_its_own_reply_subject_when_nobody_listens() {
    let network = MemoryNetwork::new(1);
    let one = network.connect();
    let other = network.connect();
    let inbox = one.new_inbox();
    let mut own = one.subscribe(&inbox, None).await.unwrap();
    let mut foreign = other.subscribe(&inbox, None).await.unwrap();

    one.publish(Message { reply: Some(inbox.clone()), ..message("nobody", "x") }).await.unwrap();
    send(&one, "nobody", "without reply").await;

    let answer = own.next().await.unwrap();
    assert_eq!((answer.subject, answer.status), (inbox, Some(NO_RESPONDERS)));
    assert_eq!(answer.headers.get("Nats-Subject"), Some("nobody"));
    assert!(own.next().now_or_never().is_none());
    assert!(foreign.next().now_or_never().is_none());
    assert_eq!(network.tally().no_responders, 1);
}

#[tokio::test]
async fn invalid_messages_are_refused() {
    let network = MemoryNetwork::new(1);
    let bus = network.connect();
    network.set_max_payload(20);
    let mut with_headers = message("a", "12345678");
    with_headers.headers.push("A", "b");

    assert!(matches!(bus.publish(message("a.*", "")).await, Err(Error::Subject(_))));
    assert!(matches!(bus.publish(with_headers).await, Err(Error::TooLarge { len: 26, max: 20 })));
    assert!(matches!(bus.subscribe("a..b", None).await, Err(Error::Subject(_))));
    bus.publish(message("a", "12345678901234567890")).await.unwrap();
}

#[tokio::test]
async fn closed_subscription_yields_what_arrived_and_ends() {
    let network = MemoryNetwork::new(1);
    let bus = network.connect();
    let mut subscription = bus.subscribe("a", None).await.unwrap();
    send(&bus, "a", "before").await;
    subscription.close();
    send(&bus, "a", "after").await;

    assert_eq!(subscription.next().await.unwrap().payload, "before");
    assert!(subscription.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn faults_affect_only_matching_deliveries() {
    let network = MemoryNetwork::new(1);
    let one = network.connect();
    let other = network.connect();
    let mut subscription = other.subscribe("a", None).await.unwrap();
    network.add_fault(Fault::new(Action::Drop).subject("a").from(one.id()).when(When::Nth(2)));
    network.add_fault(Fault::new(Action::Repeat).to(other.id()).when(When::Nth(3)));
    network.add_fault(Fault::new(Action::Delay(Duration::from_millis(10))).when(When::Nth(1)));
    network.add_fault(Fault::new(Action::Corrupt).when(When::After(3)));
    for payload in ["1", "2", "3", "4"] {
        send(&one, "a", payload).await;
    }
    let corrupted = arrived(&mut subscription).split_off(2);

    assert_ne!(corrupted, ["4"]);
    assert_eq!(subscription.next().await.unwrap().payload, "1");
    let tally = network.tally();
    assert_eq!((tally.dropped, tally.repeated, tally.delayed, tally.corrupted), (1, 1, 1, 1));
    assert_eq!((tally.published, tally.delivered), (4, 4));
}

#[tokio::test(start_paused = true)]
async fn same_seed_gives_the_same_deliveries() {
    async fn run(seed: u64) -> (Vec<Bytes>, Tally) {
        let network = MemoryNetwork::new(seed);
        let bus = network.connect();
        let mut subscription = bus.subscribe("a", None).await.unwrap();
        network.add_fault(Fault::new(Action::Drop).when(When::Probability(0.2)));
        network.add_fault(Fault::new(Action::Jitter(Duration::from_millis(50))));
        for i in 0..100_u8 {
            let payload = Bytes::copy_from_slice(&[i]);
            bus.publish(Message { payload, ..message("a", "") }).await.unwrap();
        }
        let mut heard = Vec::new();
        for _ in 0..network.tally().delivered {
            heard.push(subscription.next().await.unwrap().payload);
        }
        (heard, network.tally())
    }
    let (first, tally) = run(7).await;

    assert_eq!((first.clone(), tally), run(7).await);
    assert_ne!(first, run(8).await.0);
    assert!(!first.is_sorted(), "jitter reorders");
    assert!(tally.dropped > 5 && tally.dropped < 40, "{tally:?}");
}

#[tokio::test(start_paused = true)]
async fn cut_client_neither_sends_nor_hears_and_returns_in_a_new_epoch() {
    let network = MemoryNetwork::new(1);
    let one = network.connect();
    let other = network.connect();
    let mut subscription = other.subscribe("a", None).await.unwrap();
    let mut status = other.status();
    network.add_fault(Fault::new(Action::Delay(Duration::from_secs(1))).when(When::Nth(2)));
    send(&one, "a", "arrived").await;
    send(&one, "a", "on its way").await;

    other.cut(WhileCut::Wait);
    assert_eq!(*status.borrow_and_update(), Status { connected: false, epoch: 1 });
    send(&one, "a", "while cut").await;
    let mut publish = std::pin::pin!(other.publish(message("a", "waited")));
    assert!(publish.as_mut().now_or_never().is_none());
    other.restore();
    assert_eq!(*status.borrow_and_update(), Status { connected: true, epoch: 2 });
    publish.await.unwrap();
    other.cut(WhileCut::Lose);
    send(&other, "a", "lost").await;
    other.restore();

    assert_eq!(arrived(&mut subscription), ["arrived", "waited"]);
    assert_eq!(network.tally().cut, 2);
}

#[tokio::test]
async fn full_subscription_loses_messages_and_reports_it() {
    let network = MemoryNetwork::new(1);
    network.set_subscription_messages(2);
    let bus = network.connect();
    let mut events = bus.events();
    let mut subscription = bus.subscribe("a", None).await.unwrap();
    for payload in ["1", "2", "3"] {
        send(&bus, "a", payload).await;
    }
    assert_eq!(events.recv().await.unwrap(), Event::SlowConsumer);
    assert_eq!(arrived(&mut subscription), ["1", "2"]);
}

#[tokio::test]
async fn denied_publish_is_lost_and_reported() {
    let bus = MemoryNetwork::new(1).connect();
    let mut events = bus.events();
    let mut subscription = bus.subscribe("a.>", None).await.unwrap();
    bus.deny_publish("a.secret");
    send(&bus, "a.secret", "x").await;
    send(&bus, "a.open", "y").await;
    assert_eq!(events.recv().await.unwrap(), Event::PublishDenied("a.secret".to_owned()));
    assert_eq!(arrived(&mut subscription), ["y"]);
}

#[test]
fn buses_are_shared_as_trait_objects() {
    const fn is_shared<T: Send + Sync + 'static + ?Sized>() {}
    const fn is_sent<T: Send + Unpin>() {}
    is_shared::<dyn Bus>();
    is_sent::<Subscription>();

    let bus: Arc<dyn Bus> = MemoryNetwork::new(0).connect();
    assert!(bus.status().borrow().connected);
}
