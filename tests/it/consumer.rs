//! The consumer on slow links, and while it is interrupted.

use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use futures_util::future::join_all;
use gantry_bus::nats;
use gantry_client::{Client, Error, Get, Options};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::support::site::FILES;
use crate::support::{Nats, Site, data, gantry, until};

const PROMPT: Duration = Duration::from_secs(2);

/// A link to nats-server with a rate limit towards the client, which all connections share.
struct SlowLink {
    port: u16,
    task: JoinHandle<()>,
}

impl SlowLink {
    async fn to(nats: &Nats, bytes_per_s: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = nats.port();
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(carry(client, server, bytes_per_s));
            }
        });
        Self { port, task }
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }
}

impl Drop for SlowLink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(client: TcpStream, server: u16, bytes_per_s: u32) {
    let socket = TcpSocket::new_v4().unwrap();
    // Bytes in the kernel's buffers have not been carried by the link.
    socket.set_recv_buffer_size(32 * 1024).unwrap();
    let server = socket.connect(([127, 0, 0, 1], server).into()).await.unwrap();
    let (mut from_server, mut to_server) = server.into_split();
    let (mut from_client, mut to_client) = client.into_split();
    let up = copy(&mut from_client, &mut to_server);
    let down = async {
        let mut buffer = vec![0; 4096];
        let mut free_at = Instant::now();
        loop {
            let count = from_server.read(&mut buffer).await?;
            if count == 0 {
                return Ok::<_, std::io::Error>(());
            }
            free_at =
                free_at.max(Instant::now()) + Duration::from_secs(1) * u32::try_from(count).unwrap() / bytes_per_s;
            tokio::time::sleep_until(free_at).await;
            to_client.write_all(&buffer[..count]).await?;
        }
    };

    // Either end may close first.
    tokio::select! {
        ended = up => drop(ended),
        ended = down => drop(ended),
    }
}

#[tokio::test]
async fn a_chunk_slower_than_the_stall_timeout_arrives() {
    let site = Site::start().await;
    let body = data::random_bytes(1, 1 << 20);
    std::fs::write(site.files().join("key"), &body).unwrap();
    let link = SlowLink::to(&site.nats, 100 * 1024).await;

    let get = site.get(FILES, "key", "file").arg("--json").env("NATS_URL", link.url());
    let json = get.run().await.expect_code(0).json();

    assert_eq!(json["recoveries"], 0, "{json}");
    assert!(json["elapsed_ms"].as_u64().unwrap() > 9000, "the link was not slow: {json}");
    assert!(site.downloaded("file") == body, "the file differs");
}

#[tokio::test]
async fn a_download_over_a_slow_link_keeps_its_connection() {
    let site = Site::start().await;
    let body = data::random_bytes(1, 24 << 20);
    std::fs::write(site.files().join("key"), &body).unwrap();
    let link = SlowLink::to(&site.nats, 1536 * 1024).await;

    let get = site.get(FILES, "key", "file").arg("--json").env("NATS_URL", link.url());
    let json = get.run().await.expect_code(0).json();

    assert_eq!(json["recoveries"], 0, "{json}\n{}", site.nats.log());
    assert!(json["elapsed_ms"].as_u64().unwrap() > 12_000, "the link was not slow: {json}");
    assert!(site.downloaded("file") == body, "the file differs");
}

#[tokio::test]
async fn downloads_without_a_server_end_within_their_patience() {
    const PATIENCE: Duration = Duration::from_secs(4);
    let mut site = Site::start().await;
    std::fs::write(site.files().join("key"), data::random_bytes(1, 32 << 20)).unwrap();
    let options = nats::Options { servers: vec![site.nats.url()], ..nats::Options::default() };
    let bus = nats::connect(options).await.unwrap();
    let client = Client::new(bus, Options::default().patience(PATIENCE));
    let get = || client.get(Get::new(FILES.parse().unwrap(), "key".parse().unwrap()));
    let downloads = join_all((0..50).map(|_| async { get().await.unwrap() })).await;

    let ends = downloads.into_iter().map(|download| {
        tokio::spawn(download.try_for_each(async |_| {
            sleep(Duration::from_millis(20)).await;
            Ok(())
        }))
    });
    let ends: Vec<_> = ends.collect();
    sleep(Duration::from_millis(100)).await;
    site.nats.kill().await;

    let ends = timeout(PATIENCE + Duration::from_secs(4), join_all(ends)).await.expect("all end in time");
    for end in ends {
        assert!(matches!(end, Ok(Err(Error::GaveUp { .. }))), "{end:?}");
    }
}

#[tokio::test]
async fn downloads_that_abandon_a_connection_leave_the_next_one_alone() {
    let nats = Nats::plain().await;
    let options = nats::Options { servers: vec![nats.url()], ..nats::Options::default() };
    let bus: Arc<dyn gantry_bus::Bus> = nats::connect(options).await.unwrap();
    let mut status = bus.status();

    let asked = join_all((0..20).map(|_| bus.reconnect())).await;
    assert!(asked.iter().all(Result::is_ok));
    let again = status.wait_for(|status| status.connected && status.epoch == 2);
    timeout(Duration::from_secs(10), again).await.expect("it connects again").unwrap();

    // All earlier requests are finished before this one.
    let mut echo = bus.subscribe("echo", None).await.unwrap();
    let message = gantry_bus::Message { subject: "echo".to_owned(), ..Default::default() };
    bus.publish(message).await.unwrap();
    timeout(Duration::from_secs(10), futures_util::StreamExt::next(&mut echo)).await.unwrap().unwrap();
    assert_eq!(bus.status().borrow().epoch, 2);
}

#[tokio::test]
async fn an_interrupt_while_kept_bytes_are_read_ends_the_download() {
    const GIB: u64 = 1 << 30;
    let site = Site::start().await;
    std::fs::File::create(site.files().join("key")).unwrap().set_len(2 * GIB).unwrap();
    let part = site.downloads().join(".file.gantry-part");
    let part_len = || std::fs::metadata(&part).map_or(0, |part| part.len());
    let download = site.get(FILES, "key", "file").spawn();
    until("much is there", async || (part_len() > GIB).then_some(())).await;
    download.signal("INT");
    download.output().await.expect_code(130);
    let kept = part_len();

    let again = site.get(FILES, "key", "file").spawn();
    let io = format!("/proc/{}/io", again.pid());
    until("kept bytes are read", async || {
        let io = std::fs::read_to_string(&io).ok()?;
        let read: u64 = io.lines().find_map(|line| line.strip_prefix("rchar: "))?.parse().ok()?;
        (read > 64 << 20).then_some(())
    })
    .await;
    let interrupted = Instant::now();
    again.signal("INT");
    again.output().await.expect_code(130);

    assert!(interrupted.elapsed() < PROMPT, "{:?}", interrupted.elapsed());
    assert_eq!(part_len(), kept, "the kept bytes are gone, or the download resumed from them");
}

#[tokio::test]
async fn an_interrupt_while_connecting_ends_the_command() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", silent.local_addr().unwrap());
    for args in [vec!["get", "store/key"], vec!["stat", "store/key"], vec!["ls", "store"]] {
        let command = gantry(args).env("NATS_URL", &url).spawn();
        let _connection = silent.accept().await.unwrap();
        let interrupted = Instant::now();
        command.signal("INT");
        command.output().await.expect_code(130);
        assert!(interrupted.elapsed() < PROMPT, "{:?}", interrupted.elapsed());
    }
}

#[tokio::test]
async fn a_second_interrupt_ends_it_at_once() {
    let site = Site::start().await;
    std::fs::write(site.files().join("key"), data::random_bytes(1, 64 << 20)).unwrap();
    let part = site.downloads().join(".file.gantry-part");
    let download = site.get(FILES, "key", "file").arg("--limit-rate").arg("1M").spawn();
    until("some bytes", async || std::fs::metadata(&part).is_ok_and(|part| part.len() > 0).then_some(())).await;

    let interrupted = Instant::now();
    download.signal("INT");
    download.signal("INT");
    download.output().await.expect_code(130);

    assert!(interrupted.elapsed() < PROMPT, "{:?}", interrupted.elapsed());
}

#[tokio::test]
async fn an_interrupted_stream_cancels_its_transfer() {
    let site = Site::start().await;
    std::fs::write(site.files().join("key"), data::random_bytes(1, 64 << 20)).unwrap();
    let out = site.downloads().join("out");
    let download = site.command(["get", "files/key", "--limit-rate", "1M", "-o", "-"]).stdout_to(&out).spawn();
    until("some bytes", async || std::fs::metadata(&out).is_ok_and(|out| out.len() > 0).then_some(())).await;

    download.signal("INT");
    download.output().await.expect_code(130);

    site.relay.logged("cancelled").await;
    assert!(!site.relay.stderr().contains("consumer_gone"), "{}", site.relay.stderr());
}

#[tokio::test]
async fn no_resume_starts_from_the_beginning() {
    let (site, body) = interrupted().await;

    let json = site.get(FILES, "key", "file").arg("--json").arg("--no-resume").run().await.expect_code(0).json();

    assert_eq!(json["fetched_bytes"], body.len(), "{json}");
    assert!(json.get("resumed_from").is_none(), "{json}");
    assert!(site.downloaded("file") == body, "the file differs");
    assert_eq!(site.downloads_listed(), ["file"]);
}

#[tokio::test]
async fn a_changed_object_is_downloaded_from_the_beginning_and_reported() {
    let (site, _) = interrupted().await;
    let other = data::random_bytes(2, 5 << 20);
    std::fs::write(site.files().join("key"), &other).unwrap();

    let output = site.get(FILES, "key", "file").run().await.expect_code(0);

    assert!(output.stderr.contains("restarted: "), "{}", output.stderr);
    assert!(site.downloaded("file") == other, "the file differs");
    assert_eq!(site.downloads_listed(), ["file"]);
}

#[tokio::test]
async fn a_second_download_to_the_same_file_is_refused_at_once() {
    let site = Site::start().await;
    std::fs::write(site.files().join("key"), data::random_bytes(1, 64 << 20)).unwrap();
    let part = site.downloads().join(".file.gantry-part");
    let first = site.get(FILES, "key", "file").arg("--limit-rate").arg("1M").spawn();
    until("some bytes", async || std::fs::metadata(&part).is_ok_and(|part| part.len() > 0).then_some(())).await;

    let second = site.get(FILES, "key", "file").run().await.expect_code(1);

    assert!(second.stderr.contains("another download"), "{}", second.stderr);
    assert!(second.elapsed < PROMPT, "{:?}", second.elapsed);
    first.signal("INT");
    first.output().await.expect_code(130);
}

/// Downloads a part of an object of 64 MiB to `file`, and returns the whole object.
async fn interrupted() -> (Site, bytes::Bytes) {
    let site = Site::start().await;
    let body = data::random_bytes(1, 64 << 20);
    std::fs::write(site.files().join("key"), &body).unwrap();
    let part = site.downloads().join(".file.gantry-part");
    let download = site.get(FILES, "key", "file").arg("--limit-rate").arg("4M").spawn();
    until("some bytes", async || std::fs::metadata(&part).is_ok_and(|part| part.len() > 1 << 20).then_some(())).await;
    download.signal("INT");
    download.output().await.expect_code(130);
    (site, body)
}
