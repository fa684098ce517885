//! Messages from hostile or broken peers, to a relay and to a consumer.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use gantry_bus::nats;
use gantry_client::{self as consumer, Client, Error, Get};
use gantry_proto::Code;
use gantry_proto::chunk::crc;
use gantry_proto::receiver::Cause;
use gantry_relay::Options;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::raw::{Item, Shelf, World, lively};
use crate::support::data::random_bytes;
use crate::support::{DEADLINE, Nats, until};

async fn world() -> World {
    let shelf = Shelf::default()
        .bytes("k", random_bytes(1, 5000))
        .put("replaced", Item::Replaced(random_bytes(2, 100)))
        .put("stuck", Item::Stuck(random_bytes(2, 100)));
    World::new(shelf, lively()).await
}

/// Asserts that the relay still serves normally.
async fn assert_alive(world: &World) {
    assert_eq!(world.get(json!({"key": "k"})).await.read_all().await, random_bytes(1, 5000));
}

#[tokio::test]
async fn a_bad_request_is_answered_and_names_its_field() {
    let world = world().await;
    let get = |more: Value| {
        let mut body = json!({"key": "k"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body.to_string()
    };
    let raw = |text: &str| text.to_owned();
    let bad = "bad_request";
    let range = "range";
    let cases = [
        ("get", raw(""), bad, "body"),
        ("get", raw("hello"), bad, "body"),
        ("get", raw("{\"key\":"), bad, "body"),
        ("get", raw("[]"), bad, "body"),
        ("get", raw("{\"key\":\"k\"}{}"), bad, "body"),
        ("get", get(json!({"pad": "x".repeat(16 * 1024)})), bad, "body"),
        ("get", get(json!({"v": 2})), bad, "`v`"),
        ("get", raw("{}"), bad, "`key`"),
        ("get", get(json!({"key": ""})), bad, "key"),
        ("get", get(json!({"key": "k".repeat(1025)})), bad, "key"),
        ("get", get(json!({"key": "ü".repeat(513)})), bad, "key"),
        ("get", get(json!({"key": "a\0b"})), bad, "key"),
        ("get", get(json!({"key": "a\nb"})), bad, "key"),
        ("get", get(json!({"key": 7})), bad, "key"),
        ("get", get(json!({"start": 2, "end": 1})), range, "`start`"),
        ("get", get(json!({"start": 5001})), range, "`start`"),
        ("get", get(json!({"start": 1_u64 << 63})), bad, "`start`"),
        ("get", get(json!({"start": -1})), bad, "`start`"),
        ("get", get(json!({"start": 1.5})), bad, "`start`"),
        ("get", get(json!({"start": "1"})), bad, "`start`"),
        ("get", get(json!({"end": u64::MAX})), bad, "`end`"),
        ("get", get(json!({"credit": 1_u64 << 63})), bad, "`credit`"),
        ("get", raw("{\"key\":\"k\",\"credit\":99999999999999999999999}"), bad, "`credit`"),
        ("get", get(json!({"chunk_max": 0})), bad, "`chunk_max`"),
        ("get", get(json!({"chunk_max": 1_u64 << 63})), bad, "`chunk_max`"),
        ("get", get(json!({"context": "c".repeat(257)})), bad, "`context`"),
        ("get", get(json!({"context": "a\r\nGantry-Type: end"})), bad, "`context`"),
        ("get", get(json!({"if_match": ""})), bad, "`if_match`"),
        ("get", get(json!({"version_id": "x".repeat(1025)})), bad, "`version_id`"),
        ("get", get(json!({"key": "none"})), "not_found", "none"),
        ("get", get(json!({"if_match": "\"other\""})), "changed", "etag"),
        ("stat", raw(""), bad, "body"),
        ("stat", raw("{\"key\":\"\"}"), bad, "key"),
        ("stat", raw("{\"key\":\"k\",\"v\":0}"), bad, "`v`"),
        ("stat", raw("{\"key\":\"none\"}"), "not_found", "none"),
        ("list", raw("nonsense"), bad, "body"),
        ("list", raw("{\"limit\":0}"), bad, "`limit`"),
        ("list", raw("{\"limit\":9223372036854775808}"), bad, "`limit`"),
        ("list", json!({"prefix": "p".repeat(1025)}).to_string(), bad, "`prefix`"),
    ];

    for (operation, body, code, field) in cases {
        let shown = &body[..body.len().min(100)];
        let answer = world.ask(operation, body.clone()).await.next_but_beats().await;
        let error = answer.json();
        assert_eq!(error["code"], code, "{operation} {shown}: {error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(field), "{operation} {shown}: {message:?} does not name {field}");
        assert_eq!(answer.header("Nats-Service-Error"), Some(message), "{operation} {shown}");
        let number = answer.header("Nats-Service-Error-Code").unwrap();
        assert_eq!(Code::ALL.iter().find(|own| own.name() == code).unwrap().number().to_string(), number);
        assert_eq!(answer.kind(), if operation == "get" { "error" } else { "" });
    }

    assert_alive(&world).await;
}

#[tokio::test]
async fn excessive_values_are_clamped_and_unknown_members_ignored() {
    let shelf = Shelf::default().bytes("k", random_bytes(1, 5000));
    let world = World::new(shelf, Options { window_max_bytes: 2000, ..lively() }).await;
    let body = json!({"key": "k", "credit": i64::MAX, "chunk_max": i64::MAX, "colour": {"deep": [1, 2]}, "Key": "x"});

    let accepted = world.get(body).await.next_but_beats().await.json();

    assert_eq!((&accepted["credit"], &accepted["window_max"]), (&json!(2000), &json!(2000)));
    assert_eq!((&accepted["chunk_max"], &accepted["end"]), (&json!(1000), &json!(5000)));
    assert_alive(&world).await;
}

#[tokio::test]
async fn nothing_goes_to_a_reply_subject_that_is_not_allowed() {
    let world = world().await;
    let mut everything = world.client.subscribe(">").await.unwrap();
    let hostile = [
        "$JS.API.x",
        "$SYS.REQ.SERVER.PING",
        "gantry.v1.get.x",
        "gantry.v1.ctl.a.b",
        "orders.new",
        "_INBOX",
        "_INBOXES.a",
        "_inbox.a",
        "_INBOX.*",
        "_INBOX.>",
        "_INBOX.a.*.b",
        "_R_",
        ">",
        "*",
    ];
    let requests = [
        ("gantry.v1.get.files", "{\"key\":\"k\"}"),
        ("gantry.v1.get.files", "not even JSON"),
        ("gantry.v1.stat.files", "{\"key\":\"k\"}"),
        ("gantry.v1.list.files", ""),
        ("$SRV.PING.gantry", ""),
        ("$SRV.STATS", ""),
    ];
    let mut sent = 0;
    for (subject, body) in requests {
        for reply in hostile {
            world.client.publish_with_reply(subject, reply, body.into()).await.unwrap();
            sent += 1;
        }
        world.client.publish(subject, body.into()).await.unwrap();
        sent += 1;
    }

    until("the refusals", async || (world.refused("reply_subject") >= sent).then_some(())).await;
    assert_alive(&world).await;
    assert_eq!(world.refused("reply_subject"), sent);
    world.client.publish("it.marker", Bytes::new()).await.unwrap();
    let ours = |subject: &str| requests.iter().any(|(own, _)| subject == *own);
    loop {
        let heard = timeout(DEADLINE, everything.next()).await.unwrap().unwrap();
        let subject = heard.subject.as_str();
        if subject == "it.marker" {
            break;
        }
        let is_inbox = subject.starts_with("_INBOX.") && !subject.contains(['*', '>']);
        let is_control = subject.starts_with(&format!("gantry.v1.ctl.{}.", world.relay.instance()));
        assert!(ours(subject) || is_inbox || is_control, "{subject} was published to");
    }
}

#[tokio::test]
async fn invalid_control_messages_change_nothing() {
    let world = world().await;
    let mut inbox = world.get(json!({"key": "k", "credit": 1000})).await;
    let control = inbox.next_but_beats().await.json()["control"].as_str().unwrap().to_owned();
    let nonsense = [
        Bytes::new(),
        "{".into(),
        "{\"credit\":-5}".into(),
        "{\"credit\":9223372036854775808}".into(),
        "{\"credit\":\"all\",\"cancel\":true}".into(),
        "{\"cancel\":1}".into(),
        format!("{{\"credit\":5000,\"pad\":\"{}\"}}", "x".repeat(20_000)).into(),
        random_bytes(3, 500),
    ];
    for body in &nonsense {
        world.client.publish(control.clone(), body.clone()).await.unwrap();
    }
    let instance = control.rsplit_once('.').unwrap().0;
    for other in ["x", "00000000-0000-0000-0000-000000000000"] {
        world.client.publish(format!("{instance}.{other}"), "{\"cancel\":true}".into()).await.unwrap();
    }

    until("the refusals", async || (world.refused("control") == nonsense.len() as u64).then_some(())).await;
    assert_eq!(world.relay.transfers_active(), 1);
    inbox.say(&control, json!({"credit": 5000, "cancel": false, "unknown": null})).await;
    loop {
        let heard = inbox.next_but_beats().await;
        if heard.kind() == "end" {
            assert_eq!(heard.json()["bytes"], 5000);
            break;
        }
    }
}

/// Sends random bodies, headers and control messages from a seed, most of them almost valid.
#[tokio::test]
async fn a_relay_survives_random_messages() {
    const ROUNDS: u64 = 400;
    let world = world().await;
    let template = json!({
        "key": "k", "start": 0, "end": 4000, "credit": 3000, "chunk_max": 700, "context": "c", "v": 1,
        "if_match": "\"1388\"", "version_id": "v", "prefix": "k", "limit": 3, "token": "", "recursive": true,
        "cancel": false,
    });
    let control = format!("gantry.v1.ctl.{}", world.relay.instance());
    for seed in 0..ROUNDS {
        let dice = random_bytes(seed, 64);
        let inbox = world.inbox().await;
        let subject = match dice[0] % 8 {
            0 => "gantry.v1.stat.files".to_owned(),
            1 => "gantry.v1.list.files".to_owned(),
            2 => format!("{control}.{}", hostile_token(&dice)),
            3 => "$SRV.INFO.gantry".to_owned(),
            _ => "gantry.v1.get.files".to_owned(),
        };
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Gantry-Type", ["chunk", "end", "error", ""][usize::from(dice[1] % 4)]);
        headers.insert("Nats-Service-Error", "x".repeat(usize::from(dice[2])));
        let body = random_body(&template, &dice);
        let shown = String::from_utf8_lossy(&body).into_owned();
        let sent = world.client.publish_with_reply_and_headers(subject, inbox.subject.clone(), headers, body.into());
        sent.await.unwrap_or_else(|error| panic!("seed {seed}: {shown}: {error}"));
    }

    assert_alive(&world).await;
    // All inboxes are gone by now, so no accepted transfer continues.
    until("the end of all transfers", async || (world.relay.transfers_active() == 0).then_some(())).await;
}

fn hostile_token(dice: &[u8]) -> String {
    dice[3..20].iter().map(|byte| char::from(b'!' + byte % 90)).filter(|c| !".*>".contains(*c)).collect()
}

/// Returns the template with a few members or bytes changed, or plain noise.
fn random_body(template: &Value, dice: &[u8]) -> Vec<u8> {
    let values = [
        json!(null),
        json!(0),
        json!(-1),
        json!(u64::MAX),
        json!(i64::MAX),
        json!(1e300),
        json!(""),
        json!("../../etc/passwd"),
        json!("\u{0}\r\n"),
        json!("x".repeat(2000)),
        json!([[[[{}]]]]),
        json!({"a": {"b": 1}}),
        json!(true),
    ];
    let mut body = template.clone();
    let members = body.as_object_mut().unwrap();
    let names: Vec<_> = members.keys().cloned().collect();

    for pair in dice[24..24 + 2 * usize::from(dice[20] % 4)].chunks(2) {
        let name = &names[usize::from(pair[0]) % names.len()];
        members.insert(name.clone(), values[usize::from(pair[1]) % values.len()].clone());
    }

    for byte in &dice[40..40 + usize::from(dice[21] % 12)] {
        members.remove(&names[usize::from(*byte) % names.len()]);
    }

    let mut text = body.to_string().into_bytes();
    match dice[22] % 4 {
        0 => {
            let at = usize::from(dice[23]) % text.len();
            text[at] = dice[60];
        }
        1 if dice[23] < 64 => text.truncate(usize::from(dice[60]) % text.len()),
        2 if dice[23] < 64 => text = dice.to_vec(),
        _ => {}
    }

    text
}

const OBJECT_LEN: usize = 100;
const CHUNK_LEN: usize = 10;
const TRANSFER: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
const OTHER: &str = "1b4e28ba-2fa1-41d2-883f-0016d3cca427";

fn object() -> Bytes {
    random_bytes(9, OBJECT_LEN)
}

/// What a fake relay sends.
#[derive(Clone, Debug, Default)]
struct Say {
    headers: Vec<(&'static str, String)>,
    payload: Bytes,
}

impl Say {
    fn of(kind: &'static str) -> Self {
        Self::default().with("Gantry-Type", kind).with("Gantry-Transfer", TRANSFER)
    }

    fn accepted(start: usize) -> Self {
        Self::accepted_as(json!({"start": start}))
    }

    fn accepted_as(more: Value) -> Self {
        let mut body = json!({
            "transfer": TRANSFER, "instance": "fake", "control": format!("gantry.v1.ctl.fake.{TRANSFER}"),
            "key": "k", "size": OBJECT_LEN, "etag": "\"1\"", "metadata": {}, "start": 0, "end": OBJECT_LEN,
            "credit": OBJECT_LEN, "window_max": 1000, "chunk_max": 1000, "beat_ms": 1000, "idle_ms": 15000,
        });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Self::of("accepted").body(body.to_string())
    }

    /// Returns the object's chunk at an offset.
    fn chunk(seq: usize, offset: usize) -> Self {
        Self::bytes(seq, offset, object().slice(offset..(offset + CHUNK_LEN).min(OBJECT_LEN)))
    }

    fn bytes(seq: usize, offset: usize, payload: Bytes) -> Self {
        let crc = format!("{:016x}", crc(&payload));
        Self::of("chunk")
            .with("Gantry-Seq", seq.to_string())
            .with("Gantry-Offset", offset.to_string())
            .with("Gantry-Crc", crc)
            .body(payload)
    }

    fn end(chunks: usize, bytes: usize) -> Self {
        Self::of("end").body(json!({"chunks": chunks, "bytes": bytes}).to_string())
    }

    fn error(code: Code) -> Self {
        let body = json!({"code": code.name(), "message": "so be it", "retryable": code.is_retryable()});
        Self::of("error").with("Nats-Service-Error", "so be it").body(body.to_string())
    }

    /// Returns a correct transfer from an offset, without the `accepted`.
    fn rest(start: usize) -> Vec<Self> {
        let offsets = (start..OBJECT_LEN).step_by(CHUNK_LEN);
        let mut says: Vec<_> = offsets.enumerate().map(|(seq, offset)| Self::chunk(seq, offset)).collect();
        says.push(Self::end(says.len(), OBJECT_LEN - start));
        says
    }

    fn good(start: usize) -> Vec<Self> {
        [Self::accepted(start)].into_iter().chain(Self::rest(start)).collect()
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.retain(|(own, _)| *own != name);
        self.headers.push((name, value.into()));
        self
    }

    fn body(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = payload.into();
        self
    }
}

/// A scripted relay, and a consumer that uses it.
struct Stage {
    client: Client,
    /// The connection of the fake relay.
    relay: async_nats::Client,
    requests: Arc<Mutex<Vec<Value>>>,
    _nats: Nats,
    /// Ends the fake relay when the test ends.
    _tasks: JoinSet<()>,
}

impl Stage {
    /// The nth script answers the nth request. Further requests are answered correctly.
    async fn new(scripts: Vec<Vec<Say>>, options: consumer::Options) -> Self {
        let nats = Nats::plain().await;
        let relay = nats.client().await;
        let mut asked = relay.subscribe("gantry.v1.get.files").await.unwrap();
        // Without a subscriber, nats-server would report to the consumer that its relay is gone.
        let mut controls = relay.subscribe("gantry.v1.ctl.fake.*").await.unwrap();
        relay.flush().await.unwrap();

        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let connection = relay.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { while controls.next().await.is_some() {} });
        tasks.spawn(async move {
            while let Some(request) = asked.next().await {
                let body: Value = serde_json::from_slice(&request.payload).unwrap();
                let start = usize::try_from(body["start"].as_u64().unwrap()).unwrap();
                let nth = {
                    let mut seen = seen.lock().unwrap();
                    seen.push(body);
                    seen.len() - 1
                };
                let script = scripts.get(nth).cloned().unwrap_or_else(|| Say::good(start));
                for say in script {
                    let mut headers = async_nats::HeaderMap::new();
                    say.headers.iter().for_each(|(name, value)| headers.insert(*name, value.as_str()));
                    let to = request.reply.clone().unwrap();
                    relay.publish_with_headers(to, headers, say.payload).await.unwrap();
                }
            }
        });

        let options_of_bus = nats::Options { servers: vec![nats.url()], ..nats::Options::default() };
        let client = Client::new(nats::connect(options_of_bus).await.unwrap(), options);
        Self { client, relay: connection, requests, _nats: nats, _tasks: tasks }
    }

    /// Downloads to the end. Returns the bytes that the consumer yielded, and the result.
    async fn download(&self) -> (Vec<u8>, Result<(), Error>) {
        let get = Get::new("files".parse().unwrap(), "k".parse().unwrap());
        let run = async {
            let mut bytes = Vec::new();
            let mut download = match self.client.get(get).await {
                Ok(download) => download,
                Err(error) => return (bytes, Err(error)),
            };
            while let Some(chunk) = download.next().await {
                match chunk {
                    Ok(chunk) => bytes.extend_from_slice(&chunk),
                    Err(error) => return (bytes, Err(error)),
                }
            }
            (bytes, Ok(()))
        };
        timeout(DEADLINE, run).await.expect("the download ends")
    }

    fn starts(&self) -> Vec<u64> {
        self.requests.lock().unwrap().iter().map(|request| request["start"].as_u64().unwrap()).collect()
    }
}

fn quick() -> consumer::Options {
    consumer::Options::default().stall_timeout(Duration::from_millis(500))
}

/// Plays a script after `accepted` and one valid chunk. The download must still yield exactly the object.
async fn recovers(name: &str, says: Vec<Say>, starts: &[u64]) {
    let script = [Say::accepted(0), Say::chunk(0, 0)].into_iter().chain(says).collect();
    let stage = Stage::new(vec![script], quick()).await;
    let (bytes, ended) = stage.download().await;
    ended.unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(bytes, object(), "{name}");
    // On a busy machine an answer may take longer than expected, and the consumer repeats its request.
    let mut asked = stage.starts();
    asked.dedup();
    assert_eq!(asked, starts, "{name}");
    let requests = stage.requests.lock().unwrap();
    for again in &requests[1..] {
        assert_eq!(again["if_match"], "\"1\"", "{name}: the version is not pinned");
    }
}

#[tokio::test]
async fn a_chunk_that_does_not_belong_is_never_written() {
    let noise = Bytes::from_static(b"0123456789");
    let bad = |seq, offset| Say::bytes(seq, offset, noise.clone());
    let cases = [
        ("out of sequence", vec![Say::chunk(2, 20)]),
        ("out of sequence, at the right offset", vec![bad(2, 10)]),
        ("at an offset before", vec![bad(1, 0)]),
        ("at an offset after", vec![bad(1, 20)]),
        ("at the largest offset", vec![Say::chunk(1, 10).with("Gantry-Offset", u64::MAX.to_string())]),
        ("with a wrong checksum", vec![Say::chunk(1, 10).body(noise.clone())]),
        ("with no checksum", vec![Say { headers: vec![("Gantry-Type", "chunk".to_owned())], ..Say::default() }]),
        ("with an invalid checksum", vec![Say::chunk(1, 10).with("Gantry-Crc", "AE8B14860A799888")]),
        ("without bytes", vec![Say::chunk(1, 10).body("")]),
        ("past the end", vec![Say::bytes(1, 10, random_bytes(1, OBJECT_LEN))]),
    ];

    for (name, says) in cases {
        recovers(name, says, &[0, 10]).await;
    }
}

#[tokio::test]
async fn a_message_that_breaks_the_protocol_ends_the_transfer() {
    let cases = [
        ("an end too early", vec![Say::end(1, 10)]),
        ("an end with wrong counts", vec![Say::end(10, 100)]),
        ("an invalid end", vec![Say::of("end").body("{}")]),
        (
            "a beat that reveals a lost chunk",
            vec![Say::of("beat").with("Gantry-Seq", "2").with("Gantry-Offset", "20").with("Gantry-Wait", "store")],
        ),
        ("an unknown type", vec![Say::of("gift")]),
        ("no type", vec![Say::default().body("hello")]),
        ("goaway", vec![Say::of("goaway")]),
        ("a temporary error", vec![Say::error(Code::StoreUnavailable)]),
        ("silence", vec![]),
    ];
    for (name, says) in cases {
        recovers(name, says, &[0, 10]).await;
    }
}

#[tokio::test]
async fn foreign_and_repeated_messages_are_ignored() {
    let noise = || Say::bytes(1, 10, Bytes::from_static(b"0123456789"));
    let good: Vec<_> = (1..10).map(|seq| Say::chunk(seq, seq * CHUNK_LEN)).chain([Say::end(10, 100)]).collect();
    let with = |odd: Vec<Say>| odd.into_iter().chain(good.clone()).collect::<Vec<_>>();
    recovers("a chunk of another transfer", with(vec![noise().with("Gantry-Transfer", OTHER)]), &[0]).await;
    recovers("an end of another transfer", with(vec![Say::end(1, 10).with("Gantry-Transfer", OTHER)]), &[0]).await;
    recovers("a repeated chunk", with(vec![Say::chunk(0, 0), Say::chunk(0, 0)]), &[0]).await;
    recovers("a repeat with other bytes", with(vec![Say::bytes(0, 0, Bytes::from_static(b"x"))]), &[0]).await;
    recovers("a second accepted", with(vec![Say::accepted(0)]), &[0]).await;
    let after = with(vec![]).into_iter().chain([noise(), Say::chunk(10, 100), Say::end(10, 100)]).collect();
    recovers("chunks after the end", after, &[0]).await;
}

#[tokio::test]
async fn a_chunk_past_credit_is_never_written() {
    let options = quick().window_initial_bytes(25).window_max_bytes(1000);
    let greedy = vec![Say::accepted(0), Say::chunk(0, 0), Say::bytes(1, 10, object().slice(10..100))];
    let stage = Stage::new(vec![greedy], options).await;
    let (bytes, ended) = stage.download().await;
    ended.unwrap();
    assert_eq!(bytes, object());
    // The valid script exceeds the credit too, so the download takes more than one further request.
    let starts = stage.starts();
    assert!(starts.len() > 2 && starts[1] == 10, "{starts:?}");
}

#[tokio::test]
async fn an_answer_to_another_request_is_rejected() {
    let cases = [
        ("another start", Say::accepted(5)),
        ("another end", Say::accepted_as(json!({"end": 50}))),
        ("an end past the size", Say::accepted_as(json!({"end": 101}))),
        ("an invalid body", Say::of("accepted").body("{}")),
        ("a chunk before the answer", Say::chunk(0, 0)),
        ("an end before the answer", Say::end(0, 0)),
    ];
    for (name, say) in cases {
        let script = [say].into_iter().chain(Say::rest(0)).collect();
        let stage = Stage::new(vec![script], quick()).await;
        let (bytes, ended) = stage.download().await;
        ended.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((bytes, stage.starts()), (object().to_vec(), vec![0, 0]), "{name}");
    }
}

/// A hostile relay could once make a consumer purge a JetStream stream.
#[tokio::test]
async fn a_relay_that_names_another_control_subject_makes_the_consumer_publish_nothing_there() {
    let own = format!("gantry.v1.ctl.fake.{TRANSFER}");
    for control in [
        "plant.valve.open",
        "$JS.API.STREAM.PURGE.orders",
        "gantry.v1.ctl.fake.*",
        "gantry.v1.get.files",
        &format!("gantry.v1.ctl.other.{TRANSFER}"),
        &format!("gantry.v1.ctl.fake.{OTHER}"),
        &own.to_uppercase(),
        "a b",
        "",
        &format!("{own}\r\nPUB plant.valve.open 0\r\n\r\n"),
        &format!("{own}{}", ".x".repeat(5000)),
    ] {
        let script = [Say::accepted_as(json!({"control": control}))].into_iter().chain(Say::rest(0)).collect();
        let stage = Stage::new(vec![script], quick()).await;
        let mut everything = stage.relay.subscribe(">").await.unwrap();
        stage.relay.flush().await.unwrap();

        let (bytes, ended) = stage.download().await;

        ended.unwrap_or_else(|error| panic!("{control:?}: {error}"));
        assert_eq!((bytes, stage.starts()), (object().to_vec(), vec![0, 0]), "{control:?}");
        stage.relay.publish("it.marker", Bytes::new()).await.unwrap();
        loop {
            let heard = timeout(DEADLINE, everything.next()).await.unwrap().unwrap();
            let subject = heard.subject.as_str();
            if subject == "it.marker" {
                break;
            }
            let is_request = subject == "gantry.v1.get.files" && heard.reply.is_some();
            let is_allowed = is_request || subject == own || subject.starts_with("_INBOX.");
            assert!(is_allowed, "{control:?}: {subject} was published to");
        }
    }
}

#[tokio::test]
async fn absurd_numbers_do_not_end_a_download() {
    let cases = [
        ("beats of 2^63 ms", json!({"beat_ms": 1_u64 << 63}), 1),
        ("no beats and no idle time", json!({"beat_ms": 0, "idle_ms": 0}), 1),
        ("numbers of 2^64 - 1", json!({"beat_ms": u64::MAX, "idle_ms": u64::MAX, "credit": u64::MAX}), 1),
        ("no window", json!({"window_max": 0}), 2),
        ("no chunks", json!({"chunk_max": 0}), 2),
        ("chunks that are too large", json!({"chunk_max": i64::MAX}), 2),
        ("a size of 2^63", json!({"size": 1_u64 << 63, "end": 1_u64 << 63}), 2),
        ("no etag", json!({"etag": ""}), 2),
        ("another key", json!({"key": "../../etc/passwd"}), 2),
        ("a number that is not an integer", json!({"beat_ms": 1e30}), 2),
    ];
    for (name, more, requests) in cases {
        let script = [Say::accepted_as(more)].into_iter().chain(Say::rest(0)).collect();
        let stage = Stage::new(vec![script], quick()).await;
        let (bytes, ended) = stage.download().await;
        ended.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((bytes, stage.starts()), (object().to_vec(), vec![0; requests]), "{name}");
    }
}

/// The relay answers none of the consumer's messages. With an idle time of 0, the consumer once sent 500 per second.
#[tokio::test]
async fn a_silent_relay_with_extreme_numbers_is_abandoned_and_not_flooded() {
    let odd = Say::accepted_as(json!({"beat_ms": 1_u64 << 63, "idle_ms": 0, "credit": 0}));
    let stage = Stage::new(vec![vec![odd]], quick().patience(Duration::from_secs(6))).await;
    let mut controls = stage.relay.subscribe("gantry.v1.ctl.>").await.unwrap();
    stage.relay.flush().await.unwrap();

    let (bytes, ended) = stage.download().await;

    ended.unwrap();
    assert_eq!(bytes, object());
    stage.relay.publish("gantry.v1.ctl.marker", Bytes::new()).await.unwrap();
    let mut heard = 0;
    while timeout(DEADLINE, controls.next()).await.unwrap().unwrap().subject.as_str() != "gantry.v1.ctl.marker" {
        heard += 1;
    }
    assert!(heard < 40, "{heard} control messages in about 3 s");
}

#[tokio::test]
async fn an_object_that_changed_is_a_typed_error() {
    let begun = || vec![Say::accepted(0), Say::chunk(0, 0), Say::of("goaway")];
    let cases = [
        ("another etag", Say::accepted_as(json!({"start": 10, "etag": "\"2\""}))),
        ("another size", Say::accepted_as(json!({"start": 10, "size": 99, "end": 99}))),
        ("the code", Say::error(Code::Changed)),
    ];

    for (name, answer) in cases {
        let second = [answer].into_iter().chain(Say::rest(10)).collect();
        let stage = Stage::new(vec![begun(), second], quick()).await;
        let (bytes, ended) = stage.download().await;
        assert!(matches!(ended, Err(Error::Changed(_))), "{name}: {ended:?}");
        assert_eq!(bytes, object()[..10], "{name}");
    }

    let stage = Stage::new(vec![vec![Say::accepted(0), Say::chunk(0, 0), Say::error(Code::Changed)]], quick()).await;
    let (bytes, ended) = stage.download().await;

    assert!(matches!(ended, Err(Error::Changed(_))), "{ended:?}");
    assert_eq!(bytes, object()[..10]);
}

#[tokio::test]
async fn a_relay_that_always_violates_the_protocol_is_abandoned() {
    let options = quick().patience(Duration::from_secs(1));
    let nonsense = vec![Say::accepted(0), Say::bytes(0, 0, Bytes::new())];
    let stage = Stage::new(vec![nonsense; 1000], options).await;
    let (bytes, ended) = stage.download().await;
    assert!(matches!(ended, Err(Error::GaveUp { cause: Cause::Violation(_), .. })), "{ended:?}");
    assert!(bytes.is_empty());
    assert!(stage.starts().len() < 30, "{} requests in a second", stage.starts().len());
}

#[tokio::test]
async fn bytes_that_do_not_match_the_stored_checksum_are_an_error() {
    let checksum = json!({"algorithm": "crc64nvme", "kind": "full_object", "value": "AAAAAAAAAAA="});
    let script = [Say::accepted_as(json!({"checksum": checksum}))].into_iter().chain(Say::rest(0)).collect();
    let stage = Stage::new(vec![script], quick()).await;
    let (bytes, ended) = stage.download().await;
    assert!(matches!(ended, Err(Error::Mismatch(_))), "{ended:?}");
    assert_eq!(bytes, object());
}
