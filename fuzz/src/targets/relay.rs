//! A whole relay against requests and control messages of any kind: it publishes only to its own subjects, releases all
//! resources, and still serves the next consumer.

use std::sync::Arc;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;

use crate::gantry::{
    Bus, Key, ListPage, ListRequest, MemoryNetwork, MemoryStore, Message, ObjectInfo, Opened, Pin, Relay, RelayMetrics,
    Shutdown, Span, Store, StoreError, StoreLabel, StoreName, relay,
};
use crate::machine::{Number, headers, pattern};
use crate::runtime;

#[derive(Arbitrary, Debug)]
struct Input {
    messages: Vec<Sent>,
}

#[derive(Arbitrary, Debug)]
struct Sent {
    to: To,
    reply: Reply,
    headers: Vec<(String, String)>,
    payload: Payload,
    wait_ms: u8,
}

#[derive(Arbitrary, Debug)]
enum To {
    Get,
    Stat,
    List,
    Control,
    Ping,
    /// The inbox in which the relay receives the answers of other relays.
    Peers,
}

#[derive(Arbitrary, Debug)]
enum Reply {
    Inbox,
    None,
    Other(String),
}

#[derive(Arbitrary, Debug)]
enum Payload {
    Raw(Vec<u8>),
    Get {
        start: Number,
        end: Option<Number>,
        credit: Option<Number>,
        chunk_max: Option<Number>,
        context: String,
    },
    List {
        prefix: String,
        limit: Number,
        token: Option<String>,
    },
    Control {
        credit: Number,
        cancel: bool,
    },
    /// Another relay's description of its stores.
    Peer {
        id: String,
        prefix: Option<String>,
        host: String,
        store: Option<String>,
        fingerprint: String,
    },
}

const OBJECT_BYTES: u16 = 5000;

pub(crate) fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    runtime::run(play(input));
}

async fn play(input: Input) {
    let network = MemoryNetwork::new(1);
    let (bus, peer) = (network.connect(), network.connect());
    let store = Arc::new(MemoryStore::new(700));
    store.put("a/b".parse().expect("the key is valid"), pattern(0, OBJECT_BYTES));
    let name: StoreName = "s".parse().expect("the name is valid");
    let options = relay::Options { idle_timeout: Duration::from_secs(2), ..relay::Options::default() };
    let budget = options.budget.clone();
    let shutdown = Shutdown::default();
    let stores = relay::Stores::from([(name, Arc::new(Placed(store)) as Arc<dyn Store>)]);
    let metrics = Arc::new(RelayMetrics::default());
    let relay = Relay::start(bus, stores, options, Arc::clone(&metrics), shutdown.clone()).await;
    let relay = relay.expect("the relay starts");

    let mut heard = peer.subscribe(">", None).await.expect("the bus accepts it");
    let (mut published, mut peers) = (0_usize, 0_i64);
    for sent in input.messages.into_iter().take(20) {
        let wait = Duration::from_millis(sent.wait_ms.into());
        peers += i64::from(matches!(sent.to, To::Peers));
        let message = sent.message(relay.instance());
        if peer.publish(message.clone()).await.is_ok() {
            published += 1;
        }
        while let Ok(Some(message)) = tokio::time::timeout(wait, heard.next()).await {
            check(&message);
        }
    }
    // Another consumer is still served correctly.
    assert_eq!(download(&*peer).await, pattern(0, OBJECT_BYTES), "after {published} messages");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let differing = metrics.store_differing.get_or_create(&StoreLabel { store: "s".to_owned() }).get();
    assert!((0..=peers).contains(&differing), "{differing} relays differ after {peers} answers");
    assert_eq!(relay.transfers_active(), 0, "a transfer outlives its consumer");
    assert_eq!(budget.reserved_bytes(), 0, "memory stays reserved");
    shutdown.drain.cancel();
    relay.wait().await.expect("the relay stops");
}

/// Checks that the bus carries only messages that a relay may publish, or that this target sent.
fn check(message: &Message) {
    let is_ours = ["gantry.v1.", "$SRV."].iter().any(|prefix| message.subject.starts_with(prefix));
    let may_be = ["_INBOX.", "_R_."].iter().any(|prefix| message.subject.starts_with(prefix));
    assert!(is_ours || may_be, "a message to {:?}", message.subject);
    if may_be {
        assert!(message.payload.len() <= 1 << 20);
    }
}

async fn download(peer: &dyn Bus) -> bytes::Bytes {
    let mut inbox = peer.subscribe("_INBOX.honest", None).await.expect("the bus accepts it");
    let request = Message {
        subject: "gantry.v1.get.s".to_owned(),
        reply: Some("_INBOX.honest".to_owned()),
        payload: br#"{"key":"a/b","credit":100000}"#.as_slice().into(),
        ..Message::default()
    };
    peer.publish(request).await.expect("it is sent");
    let mut all = Vec::new();
    while let Ok(Some(message)) = tokio::time::timeout(Duration::from_secs(5), inbox.next()).await {
        match message.headers.get("Gantry-Type") {
            Some("chunk") => all.extend_from_slice(&message.payload),
            Some("end" | "error") => break,
            _ => {}
        }
    }
    all.into()
}

/// A store with a fingerprint, so that the relay compares it with the stores of other relays.
#[derive(Debug)]
struct Placed(Arc<MemoryStore>);

impl Store for Placed {
    fn open<'a>(&'a self, key: &'a Key, pin: &'a Pin, span: Span) -> BoxFuture<'a, Result<Opened, StoreError>> {
        self.0.open(key, pin, span)
    }

    fn stat<'a>(&'a self, key: &'a Key, pin: &'a Pin) -> BoxFuture<'a, Result<ObjectInfo, StoreError>> {
        self.0.stat(key, pin)
    }

    fn list<'a>(&'a self, request: &'a ListRequest) -> BoxFuture<'a, Result<ListPage, StoreError>> {
        self.0.list(request)
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.0.probe()
    }

    fn fingerprint(&self) -> Option<String> {
        Some("here".to_owned())
    }
}

impl Sent {
    fn message(self, instance: &str) -> Message {
        let subject = match self.to {
            To::Get => "gantry.v1.get.s".to_owned(),
            To::Stat => "gantry.v1.stat.s".to_owned(),
            To::List => "gantry.v1.list.s".to_owned(),
            To::Control => format!("gantry.v1.ctl.{instance}.00000000-0000-0000-0000-000000000001"),
            To::Ping => "$SRV.STATS.gantry".to_owned(),
            To::Peers => format!("_INBOX.gantry-peers.{instance}"),
        };
        let reply = match self.reply {
            Reply::Inbox => Some("_INBOX.peer".to_owned()),
            Reply::None => None,
            Reply::Other(subject) => Some(subject),
        };
        let number = |number: Option<Number>| number.map(|number| number.0);
        let payload = match self.payload {
            Payload::Raw(bytes) => bytes,
            Payload::Get { start, end, credit, chunk_max, context } => serde_json::json!({
                "key": "a/b", "start": start.0, "end": number(end), "credit": number(credit),
                "chunk_max": number(chunk_max), "context": context,
            })
            .to_string()
            .into_bytes(),
            Payload::List { prefix, limit, token } => {
                serde_json::json!({ "prefix": prefix, "limit": limit.0, "token": token }).to_string().into_bytes()
            }
            Payload::Control { credit, cancel } => {
                serde_json::json!({ "credit": credit.0, "cancel": cancel }).to_string().into_bytes()
            }
            Payload::Peer { id, prefix, host, store, fingerprint } => {
                let (prefix, store) = (prefix.as_deref().unwrap_or("gantry"), store.as_deref().unwrap_or("s"));
                let endpoint = serde_json::json!({ "metadata": { "store": store, "fingerprint": fingerprint } });
                let metadata = serde_json::json!({ "prefix": prefix, "host": host });
                serde_json::json!({ "id": id, "metadata": metadata, "endpoints": [endpoint] }).to_string().into_bytes()
            }
        };
        Message { subject, reply, headers: headers(&self.headers), payload: payload.into(), status: None }
    }
}
