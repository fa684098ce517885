//! A relay as seen by an application that uses plain core NATS, without Gantry's consumer.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use gantry_relay::Options;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::raw::{Heard, Inbox, Item, Shelf, World, lively};
use crate::support::data::{self, random_bytes};
use crate::support::nats::NatsVersion;
use crate::support::{DEADLINE, Nats, NatsOptions, Relay, until};

/// Computes CRC-64/NVME bit by bit from its definition, independently of the relay's code.
fn crc64_nvme(bytes: &[u8]) -> u64 {
    !bytes.iter().fold(u64::MAX, |crc, byte| {
        (0..8).fold(
            crc ^ u64::from(*byte),
            |crc, _| {
                if crc & 1 == 1 { (crc >> 1) ^ 0x9a6c_9329_ac4b_c9b5 } else { crc >> 1 }
            },
        )
    })
}

#[tokio::test]
async fn a_chunk_is_headers_and_bytes() {
    let bytes = random_bytes(3, 2500);
    let world =
        World::new(Shelf::default().bytes("k", bytes.clone()), Options { chunk_max_bytes: 1000, ..lively() }).await;

    let mut inbox = world.get(json!({"key": "k", "context": "order 7: ü"})).await;

    let accepted = inbox.next_but_beats().await;
    let body = accepted.json();
    let transfer = body["transfer"].as_str().unwrap().to_owned();
    let control = format!("gantry.v1.ctl.{}.{transfer}", world.relay.instance());
    assert_eq!(body["control"], control);
    assert_eq!((&body["start"], &body["end"], &body["size"]), (&json!(0), &json!(2500), &json!(2500)));
    assert_eq!((&body["chunk_max"], &body["credit"]), (&json!(1000), &json!(2500)));
    let mut offset = 0;
    for (seq, len) in [1000, 1000, 500].into_iter().enumerate() {
        let chunk = inbox.next_but_beats().await;
        let payload = bytes.slice(offset..offset + len);
        assert_eq!(chunk.0.payload, payload);
        // nats-server reports there if nobody receives the message.
        let reply: Vec<_> = chunk.reply().unwrap().split('.').collect();
        assert_eq!((&reply[..3], reply[4], reply.len()), (&["gantry", "v1", "gone"][..], transfer.as_str(), 5));
        assert_ne!(reply[3], world.relay.instance());
        let expected = [
            ("Gantry-Type", "chunk".to_owned()),
            ("Gantry-Transfer", transfer.clone()),
            ("Gantry-Seq", seq.to_string()),
            ("Gantry-Offset", offset.to_string()),
            ("Gantry-Crc", format!("{:016x}", crc64_nvme(&payload))),
            ("Gantry-Context", "order 7: ü".to_owned()),
        ];
        let expected: BTreeMap<_, _> = expected.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        assert_eq!(chunk.headers(), expected);
        offset += len;
    }
    let end = inbox.next_but_beats().await;
    assert_eq!((end.kind(), end.json()), ("end", json!({"chunks": 3, "bytes": 2500})));
    assert_eq!(end.header("Gantry-Context"), Some("order 7: ü"));
}

#[tokio::test]
async fn the_crc_matches_the_documented_value() {
    assert_eq!(crc64_nvme(b"123456789"), 0xae8b_1486_0a79_9888);
}

#[tokio::test]
async fn nothing_is_sent_past_credit_until_control_opens_more() {
    let world = World::new(Shelf::default().bytes("k", random_bytes(1, 5000)), lively()).await;
    let mut inbox = world.get(json!({"key": "k", "credit": 1500})).await;
    let control = inbox.next_but_beats().await.json()["control"].as_str().unwrap().to_owned();

    let mut reached = 0;
    for credit in [1500, 1501, 4000] {
        inbox.say(&control, json!({"credit": credit})).await;
        // Three beats at the same position: the relay had enough time, and has sent nothing.
        let mut blocked = 0;
        while blocked < 3 {
            let heard = inbox.next().await;
            match heard.kind() {
                "chunk" => {
                    assert_eq!(heard.number("Gantry-Offset"), reached);
                    reached += heard.0.payload.len() as u64;
                    assert!(reached <= credit, "{reached} is past {credit}");
                }
                "beat" => {
                    assert_eq!(heard.number("Gantry-Offset"), reached);
                    assert_eq!((heard.header("Gantry-Wait"), heard.0.payload.len()), (Some("credit"), 0));
                    blocked += u32::from(reached == credit);
                }
                _ => panic!("{heard:?}"),
            }
        }
    }
    // A lower credit revokes nothing, and an equal one changes nothing.
    inbox.say(&control, json!({"credit": 10})).await;
    inbox.say(&control, json!({"credit": 4000})).await;
    assert_eq!(inbox.next().await.kind(), "beat");
    inbox.say(&control, json!({"credit": 5000})).await;
    assert_eq!(inbox.next_but_beats().await.number("Gantry-Offset"), 4000);
    assert_eq!(inbox.next_but_beats().await.kind(), "end");
}

#[tokio::test]
async fn a_relay_beats_while_the_store_is_silent() {
    let shelf = Shelf::default().put("shut", Item::Shut).put("stuck", Item::Stuck(random_bytes(1, 200)));
    let world = World::new(shelf, lively()).await;

    let mut opening = world.get(json!({"key": "shut", "context": "c"})).await;
    for _ in 0..3 {
        let beat = opening.next().await;
        let place = (beat.number("Gantry-Seq"), beat.number("Gantry-Offset"));
        assert_eq!((beat.kind(), beat.header("Gantry-Wait"), place), ("beat", Some("store"), (0, 0)));
        assert_eq!(beat.header("Gantry-Context"), Some("c"));
    }
    let mut reading = world.get(json!({"key": "stuck"})).await;
    assert_eq!(reading.next_but_beats().await.kind(), "accepted");
    assert_eq!(reading.next_but_beats().await.kind(), "chunk");
    for _ in 0..3 {
        let beat = reading.next().await;
        let place = (beat.number("Gantry-Seq"), beat.number("Gantry-Offset"));
        assert_eq!((beat.kind(), beat.header("Gantry-Wait"), place), ("beat", Some("store"), (1, 100)));
    }
}

#[tokio::test]
async fn cancel_stops_a_transfer() {
    let world = World::new(Shelf::default().bytes("k", random_bytes(1, 5000)), lively()).await;
    let mut inbox = world.get(json!({"key": "k", "credit": 1000})).await;
    let control = inbox.next_but_beats().await.json()["control"].as_str().unwrap().to_owned();
    assert_eq!(world.relay.transfers_active(), 1);

    inbox.say(&control, json!({"cancel": true})).await;

    ends(&world).await;
    inbox.say(&control, json!({"credit": 5000})).await;
    assert_eq!(world.get(json!({"key": "k"})).await.read_all().await.len(), 5000);
    // Chunks sent before the cancel may still arrive, but none that the later credit would allow.
    inbox.say(&inbox.subject, json!("marker")).await;
    loop {
        let heard = inbox.next().await;
        match heard.kind() {
            "" => break,
            "chunk" => assert!(heard.number("Gantry-Offset") < 1000),
            kind => assert_eq!(kind, "beat"),
        }
    }
}

#[tokio::test]
async fn a_transfer_ends_when_nobody_listens_any_more() {
    let shelf = Shelf::default().bytes("k", random_bytes(1, 5000)).put("shut", Item::Shut);
    let world = World::new(shelf, lively()).await;
    for request in [json!({"key": "k", "credit": 10}), json!({"key": "shut"})] {
        let mut inbox = world.get(request).await;
        // `accepted`, or a beat while the relay is opening the object.
        inbox.next().await;
        assert_eq!(world.relay.transfers_active(), 1);

        inbox.unsubscribe().await;

        // Far below the idle timeout: nats-server's report is sufficient.
        ends(&world).await;
    }
}

#[tokio::test]
async fn control_messages_to_a_dead_relay_are_answered_with_503() {
    let world = World::new(Shelf::default().bytes("k", random_bytes(1, 5000)), lively()).await;
    let mut inbox = world.get(json!({"key": "k", "credit": 10})).await;
    let control = inbox.next_but_beats().await.json()["control"].as_str().unwrap().to_owned();
    world.shutdown.force.cancel();
    world.relay.wait().await.unwrap();

    // nats-server may receive the control message before it notices that the relay's subscription is gone.
    let answer = until("the 503", async || {
        inbox.say(&control, json!({"credit": 20})).await;
        loop {
            let heard = timeout(Duration::from_millis(200), inbox.next()).await.ok()?;
            if heard.kind().is_empty() {
                return Some(heard);
            }
        }
    })
    .await;

    assert!(answer.is_no_responders(), "{answer:?}");
}

#[tokio::test]
async fn an_empty_object_has_an_end_and_no_chunk() {
    let world = World::new(Shelf::default().bytes("empty", ""), lively()).await;
    for request in [json!({"key": "empty"}), json!({"key": "empty", "credit": 0})] {
        let mut inbox = world.get(request).await;
        assert_eq!(inbox.next_but_beats().await.json()["size"], 0);
        let end = inbox.next_but_beats().await;
        assert_eq!((end.kind(), end.json()), ("end", json!({"chunks": 0, "bytes": 0})));
    }
    ends(&world).await;
}

#[tokio::test]
async fn two_transfers_of_one_requester_interleave() {
    let shelf = Shelf::default().bytes("a", random_bytes(1, 3000)).bytes("b", random_bytes(2, 3000));
    let world = World::new(shelf, lively()).await;
    // One inbox for both, as an application may use it: context and transfer id distinguish the messages.
    let mut inbox = world.inbox().await;
    for key in ["a", "b"] {
        let body = json!({"key": key, "credit": 1000, "context": key}).to_string();
        let reply = inbox.subject.clone();
        world.client.publish_with_reply("gantry.v1.get.files", reply, body.into()).await.unwrap();
    }

    let mut controls = BTreeMap::new();
    let mut bytes: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut order = String::new();
    let mut ended = 0;
    while ended < 2 {
        let heard = inbox.next().await;
        let key = heard.header("Gantry-Context").expect("context is on every message").to_owned();
        match heard.kind() {
            "accepted" => {
                controls.insert(
                    key,
                    (
                        heard.json()["control"].as_str().unwrap().to_owned(),
                        heard.header("Gantry-Transfer").unwrap().to_owned(),
                    ),
                );
            }
            "chunk" => {
                assert_eq!(heard.header("Gantry-Transfer"), Some(controls[&key].1.as_str()));
                let have = bytes.entry(key.clone()).or_default();
                assert_eq!(heard.number("Gantry-Offset"), have.len() as u64);
                have.extend_from_slice(&heard.0.payload);
                order.push_str(&key);
                inbox.say(&controls[&key].0, json!({"credit": have.len() + 1000})).await;
            }
            "beat" => {}
            "end" => ended += 1,
            _ => panic!("{heard:?}"),
        }
    }

    assert_eq!((&bytes["a"][..], &bytes["b"][..]), (&random_bytes(1, 3000)[..], &random_bytes(2, 3000)[..]));
    assert!(!order.contains("aaabbb") && !order.contains("bbbaaa"), "one waited for the other: {order}");
}

#[tokio::test]
async fn a_range_is_served_with_absolute_offsets() {
    let bytes = random_bytes(1, 5000);
    let world = World::new(Shelf::default().bytes("k", bytes.clone()), lively()).await;
    let mut inbox =
        world.get(json!({"key": "k", "start": 1234, "end": 1300, "credit": 9999, "if_match": "\"1388\""})).await;
    let accepted = inbox.next_but_beats().await.json();
    assert_eq!((&accepted["start"], &accepted["end"], &accepted["credit"]), (&json!(1234), &json!(1300), &json!(1300)));
    let chunk = inbox.next_but_beats().await;
    assert_eq!((chunk.number("Gantry-Seq"), chunk.number("Gantry-Offset")), (0, 1234));
    assert_eq!(chunk.0.payload, bytes.slice(1234..1300));
    assert_eq!(inbox.next_but_beats().await.json(), json!({"chunks": 1, "bytes": 66}));
}

#[tokio::test]
async fn a_draining_relay_finishes_and_then_sends_goaway() {
    let options = Options { drain_grace: Duration::from_secs(2), ..lively() };
    let world = World::new(Shelf::default().bytes("k", random_bytes(1, 5000)), options).await;
    let mut inbox = world.get(json!({"key": "k", "credit": 1000})).await;
    let control = inbox.next_but_beats().await.json()["control"].as_str().unwrap().to_owned();

    world.shutdown.drain.cancel();

    // New requests go to other relays, and running transfers continue. A request in flight at that moment may get no
    // answer.
    until("nobody to answer", async || {
        let mut refused = world.get(json!({"key": "k"})).await;
        let answer = timeout(Duration::from_millis(200), refused.next()).await;
        answer.ok().filter(Heard::is_no_responders)
    })
    .await;
    inbox.say(&control, json!({"credit": 2000})).await;
    while inbox.next_but_beats().await.number("Gantry-Offset") < 1000 {}
    let goaway = inbox.next_but_beats().await;
    assert_eq!((goaway.kind(), goaway.0.payload.len()), ("goaway", 0));
    timeout(DEADLINE, world.relay.wait()).await.expect("the relay stops").unwrap();
}

#[tokio::test]
async fn the_services_api_is_answered_as_adr_32_specifies() {
    let world = World::new(Shelf::default().bytes("k", "x"), lively()).await;
    world.get(json!({"key": "k"})).await.read_all().await;
    world.get(json!({"key": "none"})).await.next().await;
    let id = world.relay.instance().to_owned();

    for (verb, kind) in [("PING", "ping"), ("INFO", "info"), ("STATS", "stats")] {
        for subject in [format!("$SRV.{verb}"), format!("$SRV.{verb}.gantry"), format!("$SRV.{verb}.gantry.{id}")] {
            let mut inbox = world.inbox().await;
            world.client.publish_with_reply(subject, inbox.subject.clone(), Bytes::new()).await.unwrap();
            let answer = inbox.next().await.json();
            assert_eq!(answer["type"], format!("io.nats.micro.v1.{kind}_response"));
            assert_eq!((&answer["name"], &answer["id"]), (&json!("gantry"), &json!(id)));
            assert_eq!(answer["version"].as_str().unwrap().split('.').count(), 3);
            assert_eq!((&answer["metadata"]["protocol"], &answer["metadata"]["beat_ms"]), (&json!("1"), &json!("50")));
            assert!(answer["metadata"].as_object().unwrap().values().all(Value::is_string));
            check_endpoints(verb, &answer);
        }
    }
    let mut nobody = world.inbox().await;
    let other = format!("$SRV.PING.gantry.{}", "0".repeat(32));
    world.client.publish_with_reply(other, nobody.subject.clone(), Bytes::new()).await.unwrap();
    assert!(nobody.next().await.is_no_responders());
}

fn check_endpoints(verb: &str, answer: &Value) {
    let endpoint = |name: &str| {
        let all = answer["endpoints"].as_array().unwrap();
        assert_eq!(all.len(), 3);
        all.iter().find(|endpoint| endpoint["name"] == name).unwrap_or_else(|| panic!("{name}: {answer}")).clone()
    };
    match verb {
        "PING" => assert!(answer.get("endpoints").is_none()),
        "INFO" => {
            assert!(answer["description"].is_string());
            let stat = endpoint("stat-files");
            assert_eq!((&stat["subject"], &stat["queue_group"]), (&json!("gantry.v1.stat.files"), &json!("gantry")));
            assert_eq!(stat["metadata"], json!({"store": "files"}));
        }
        _ => {
            assert!(answer["started"].as_str().unwrap().ends_with('Z'));
            let get = endpoint("get-files");
            assert_eq!((&get["num_requests"], &get["num_errors"]), (&json!(2), &json!(1)));
            assert_eq!(get["last_error"], "404:not_found");
            let total = get["processing_time"].as_u64().unwrap();
            let average = get["average_processing_time"].as_u64();
            assert_eq!(Some(total / 2), average);
            assert_eq!(endpoint("list-files")["num_requests"], 0);
        }
    }
}

/// Uses the built binary, a directory, and the default limits.
#[tokio::test]
async fn the_built_relay_sends_a_file_to_a_plain_client() {
    for version in [NatsVersion::Current, NatsVersion::Debian] {
        let nats = Nats::start(NatsOptions { version, ..NatsOptions::default() }).await;
        let folder = data::folder();
        let bytes = random_bytes(5, 3_000_001);
        std::fs::write(folder.path().join("a file"), &bytes).unwrap();
        let relay = Relay::on(&nats).store("files", format!("file://{}", folder.path().display())).start().await;
        let client = nats.client().await;
        let body = json!({"key": "a file", "credit": 1_000_000, "context": "c"}).to_string();
        let mut inbox = Inbox::ask(&client, "gantry.v1.get.files", body).await;
        let accepted = inbox.next_but_beats().await.json();
        let control = accepted["control"].as_str().unwrap();
        assert_eq!((&accepted["instance"], &accepted["chunk_max"]), (&json!(relay.id()), &json!(520_192)));
        assert_eq!((&accepted["size"], &accepted["credit"]), (&json!(bytes.len()), &json!(1_000_000)));

        let mut got: Vec<u8> = Vec::new();
        let mut chunks = 0;
        let end = loop {
            let heard = inbox.next().await;
            assert_eq!(heard.header("Gantry-Context"), Some("c"));
            match heard.kind() {
                "chunk" => {
                    let place = (heard.number("Gantry-Seq"), heard.number("Gantry-Offset"));
                    assert_eq!(place, (chunks, got.len() as u64));
                    let crc = format!("{:016x}", crc64_nvme(&heard.0.payload));
                    assert_eq!(heard.header("Gantry-Crc"), Some(crc.as_str()));
                    got.extend_from_slice(&heard.0.payload);
                    chunks += 1;
                }
                "beat" => inbox.say(control, json!({"credit": got.len() + 1_000_000})).await,
                "end" => break heard.json(),
                _ => panic!("{heard:?}"),
            }
        };
        assert_eq!(end, json!({"chunks": chunks, "bytes": bytes.len()}));
        assert!(got == bytes, "other bytes arrived");
        let missing = Inbox::ask(&client, "gantry.v1.get.files", r#"{"key":"none"}"#).await.next().await;
        assert_eq!((missing.kind(), &missing.json()["code"]), ("error", &json!("not_found")));
    }
}

/// Waits until the relay has no transfers. The deadline is too short for a timer: a message must have ended them.
async fn ends(world: &World) {
    let end = until("the transfer's end", async || (world.relay.transfers_active() == 0).then_some(()));
    timeout(Duration::from_secs(10), end).await.expect("the transfer ends at once");
}
