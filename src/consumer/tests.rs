use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;

use super::download::join;
use super::{Client, Error, Get, Options};
use crate::bus::memory::{Memory, MemoryNetwork};
use crate::bus::{self, Bus as _, Message, Subscription};
use crate::proto::chunk::Chunk;
use crate::proto::message::{Body, Envelope, Wait};
use crate::proto::{Accepted, Control, GetRequest, ObjectInfo, TransferId};

const SIZE: u64 = 1_000_000;

/// A relay played by hand, for one consumer.
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
        let controls = bus.subscribe("control", None).await.unwrap();
        Self {
            bus,
            requests,
            controls,
            transfer: TransferId(uuid::Uuid::from_u128(1)),
            inbox: String::new(),
            object: object(),
        }
    }

    /// Takes a request and accepts it.
    async fn accept(&mut self) -> GetRequest {
        let message = self.requests.next().await.unwrap();
        self.inbox = message.reply.unwrap();
        let request = GetRequest::parse(&message.payload).unwrap();
        let accepted = Accepted {
            transfer: self.transfer,
            instance: "relay".to_owned(),
            control: "control".to_owned(),
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
        let reply = Some("control".to_owned());
        let message = Message { subject: self.inbox.clone(), reply, headers, payload, status: None };
        self.bus.publish(message).await.unwrap();
    }

    async fn control(&mut self) -> Control {
        Control::parse(&self.controls.next().await.unwrap().payload).unwrap()
    }
}

fn object() -> ObjectInfo {
    ObjectInfo {
        key: "k".parse().unwrap(),
        size: SIZE,
        etag: "\"one\"".to_owned(),
        version_id: None,
        last_modified: None,
        content_type: None,
        metadata: BTreeMap::new(),
        checksum: None,
    }
}

fn client(bus: &Arc<Memory>, options: Options) -> Client {
    Client::new(Arc::clone(bus) as Arc<dyn bus::Bus>, options)
}

fn wanted() -> Get {
    Get::new("s".parse().unwrap(), "k".parse().unwrap())
}

/// The sink of a file has all that the credit allowed when its disk turns out to be full.
#[tokio::test(start_paused = true)]
async fn a_sink_that_failed_with_all_credit_in_its_queue_left_the_driver_waiting_for_ever() {
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
