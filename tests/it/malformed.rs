//! Messages that nats-server forwards but async-nats can't parse. They end the connection that they reach; those with a
//! lone CR also end its task permanently. Any client can send them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use gantry_bus::nats::{self, Options};
use gantry_bus::{Bus, Message, Subscription};
use gantry_client::{self as consumer, Client, Get};
use gantry_relay::metrics::RelayMetrics;
use gantry_relay::shutdown::Shutdown;
use gantry_relay::{self as relay, Readiness, Relay};
use gantry_store::Store;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, interval, timeout};

use crate::raw::{Inbox, Shelf, World, is_heard, lively, start_relay_at};
use crate::support::data::random_bytes;
use crate::support::{DEADLINE, Nats, NatsOptions, until};

/// The maximum time without a connection after it died.
const SOON: Duration = Duration::from_secs(1);

/// All messages that nats-server forwards but async-nats can't parse, by name.
fn malformed(kind: &str, subject: &str) -> Vec<u8> {
    let headers = |block: &[u8]| {
        let mut message = format!("HPUB {subject} _INBOX.x {0} {0}\r\n", block.len()).into_bytes();
        message.extend_from_slice(block);
        message.extend_from_slice(b"\r\n");
        message
    };
    match kind {
        "reply" => [format!("PUB {subject} _INBOX.").as_bytes(), b"\xff 0\r\n\r\n"].concat(),
        "version" => headers(b"XXXX\r\n\r\n"),
        "colon" => headers(b"NATS/1.0\r\nAAA\r\n\r\n"),
        "utf8" => headers(b"NATS/1.0\r\nA: \xff\r\n\r\n"),
        "status" => headers(b"NATS/1.0 99999\r\n\r\n"),
        "name" => headers(b"NATS/1.0\r\nA B: x\r\n\r\n"),
        "cr" => headers(b"NATS/1.0\r\nX: a\rb\r\n\r\n"),
        _ => panic!("unknown kind {kind}"),
    }
}

const KINDS: [&str; 7] = ["reply", "version", "colon", "utf8", "status", "name", "cr"];

/// A client of nats-server that sends arbitrary bytes.
struct Attacker(TcpStream);

impl Attacker {
    async fn new(nats: &Nats) -> Self {
        Self::as_user(nats, "").await
    }

    /// `more` contains further members of CONNECT, such as credentials.
    async fn as_user(nats: &Nats, more: &str) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", nats.port())).await.unwrap();
        let connect = format!("CONNECT {{\"verbose\":false,\"headers\":true{more}}}\r\nPING\r\n");
        stream.write_all(connect.as_bytes()).await.unwrap();
        let mut attacker = Self(stream);
        attacker.answered().await;
        attacker
    }

    /// Sends one message, and returns once nats-server has forwarded it.
    async fn send(&mut self, kind: &str, subject: &str) {
        self.0.write_all(&malformed(kind, subject)).await.unwrap();
        self.0.write_all(b"PING\r\n").await.unwrap();
        self.answered().await;
    }

    async fn answered(&mut self) {
        let mut heard = Vec::new();
        while !heard.ends_with(b"PONG\r\n") {
            let read = timeout(DEADLINE, self.0.read_buf(&mut heard)).await.expect("a PONG in time").unwrap();
            assert!(read > 0, "nats-server hung up: {}", String::from_utf8_lossy(&heard));
        }
    }
}

/// A proxy for nats-server that can refuse new connections.
struct Gate {
    port: u16,
    is_open: watch::Sender<bool>,
}

impl Gate {
    async fn to(nats: &Nats) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = nats.port();
        let (is_open, opened) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut opened = opened.clone();
                tokio::spawn(async move {
                    opened.wait_for(|open| *open).await.ok()?;
                    let mut server = TcpStream::connect(("127.0.0.1", server)).await.ok()?;
                    copy_bidirectional(&mut client, &mut server).await.ok()
                });
            }
        });
        Self { port, is_open }
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }
}

async fn connect(url: String) -> Arc<nats::Nats> {
    nats::connect(Options { servers: vec![url], ..Options::default() }).await.unwrap()
}

fn message(subject: &str, payload: &'static str) -> Message {
    Message { subject: subject.to_owned(), payload: Bytes::from_static(payload.as_bytes()), ..Message::default() }
}

async fn next(subscription: &mut Subscription) -> Message {
    timeout(DEADLINE, subscription.next()).await.expect("a message in time").expect("an open subscription")
}

/// Returns once nats-server has processed everything that was subscribed before. `flush` returns once it is written.
async fn is_registered(bus: &dyn Bus) {
    let inbox = bus.new_inbox();
    let mut echo = bus.subscribe(&inbox, None).await.unwrap();
    bus.publish(message(&inbox, "round trip")).await.unwrap();
    assert_eq!(next(&mut echo).await.payload, "round trip");
}

#[tokio::test]
async fn a_dead_connection_is_replaced_and_its_subscriptions_continue() {
    let nats = Nats::plain().await;
    let bus = connect(nats.url()).await;
    let other = connect(nats.url()).await;
    let mut status = bus.status();
    let mut plain = bus.subscribe("a.*", None).await.unwrap();
    let mut queue = bus.subscribe("q", Some("group")).await.unwrap();
    is_registered(&*bus).await;
    let mut attacker = Attacker::new(&nats).await;

    for round in 1..=20 {
        let began = Instant::now();
        attacker.send("cr", "a.b").await;
        let renewed = status.wait_for(|status| status.connected && status.epoch > round);
        timeout(DEADLINE, renewed).await.expect("another connection").unwrap();
        assert!(began.elapsed() < SOON, "it took {:?}", began.elapsed());

        // Subscriptions made after that, and before the next message, work as well.
        is_registered(&*bus).await;
        other.publish(message("a.c", "plain")).await.unwrap();
        assert_eq!(next(&mut plain).await.payload, "plain");
        other.publish(message("q", "queue")).await.unwrap();
        assert_eq!(next(&mut queue).await.payload, "queue");
    }
    plain.close();
    assert!(timeout(DEADLINE, plain.next()).await.unwrap().is_none(), "a closed subscription ends");
}

#[tokio::test]
async fn messages_published_while_a_connection_is_replaced_wait_for_the_next_one() {
    let nats = Nats::plain().await;
    let gate = Gate::to(&nats).await;
    let bus = connect(gate.url()).await;
    let other = connect(nats.url()).await;
    let mut status = bus.status();
    let _subscription = bus.subscribe("a", None).await.unwrap();
    let mut heard = other.subscribe("b", None).await.unwrap();
    is_registered(&*bus).await;
    is_registered(&*other).await;

    gate.is_open.send_replace(false);
    Attacker::new(&nats).await.send("cr", "a").await;
    timeout(DEADLINE, status.wait_for(|status| !status.connected)).await.expect("the death is noticed").unwrap();
    let publishing = tokio::spawn({
        let bus = Arc::clone(&bus);
        async move { bus.publish(message("b", "late")).await }
    });
    gate.is_open.send_replace(true);

    timeout(DEADLINE, publishing).await.unwrap().unwrap().unwrap();
    assert_eq!(next(&mut heard).await.payload, "late");
}

/// The relay once answered nothing from then on, while `/readyz` reported it as ready.
#[tokio::test]
async fn a_relay_without_its_request_connection_is_not_ready_keeps_sending_and_recovers() {
    let nats = Nats::plain().await;
    let gate = Gate::to(&nats).await;
    let bytes = random_bytes(1, 200_000);
    let shelf = Shelf::default().bytes("k", bytes.clone());
    let metrics = Arc::new(RelayMetrics::default());
    let shutdown = Shutdown::default();
    let relay = start_relay_at(&gate.url(), "files", shelf, lively(), Arc::clone(&metrics), shutdown).await;
    let client = nats.client().await;
    is_heard(&client, relay.instance()).await;
    let mut readiness = relay.readiness();
    readiness.wait_for(Readiness::is_ready).await.unwrap();
    let body = json!({"key": "k", "credit": 1000}).to_string();
    let mut inbox = Inbox::ask(&client, "gantry.v1.get.files", body).await;
    let control = inbox.next_but_beats().await.json()["control"].as_str().unwrap().to_owned();
    assert_eq!(inbox.next_but_beats().await.kind(), "chunk");

    gate.is_open.send_replace(false);
    Attacker::new(&nats).await.send("cr", "$SRV.PING.gantry").await;
    let unready = timeout(SOON, readiness.wait_for(|readiness| !readiness.is_ready())).await;
    let unready = unready.expect("the death is noticed").unwrap().clone();
    assert!(unready.to_string().contains("nats: not connected for requests"), "{unready}");
    // Its data connection is still up.
    assert_eq!(inbox.next().await.kind(), "beat");

    let began = Instant::now();
    gate.is_open.send_replace(true);
    timeout(SOON, readiness.wait_for(Readiness::is_ready)).await.expect("another connection").unwrap();
    is_heard(&client, relay.instance()).await;
    assert!(began.elapsed() < SOON, "it took {:?}", began.elapsed());
    inbox.say(&control, json!({"credit": i64::MAX})).await;
    let mut len = 1000;
    while len < bytes.len() {
        let heard = inbox.next_but_beats().await;
        assert_eq!((heard.kind(), heard.number("Gantry-Offset")), ("chunk", len as u64));
        len += heard.0.payload.len();
    }
    assert_eq!(inbox.next_but_beats().await.kind(), "end");
}

/// With 100 such messages per second a download of 200 MB once needed 58 recoveries and 26 s.
#[tokio::test]
async fn downloads_do_not_notice_a_flood_and_new_ones_begin() {
    const LEN: usize = 30_000_000;
    let nats = Nats::plain().await;
    let bytes = random_bytes(1, LEN);
    let shelf = Shelf::default().bytes("k", bytes.clone());
    let world = World::on(nats, shelf, relay::Options::default()).await;
    let bus = connect(world.nats.url()).await;
    let client = Client::new(bus, consumer::Options::default());
    let instance = world.relay.instance().to_owned();
    let subjects = [
        "gantry.v1.get.files".to_owned(),
        "gantry.v1.stat.files".to_owned(),
        "gantry.v1.list.files".to_owned(),
        format!("gantry.v1.ctl.{instance}.x"),
        "$SRV.PING.gantry".to_owned(),
    ];
    let mut attacker = Attacker::new(&world.nats).await;
    let flood = tokio::spawn(async move {
        let mut ticks = interval(Duration::from_millis(5));
        for (kind, subject) in KINDS.iter().cycle().zip(subjects.iter().cycle()) {
            ticks.tick().await;
            attacker.send(kind, subject).await;
        }
    });
    let reconnects = || world.reconnects("requests");
    until("the flood's effect", async || (reconnects() >= 5).then_some(())).await;

    let began = Instant::now();
    let mut recoveries = 0;
    for _ in 0..4 {
        let mut download = client.get(Get::new("files".parse().unwrap(), "k".parse().unwrap())).await.unwrap();
        let progress = download.progress();
        // Recoveries before `accepted` are just requests that nobody received.
        let before = progress.borrow().recoveries;
        let mut len = 0;
        while let Some(chunk) = timeout(DEADLINE, download.next()).await.expect("progress") {
            let chunk = chunk.unwrap();
            assert_eq!(chunk, bytes.slice(len..len + chunk.len()));
            len += chunk.len();
        }
        assert_eq!(len, LEN);
        recoveries += progress.borrow().recoveries - before;
    }

    assert!(recoveries <= 1, "{recoveries} recoveries in {:?}", began.elapsed());
    assert!(!flood.is_finished(), "the flood ended early");
    assert_eq!(world.reconnects("data"), 0);
    flood.abort();
}

/// A consumer learns the relay's secret from its own transfers, but not the ids of other transfers.
#[tokio::test]
async fn only_nats_servers_report_for_a_transfer_ends_it() {
    let world = World::new(Shelf::default().bytes("k", random_bytes(1, 5000)), lively()).await;
    let mut mine = world.get(json!({"key": "k", "credit": 1000})).await;
    let mut other = world.get(json!({"key": "k", "credit": 1000})).await;
    let gone = other.next_but_beats().await.reply().unwrap().to_owned();
    let accepted = mine.next_but_beats().await;
    assert_ne!(accepted.reply(), Some(gone.as_str()));
    let (prefix, _) = gone.rsplit_once('.').unwrap();
    let mut status = async_nats::HeaderMap::new();
    status.insert("Status", "503");

    // Neither a plain message nor a report for another transfer ends this transfer.
    for subject in [gone.clone(), format!("{prefix}.x"), format!("{prefix}.{}", uuid::Uuid::new_v4())] {
        world.client.publish_with_headers(subject, status.clone(), "".into()).await.unwrap();
    }
    let mut forger = Attacker::new(&world.nats).await;
    let forged = format!("HPUB {gone} 16 16\r\nNATS/1.0 503\r\n\r\n\r\n");
    forger.0.write_all(forged.as_bytes()).await.unwrap();
    until("the end of the forger's own transfer", async || (world.relay.transfers_active() == 1).then_some(())).await;

    let control = accepted.json()["control"].as_str().unwrap().to_owned();
    mine.say(&control, json!({"credit": 5000})).await;
    while mine.next_but_beats().await.kind() != "end" {}
}

/// A hostile publisher can target consumers as well.
#[tokio::test]
async fn a_download_continues_when_the_consumers_connection_dies() {
    let bytes = random_bytes(1, 100_000);
    let world = World::new(Shelf::default().bytes("k", bytes.clone()), lively()).await;
    let bus = connect(world.nats.url()).await;
    let options = consumer::Options::default().window_initial_bytes(8000).window_max_bytes(8000);
    let client = Client::new(Arc::clone(&bus) as Arc<dyn Bus>, options);
    let mut everything = world.client.subscribe("_INBOX.>").await.unwrap();
    let mut download = client.get(Get::new("files".parse().unwrap(), "k".parse().unwrap())).await.unwrap();
    let inbox = timeout(DEADLINE, everything.next()).await.unwrap().unwrap().subject.to_string();
    let mut got = Vec::from(download.next().await.unwrap().unwrap());

    Attacker::new(&world.nats).await.send("cr", &inbox).await;

    while let Some(chunk) = timeout(DEADLINE, download.next()).await.expect("progress") {
        got.extend_from_slice(&chunk.unwrap());
    }
    assert!(got == bytes, "other bytes arrived");
    assert_eq!(bus.status().borrow().epoch, 2);
}

/// A relay that can never become ready again must not keep running: after a restart it may find other credentials.
#[tokio::test]
async fn a_relay_that_nats_server_keeps_refusing_exits_with_an_error() {
    let config = |password: &str| format!("authorization {{ user: u, password: {password} }}\n");
    let mut nats = Nats::start(NatsOptions { config: config("right"), ..NatsOptions::default() }).await;
    let gate = Gate::to(&nats).await;
    let options = Options {
        servers: vec![gate.url().replace("://", "://u:right@")],
        refused_limit: Duration::from_millis(100),
        ..Options::default()
    };
    let bus = nats::connect(options).await.unwrap() as Arc<dyn Bus>;
    let mut status = bus.status();
    let stores = BTreeMap::from([("files".parse().unwrap(), Arc::new(Shelf::default()) as Arc<dyn Store>)]);
    let metrics = Arc::new(RelayMetrics::default());
    let relay = Relay::start(Arc::clone(&bus), stores, lively(), metrics, Shutdown::default()).await.unwrap();
    is_registered(&*bus).await;

    gate.is_open.send_replace(false);
    let mut attacker = Attacker::as_user(&nats, ",\"user\":\"u\",\"pass\":\"right\"").await;
    attacker.send("cr", "$SRV.PING").await;
    timeout(DEADLINE, status.wait_for(|status| !status.connected)).await.expect("the death is noticed").unwrap();
    nats.set_config(config("wrong"));
    nats.restart().await;
    gate.is_open.send_replace(true);

    let ended = timeout(DEADLINE, relay.wait()).await.expect("the relay exits");
    assert!(matches!(&ended, Err(relay::Error::Lost { reason, .. }) if reason.contains("refuses")), "{ended:?}");
}
