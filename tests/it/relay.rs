//! A relay beyond a single transfer: limits, sharing of requests, prefixes, pages, small `max_payload`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use gantry_proto::subject::Prefix;
use gantry_relay::Options;
use gantry_relay::metrics::RelayMetrics;
use gantry_relay::shutdown::Shutdown;
use gantry_store::budget::Budget;
use serde_json::json;

use crate::raw::{Inbox, Item, Shelf, World, is_heard, lively, start_relay};
use crate::support::data::random_bytes;
use crate::support::{Nats, NatsOptions, until};

#[tokio::test]
async fn a_full_relay_answers_busy_until_it_has_room() {
    let full_of_transfers = Options { transfers_max: 2, ..lively() };
    let full_of_memory = Options { transfer_reserve_bytes: 64 * 1024, budget: Budget::new(2 * 64 * 1024), ..lively() };
    for (name, options) in [("transfers", full_of_transfers), ("memory", full_of_memory)] {
        let world = World::new(Shelf::default().bytes("k", random_bytes(1, 5000)), options).await;
        let mut running = Vec::new();
        for _ in 0..2 {
            let mut inbox = world.get(json!({"key": "k", "credit": 10})).await;
            assert_eq!(inbox.next_but_beats().await.kind(), "accepted");
            running.push(inbox);
        }

        let refused = world.get(json!({"key": "k", "context": "mine"})).await.next().await;

        let error = refused.json();
        assert_eq!(
            (&error["code"], &error["retryable"], &error["retry_after_ms"]),
            (&json!("busy"), &json!(true), &json!(500))
        );
        assert_eq!(
            (refused.header("Gantry-Context"), refused.header("Gantry-Transfer")),
            (Some("mine"), None),
            "{name}"
        );
        assert_eq!(world.refused("busy"), 1);
        // `stat` and `list` still work.
        assert_eq!(world.ask("stat", r#"{"key":"k"}"#).await.next().await.json()["size"], 5000);
        running.pop().unwrap().unsubscribe().await;
        until("room", async || (world.relay.transfers_active() == 1).then_some(())).await;
        // The transfer's place becomes free a moment after its end.
        until("the next transfer", async || {
            let answer = world.get(json!({"key": "k", "credit": 10})).await.next().await;
            (answer.kind() == "accepted").then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_silent_consumer_gets_an_idle_error() {
    let options = Options { idle_timeout: Duration::from_millis(300), ..lively() };
    let world = World::new(Shelf::default().bytes("k", random_bytes(1, 5000)), options).await;
    let mut silent = world.get(json!({"key": "k", "credit": 10})).await;
    let mut alive = world.get(json!({"key": "k", "credit": 10})).await;
    let control = alive.next_but_beats().await.json()["control"].as_str().unwrap().to_owned();
    assert_eq!(silent.next_but_beats().await.json()["idle_ms"], 300);

    let error = loop {
        let heard = silent.next().await;
        match heard.kind() {
            // The other one gives no credit either, but it sends messages.
            "beat" => alive.say(&control, json!({})).await,
            "chunk" => {}
            _ => break heard,
        }
    };

    assert_eq!((error.kind(), &error.json()["code"]), ("error", &json!("idle")));
    assert!(error.header("Gantry-Transfer").is_some());
    alive.say(&control, json!({"credit": 5000})).await;
    until("the other one's end", async || (alive.next_but_beats().await.kind() == "end").then_some(())).await;
}

#[tokio::test]
async fn a_keep_alive_consumer_that_falls_silent_with_credit_left_gets_an_idle_error() {
    let options = Options { idle_timeout: Duration::from_millis(300), ..lively() };
    // The store stalls, so that the credit is never used up.
    let world = World::new(Shelf::default().put("k", Item::Stuck(random_bytes(1, 5000))), options).await;
    let mut silent = world.get(json!({"key": "k", "keeps_alive": true})).await;

    let error = loop {
        let heard = silent.next().await;
        if !matches!(heard.kind(), "accepted" | "beat" | "chunk") {
            break heard;
        }
    };

    assert_eq!((error.kind(), &error.json()["code"]), ("error", &json!("idle")));
    until("the place", async || (world.relay.transfers_active() == 0).then_some(())).await;
}

#[tokio::test]
async fn relays_with_different_stores_share_a_prefix() {
    let nats = Nats::plain().await;
    let one = Shelf::default().bytes("k", "one");
    let other = Shelf::default().bytes("k", "other");
    let metrics = || Arc::new(RelayMetrics::default());
    let relay_of_one = start_relay(&nats, "one", one, lively(), metrics(), Shutdown::default()).await;
    let relay_of_other = start_relay(&nats, "other", other, lively(), metrics(), Shutdown::default()).await;
    let client = nats.client().await;
    is_heard(&client, relay_of_one.instance()).await;
    is_heard(&client, relay_of_other.instance()).await;

    for _ in 0..20 {
        for store in ["one", "other"] {
            let got = Inbox::ask(&client, &format!("gantry.v1.get.{store}"), r#"{"key":"k"}"#).await.read_all().await;
            assert_eq!(got, store);
        }
    }
    assert!(Inbox::ask(&client, "gantry.v1.get.third", r#"{"key":"k"}"#).await.next().await.is_no_responders());
}

#[tokio::test]
async fn one_relay_of_a_queue_group_answers() {
    let shelf = || Shelf::default().bytes("k", random_bytes(1, 100));
    let world = World::new(shelf(), lively()).await;
    let metrics = Arc::new(RelayMetrics::default());
    let second = start_relay(&world.nats, "files", shelf(), lively(), metrics, Shutdown::default()).await;
    is_heard(&world.client, second.instance()).await;

    let mut instances = BTreeSet::new();
    for _ in 0..40 {
        let mut inbox = world.get(json!({"key": "k"})).await;
        let accepted = inbox.next_but_beats().await;
        assert_eq!(accepted.kind(), "accepted");
        instances.insert(accepted.json()["instance"].as_str().unwrap().to_owned());
        // One chunk and one end, and no message of a second transfer in between or afterwards.
        assert_eq!((inbox.next_but_beats().await.kind(), inbox.next_but_beats().await.kind()), ("chunk", "end"));
        inbox.say(&inbox.subject, json!("marker")).await;
        assert_eq!(inbox.next().await.kind(), "");
    }
    assert_eq!(instances.len(), 2, "one relay got everything");
}

#[tokio::test]
async fn chunks_and_pages_fit_into_the_servers_messages() {
    for (max_payload, chunk_max) in [(65_536, 61_440), (1 << 20, 520_192), (8 << 20, 520_192)] {
        let nats = Nats::start(NatsOptions { max_payload: Some(max_payload), ..NatsOptions::default() }).await;
        let bytes = random_bytes(1, 2_000_000);
        let names: Vec<_> = (0..500).map(|n| format!("{}{n:03}", "long/".repeat(60))).collect();
        let shelf = names.iter().fold(Shelf::default(), |shelf, name| shelf.bytes(name, "")).bytes("k", bytes.clone());
        let world = World::on(nats, shelf, Options::default()).await;

        let accepted = world.get(json!({"key": "k", "credit": 0})).await.next().await;
        assert_eq!(accepted.json()["chunk_max"], chunk_max);
        assert!(world.get(json!({"key": "k"})).await.read_all().await == bytes, "other bytes arrived");

        let mut keys = Vec::new();
        let mut token = json!(null);
        loop {
            let request = json!({"recursive": true, "prefix": "long/", "token": token}).to_string();
            let page = world.ask("list", request).await.next().await.json();
            let entries = page["entries"].as_array().unwrap();
            keys.extend(entries.iter().map(|entry| entry["key"].as_str().unwrap().to_owned()));
            match page.get("next") {
                Some(next) => token = next.clone(),
                None => break,
            }
        }
        assert_eq!(keys, names, "{max_payload}");
    }
}

#[tokio::test]
async fn a_prefix_of_several_tokens_is_used_everywhere() {
    let nats = Nats::plain().await;
    let options = Options { prefix: Prefix::new("site.a").unwrap(), ..lively() };
    let shelf = Shelf::default().bytes("k", "here").put("stuck", Item::Stuck(random_bytes(1, 10)));
    let metrics = Arc::new(RelayMetrics::default());
    let relay = start_relay(&nats, "files", shelf, options, metrics, Shutdown::default()).await;
    let client = nats.client().await;
    is_heard(&client, relay.instance()).await;

    let mut inbox = Inbox::ask(&client, "site.a.v1.get.files", r#"{"key":"stuck"}"#).await;
    let control = inbox.next_but_beats().await.json()["control"].as_str().unwrap().to_owned();
    assert!(control.starts_with(&format!("site.a.v1.ctl.{}.", relay.instance())));
    inbox.say(&control, json!({"cancel": true})).await;
    until("the transfer's end", async || (relay.transfers_active() == 0).then_some(())).await;
    assert_eq!(Inbox::ask(&client, "site.a.v1.get.files", r#"{"key":"k"}"#).await.read_all().await, "here");
    assert!(Inbox::ask(&client, "gantry.v1.get.files", r#"{"key":"k"}"#).await.next().await.is_no_responders());
}
