//! A whole consumer against a relay that sends anything: it yields the right bytes or an error, and sends no message to
//! anyone else.

use std::sync::Arc;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use futures_util::StreamExt as _;

use crate::gantry::{Bus, Client, Key, ListRequest, MemoryNetwork, Message, Pin, StoreName, consumer};
use crate::machine::{Position, SIZE, Said, byte_at};
use crate::runtime;

#[derive(Arbitrary, Debug)]
struct Input {
    answers: Vec<Vec<(Said, bool)>>,
    pages: Vec<Vec<u8>>,
}

pub(crate) fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    runtime::run(play(input));
}

async fn play(input: Input) {
    let network = MemoryNetwork::new(1);
    let (bus, peer) = (network.connect(), network.connect());
    let Input { answers, pages } = input;
    let hostile: Arc<dyn Bus> = peer;
    let gets = hostile.subscribe("gantry.v1.get.s", None).await.expect("the bus accepts it");
    let queries = hostile.subscribe("gantry.v1.list.s", None).await.expect("the bus accepts it");
    let serving = tokio::spawn(answer_gets(Arc::clone(&hostile), gets, answers));
    let listing = tokio::spawn(answer_lists(hostile, queries, pages));

    let store: StoreName = "s".parse().expect("the name is valid");
    let key: Key = "a/b".parse().expect("the key is valid");
    let client = Client::new(bus, consumer::Options::default());
    let (request, pin) = (ListRequest::default(), Pin::default());
    let listed = tokio::time::timeout(Duration::from_secs(600), client.list_page(&store, &request)).await;
    drop(listed.expect("a listing ends"));
    let described = tokio::time::timeout(Duration::from_secs(600), client.stat(&store, &key, &pin)).await;
    drop(described.expect("a description ends"));
    let whole = tokio::time::timeout(Duration::from_secs(3600), download(&client, store, key)).await;
    whole.expect("a download ends");
    serving.abort();
    listing.abort();
}

async fn download(client: &Client, store: StoreName, key: Key) {
    let Ok(mut download) = client.get(consumer::Get::new(store, key)).await else { return };
    let mut read = 0;
    while let Some(Ok(bytes)) = download.next().await {
        let right = bytes.iter().enumerate().all(|(n, byte)| *byte == byte_at(read + n as u64));
        assert!(right, "a byte in the wrong place after {read}");
        read += bytes.len() as u64;
        assert!(read <= download.object().size, "more bytes than the object has");
    }
}

async fn answer_gets(bus: Arc<dyn Bus>, mut gets: crate::gantry::Subscription, answers: Vec<Vec<(Said, bool)>>) {
    let mut answers = answers.into_iter();
    while let (Some(get), Some(said)) = (gets.next().await, answers.next()) {
        let start = start_of(&get);
        let mut at = Position { start, seq: 0, offset: start };
        for (said, is_ours) in said.into_iter().take(50) {
            let (headers, payload) = said.encode(is_ours, at);
            if let Said::Next { len } = said {
                at.seq += 1;
                at.offset = at.offset.saturating_add(len.into());
            }
            let subject = get.reply.clone().unwrap_or_default();
            drop(bus.publish(Message { subject, reply: None, headers, payload, status: None }).await);
        }
    }
    std::future::pending().await
}

fn start_of(get: &Message) -> u64 {
    let body: serde_json::Value = serde_json::from_slice(&get.payload).expect("the consumer sends JSON");
    let start = body["start"].as_u64().unwrap_or_default();
    assert!(start <= SIZE.max(1 << 63), "it requests from offset {start}");
    start
}

async fn answer_lists(bus: Arc<dyn Bus>, mut queries: crate::gantry::Subscription, pages: Vec<Vec<u8>>) {
    let mut pages = pages.into_iter();
    while let (Some(query), Some(page)) = (queries.next().await, pages.next()) {
        let subject = query.reply.unwrap_or_default();
        drop(bus.publish(Message { subject, payload: page.into(), ..Message::default() }).await);
    }
}
