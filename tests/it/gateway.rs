//! `gantry gateway` and `gantry serve --gateway` while nats-server comes and goes.

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::support::gantry::Running;
use crate::support::site::{OBJECTS, Site};
use crate::support::{Nats, Relay, data, gantry, until};

/// What a client may have to wait for while there is no connection to NATS.
const SECONDS: Duration = Duration::from_secs(6);

/// A response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// In lower case.
    pub(crate) head: String,
    pub(crate) body: String,
}

/// Requests a target, or returns `None` if nobody answers.
pub(crate) async fn get(address: &str, target: &str) -> Option<Answer> {
    get_with(address, target, "Accept: */*").await
}

async fn get_with(address: &str, target: &str, header: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{header}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;

    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head: head.to_lowercase(), body: body.to_owned() })
}

pub(crate) async fn status(address: &str, target: &str, status: u16) -> Answer {
    until(&format!("{target} with {status}"), async || {
        get(address, target).await.filter(|answer| answer.status == status)
    })
    .await
}

/// Asserts that every kind of request gets 503 in time, with the reason.
async fn assert_unavailable(address: &str) {
    for target in ["/files/a", "/files/?list-type=2", "/files?location", "/"] {
        let asked = Instant::now();
        let answer = get(address, target).await.unwrap();

        assert_eq!(answer.status, 503, "{target}: {answer:?}");
        assert!(asked.elapsed() < SECONDS, "{target}: {:?}", asked.elapsed());
        assert!(answer.head.contains("\r\nretry-after: "), "{target}: {}", answer.head);
        assert!(answer.body.contains("nats-server"), "{target}: {}", answer.body);
    }
}

pub(crate) fn addresses() -> [String; 2] {
    data::free_ports::<2>().map(|port| format!("127.0.0.1:{port}"))
}

/// The directory of a store `files` with the object `a`.
fn files(folder: &Path) -> String {
    let files = folder.join("files");
    std::fs::create_dir(&files).unwrap();
    std::fs::write(files.join("a"), "content").unwrap();
    format!("file://{}", files.display())
}

pub(crate) fn gateway(url: &str, address: &str, pages: &str) -> Running {
    gantry(["gateway", "--listen", address, "--http", pages, "-s", url, "--timeout", "300ms"]).spawn()
}

#[tokio::test]
async fn a_gateway_without_nats_answers_and_works_once_nats_appears() {
    let mut nats = Nats::plain().await;
    let folder = data::folder();
    let store = files(folder.path());
    nats.kill().await;
    let [address, pages] = addresses();
    let running = gateway(&nats.url(), &address, &pages);

    status(&address, "/files/a", 503).await;
    assert_unavailable(&address).await;
    assert_eq!(status(&pages, "/livez", 200).await.status, 200);
    assert_eq!(get(&pages, "/readyz").await.unwrap().status, 503);

    nats.restart().await;
    let _relay = Relay::on(&nats).store("files", store).start().await;
    assert_eq!(status(&address, "/files/a", 200).await.body, "content");
    status(&pages, "/readyz", 200).await;

    running.signal("TERM");
    running.output().await.expect_code(0);
}

#[tokio::test]
async fn a_gateway_that_waits_for_nats_ends_when_it_is_told_to() {
    let mut nats = Nats::plain().await;
    nats.kill().await;
    let [address, pages] = addresses();
    let running = gateway(&nats.url(), &address, &pages);

    status(&address, "/", 503).await;
    running.signal("TERM");
    running.output().await.expect_code(0);
}

#[tokio::test]
async fn while_nats_is_down_requests_get_503_in_time() {
    let mut nats = Nats::plain().await;
    let folder = data::folder();
    let relay = Relay::on(&nats).store("files", files(folder.path())).start().await;
    let [address, pages] = addresses();
    let running = gateway(&nats.url(), &address, &pages);
    status(&address, "/files/a", 200).await;

    nats.kill().await;
    assert_unavailable(&address).await;
    nats.restart().await;
    assert_eq!(status(&address, "/files/a", 200).await.body, "content");

    drop(relay);
    running.signal("TERM");
    running.output().await.expect_code(0);
}

#[tokio::test]
async fn headers_that_s3_stores_reach_the_client() {
    let site = Site::start().await;
    let put = site.s3.client().put_object().bucket(&site.bucket).key("a").body(b"0123456789".to_vec().into());
    let put = put.cache_control("max-age=60").content_disposition("inline").content_encoding("br");
    put.content_language("de")
        .expires(aws_sdk_s3::primitives::DateTime::from_secs(1_925_085_845))
        .send()
        .await
        .unwrap();
    let stored = site.s3.client().head_object().bucket(&site.bucket).key("a").send().await.unwrap();
    let stored = [
        ("cache-control", stored.cache_control()),
        ("content-disposition", stored.content_disposition()),
        ("content-encoding", stored.content_encoding()),
        ("content-language", stored.content_language()),
        ("expires", stored.expires_string()),
    ];
    assert!(stored.iter().filter(|(_, value)| value.is_some()).count() >= 3, "{stored:?}");

    let [address, pages] = addresses();
    let running = gateway(&site.nats.url(), &address, &pages);
    let target = format!("/{OBJECTS}/a");
    status(&address, &target, 200).await;
    for range in ["Range: none", "Range: bytes=2-3"] {
        let answer = get_with(&address, &target, range).await.unwrap();
        for (name, value) in &stored {
            let line = value.map(|value| format!("\r\n{name}: {value}\r\n").to_lowercase());
            assert!(line.is_none_or(|line| answer.head.contains(&line)), "{range}: {name} in {}", answer.head);
        }
    }

    let shown = site.command(["stat", &format!("{OBJECTS}/a")]).run().await.expect_code(0).stdout_text();
    assert!(shown.contains("header:    cache-control: max-age=60"), "{shown}");
    running.signal("TERM");
    running.output().await.expect_code(0);
}

#[tokio::test]
async fn a_relays_own_front_does_not_need_nats() {
    let mut nats = Nats::plain().await;
    let folder = data::folder();
    let store = format!("files={}", files(folder.path()));
    nats.kill().await;
    let [address, pages] = addresses();
    let serve = ["serve", "--store", &store, "--gateway", &address, "--http", &pages, "-s", &nats.url()];
    let running = gantry(serve).spawn();

    assert_eq!(status(&address, "/files/a", 200).await.body, "content");
    assert_eq!(get(&address, "/").await.unwrap().status, 200);
    assert_eq!(get(&address, "/files/?list-type=2").await.unwrap().status, 200);
    assert_eq!(get(&address, "/none/a").await.unwrap().status, 404);
    assert_eq!(get(&pages, "/readyz").await.unwrap().status, 503);

    running.signal("TERM");
    running.output().await.expect_code(0);
}
