//! What operators rely on: pages, drain, reload, `--check` and traces, with the built binary and real servers.

mod collector;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use self::collector::{Collector, Span};
use crate::support::doc::assert_documented;
use crate::support::s3_double::{Act, S3Double};
use crate::support::{Nats, NatsOptions, Relay, S3, data, gantry, until};

/// Requests a page of a relay, and returns its status and body.
pub(crate) async fn page(address: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

pub(crate) async fn ready(address: &str, status: u16) -> String {
    until(&format!("/readyz with {status}"), async || {
        page(address, "/readyz").await.filter(|(own, _)| *own == status).map(|(_, body)| body)
    })
    .await
}

async fn metric(address: &str, series: &str) -> f64 {
    let (_, text) = page(address, "/metrics").await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    line.map_or(0.0, |value| value.trim().parse().unwrap())
}

pub(crate) fn address() -> String {
    format!("127.0.0.1:{}", data::free_port())
}

fn store(folder: &Path) -> String {
    format!("file://{}", folder.display())
}

#[tokio::test]
async fn readiness_follows_nats_and_the_stores() {
    let mut nats = Nats::plain().await;
    let folder = data::folder();
    let files = folder.path().join("files");
    std::fs::create_dir(&files).unwrap();
    let address = address();
    let _relay = Relay::on(&nats).store("s", store(&files)).arg("--http").arg(&address).start().await;

    let text = ready(&address, 200).await;
    assert!(text.contains("nats: connected") && text.contains("store s: ok"), "{text}");
    assert_eq!(page(&address, "/livez").await.unwrap().0, 200);
    let url = format!("http://{address}/readyz");
    gantry(["health", "--url", &url]).run().await.expect_code(0);
    gantry(["health", "--url", &address]).run().await.expect_code(0);

    nats.kill().await;
    let text = ready(&address, 503).await;
    assert!(text.contains("nats: not connected"), "{text}");
    let said = gantry(["health", "--url", &url]).run().await.expect_code(1);
    assert!(said.stdout_text().contains("nats: not connected"), "{said:?}");
    assert_eq!(page(&address, "/livez").await.unwrap().0, 200);
    nats.restart().await;
    ready(&address, 200).await;
    for connection in ["requests", "data"] {
        let name = format!("gantry_nats_reconnects_total{{connection=\"{connection}\"}}");
        assert!(metric(&address, &name).await >= 1.0, "{name}");
    }
}

/// The pages were once served only after the first connection, and the relay exited after four seconds.
#[tokio::test]
async fn a_relay_waits_for_nats_and_reports_it() {
    let mut nats = Nats::plain().await;
    let folder = data::folder();
    let address = address();
    let url = nats.url();
    let store = format!("s={}", store(folder.path()));
    nats.kill().await;
    let serve = || gantry(["serve", "--store", &store, "--http", &address, "-s", &url, "--timeout", "300ms"]);

    let waiting = serve().spawn();
    let said = ready(&address, 503).await;
    assert!(said.contains("nats: not connected"), "{said}");
    assert_eq!(page(&address, "/livez").await.map(|(status, _)| status), Some(200));
    waiting.signal("TERM");
    waiting.output().await.expect_code(0);

    let waiting = serve().spawn();
    ready(&address, 503).await;
    nats.restart().await;
    ready(&address, 200).await;
    waiting.signal("TERM");
    waiting.output().await.expect_code(0);
}

#[tokio::test]
async fn a_configured_address_must_be_free() {
    let nats = Nats::plain().await;
    let folder = data::folder();
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap().to_string();
    let store = format!("s={}", store(folder.path()));
    let said = gantry(["serve", "--store", &store, "--http", &address]).nats(&nats).run().await.expect_code(2);
    assert!(said.stderr.contains("http.listen") && said.stderr.contains(&address), "{}", said.stderr);
}

#[tokio::test]
async fn a_draining_relay_finishes_its_transfer_and_another_serves_new_requests() {
    let nats = Nats::plain().await;
    let folder = data::folder();
    let files = folder.path().join("files");
    std::fs::create_dir(&files).unwrap();
    data::random_file(&files.join("big"), 1, 64 << 20);
    let one = address();
    let two = address();
    let start =
        async |address: &str| Relay::on(&nats).store("s", store(&files)).arg("--http").arg(address).start().await;
    let mut first = start(&one).await;
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // Nobody reads the pipe yet, so the transfer waits for credit until the test reads.
    let (held, writer) = hold(&pipe);
    let slow = gantry(["get", "s/big", "-o", "-"]).nats(&nats).stdout_to(&pipe).spawn();
    drop(writer);
    until("a transfer", async || (metric(&one, "gantry_transfers_active ").await > 0.0).then_some(())).await;
    until("chunks during the transfer", async || {
        (metric(&one, "gantry_sent_bytes_total{store=\"s\"} ").await > 0.0).then_some(())
    })
    .await;
    let second = start(&two).await;

    first.signal("TERM");
    let text = ready(&one, 503).await;
    assert!(text.contains("draining"), "{text}");
    let other = folder.path().join("other");
    gantry(["get", "s/big", "-o"]).arg(&other).nats(&nats).run().await.expect_code(0);
    data::assert_same_file(&files.join("big"), &other);
    assert_eq!(metric(&two, "gantry_transfers_total{store=\"s\",outcome=\"completed\"} ").await, 1.0);
    let read = tokio::task::spawn_blocking(move || read_all(held)).await.unwrap();
    assert_eq!(slow.output().await.expect_code(0).code, Some(0));
    assert_eq!(read, std::fs::read(files.join("big")).unwrap());
    assert_eq!(first.wait().await.code(), Some(0));
    let log = first.stderr();
    assert!(log.contains("draining") && log.contains("outcome=\"completed\""), "{log}");
    drop(second);
}

#[tokio::test]
async fn the_grace_ends_in_a_goaway_and_a_clean_exit() {
    let nats = Nats::plain().await;
    let folder = data::folder();
    data::random_file(&folder.path().join("big"), 2, 64 << 20);

    let start = async || {
        let relay = Relay::on(&nats).store("s", store(folder.path())).arg("--http").arg("off");
        relay.env("GANTRY_RELAY__DRAIN_GRACE_MS", "50").start().await
    };
    let mut first = start().await;
    let pipe = data::folder();
    let pipe = pipe.path().join("pipe");

    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());

    let (held, writer) = hold(&pipe);
    let slow = gantry(["get", "s/big", "-o", "-"]).nats(&nats).stdout_to(&pipe).spawn();
    drop(writer);
    first.logged("transfer started").await;

    let second = start().await;
    first.signal("TERM");

    assert_eq!(first.wait().await.code(), Some(0));
    assert!(first.stderr().contains("outcome=\"drained\""), "{}", first.stderr());

    let read = tokio::task::spawn_blocking(move || read_all(held)).await.unwrap();
    slow.output().await.expect_code(0);

    assert_eq!(read, std::fs::read(folder.path().join("big")).unwrap());
    assert!(second.stderr().contains("outcome=\"completed\""), "{}", second.stderr());
}

#[tokio::test]
async fn a_relay_without_nats_still_stops() {
    let mut nats = Nats::plain().await;
    let folder = data::folder();
    data::random_file(&folder.path().join("big"), 6, 64 << 20);

    let pipe = data::folder();
    let pipe = pipe.path().join("pipe");

    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());

    for with_transfer in [false, true] {
        let relay = Relay::on(&nats).store("s", store(folder.path())).arg("--http").arg("off");
        let mut relay = relay.env("GANTRY_RELAY__DRAIN_GRACE_MS", "50").start().await;
        let slow = with_transfer.then(|| {
            let (held, writer) = hold(&pipe);
            let slow = gantry(["get", "s/big", "-o", "-"]).nats(&nats).stdout_to(&pipe).spawn();
            drop(writer);
            (held, slow)
        });
        if with_transfer {
            relay.logged("transfer started").await;
        }
        nats.kill().await;
        relay.logged("is lost").await;
        relay.signal("TERM");
        let status = tokio::time::timeout(Duration::from_secs(30), relay.wait()).await;
        assert_eq!(status.expect("it ends").code(), Some(0), "{}", relay.stderr());
        drop(slow);
        nats.restart().await;
    }
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let nats = Nats::plain().await;
    let folder = data::folder();
    data::random_file(&folder.path().join("big"), 3, 64 << 20);

    let mut relay = Relay::on(&nats).store("s", store(folder.path())).arg("--http").arg("off").start().await;
    let pipes = data::folder();
    let pipe = pipes.path().join("pipe");

    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());

    let (_held, writer) = hold(&pipe);
    let _slow = gantry(["get", "s/big", "-o", "-"]).nats(&nats).stdout_to(&pipe).spawn();
    drop(writer);
    relay.logged("transfer started").await;
    relay.signal("TERM");
    relay.logged("draining").await;
    relay.signal("TERM");

    let status: ExitStatus = tokio::time::timeout(Duration::from_secs(10), relay.wait()).await.unwrap();
    assert_eq!(status.code(), Some(130));
}

#[tokio::test]
async fn a_hangup_reloads_the_stores_and_keeps_the_transfers() {
    let nats = Nats::plain().await;
    let folder = data::folder();
    let files = folder.path().join("files");
    std::fs::create_dir(&files).unwrap();
    data::random_file(&files.join("big"), 4, 64 << 20);
    let config = folder.path().join("relay.toml");
    let address = address();
    let write = |stores: &str| std::fs::write(&config, format!("[http]\nlisten = {address:?}\n{stores}")).unwrap();
    let section = |name: &str| format!("[stores.{name}]\nurl = {:?}\n", store(&files));
    write(&(section("old") + &section("both")));
    let relay = Relay::on(&nats).arg("--config").arg(&config).start().await;
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let (held, writer) = hold(&pipe);
    let slow = gantry(["get", "old/big", "-o", "-"]).nats(&nats).stdout_to(&pipe).spawn();
    drop(writer);
    relay.logged("transfer started").await;
    let get = async |address: &str| gantry(["stat", address]).nats(&nats).run().await;

    write("[stores.new]\nurll = 1\n");
    relay.signal("HUP");
    relay.logged("keeping the previous one").await;
    assert!(relay.stderr().contains("stores.new.urll"), "{}", relay.stderr());
    get("old/big").await.expect_code(0);

    write(&(section("new") + &section("both")));
    relay.signal("HUP");
    relay.logged("reloaded the stores").await;
    for (address, code) in [("new/big", 0), ("both/big", 0), ("old/big", 4)] {
        get(address).await.expect_code(code);
    }
    let text = until("a probe of the new store", async || {
        page(&address, "/readyz").await.map(|(_, body)| body).filter(|body| body.contains("store new: ok"))
    })
    .await;
    assert!(!text.contains("store old"), "{text}");
    assert_eq!(metric(&address, "gantry_reloads_total{result=\"ok\"} ").await, 1.0);
    assert_eq!(metric(&address, "gantry_reloads_total{result=\"failed\"} ").await, 1.0);
    let read = tokio::task::spawn_blocking(move || read_all(held)).await.unwrap();
    slow.output().await.expect_code(0);
    assert_eq!(read, std::fs::read(files.join("big")).unwrap());
}

/// A reload that waited for NATS once blocked everything else in the relay.
#[tokio::test]
async fn a_reload_that_waits_for_nats_blocks_nothing() {
    let mut nats = Nats::plain().await;
    let folder = data::folder();
    let address = address();
    let relay = Relay::on(&nats).store("s", store(folder.path())).arg("--http").arg(&address);
    let mut relay = relay.env("GANTRY_RELAY__DRAIN_GRACE_MS", "50").start().await;
    ready(&address, 200).await;

    // Once resumed, it finds both: no connection, and a pending reload.
    relay.signal("STOP");
    nats.kill().await;
    relay.signal("HUP");
    relay.signal("CONT");
    let text = ready(&address, 503).await;
    assert!(text.contains("nats: not connected"), "{text}");

    nats.restart().await;
    ready(&address, 200).await;
    until("the reload", async || (metric(&address, "gantry_reloads_total{result=\"ok\"} ").await >= 1.0).then_some(()))
        .await;

    nats.kill().await;
    ready(&address, 503).await;
    relay.signal("HUP");
    relay.signal("TERM");
    until("draining", async || page(&address, "/readyz").await.filter(|(_, body)| body.contains("draining"))).await;
    let status = tokio::time::timeout(Duration::from_secs(10), relay.wait()).await;
    assert_eq!(status.expect("it ends").code(), Some(0), "{}", relay.stderr());
}

/// A denial was once remembered even after the permission was granted or the store was removed.
#[tokio::test]
async fn a_reload_retries_denied_subscriptions() {
    let users = |denied: &str| {
        format!(
            "authorization {{ users: [{{ user: all, password: p }}, {{ user: relay, password: p, permissions: {{ \
             subscribe: {{ deny: [{denied}] }} }} }}] }}"
        )
    };
    let without_b = users("\"gantry.v1.get.b\"");
    let with_b = users("\"nothing\"");
    let mut nats = Nats::start(NatsOptions { config: without_b.clone(), ..NatsOptions::default() }).await;
    let folder = data::folder();
    data::random_file(&folder.path().join("object"), 5, 1000);
    let config = folder.path().join("relay.toml");
    let address = address();
    let write = |stores: &[&str]| {
        let sections = stores.iter().map(|name| format!("[stores.{name}]\nurl = {:?}\n", store(folder.path())));
        let text = format!("[http]\nlisten = {address:?}\n{}", sections.collect::<String>());
        std::fs::write(&config, text).unwrap();
    };
    write(&["a", "b"]);
    let all = async_nats::ConnectOptions::with_user_and_password("all".to_owned(), "p".to_owned());
    let relay = Relay::on(&nats).probe(all.connect(nats.url()).await.unwrap()).arg("--config").arg(&config);
    let relay = relay.env("NATS_USER", "relay").env("NATS_PASSWORD", "p").start().await;
    let get = async |nats: &Nats, object: &str| {
        let get = gantry(["get", object, "-o", "-"]).nats(nats).env("NATS_USER", "all").env("NATS_PASSWORD", "p");
        get.run().await
    };
    let text = ready(&address, 503).await;
    until("the denial", async || page(&address, "/readyz").await.filter(|(_, body)| body.contains("get.b"))).await;
    assert!(!text.contains("get.a"), "{text}");
    get(&nats, "b/object").await.expect_code(5);

    // The permission is granted.
    nats.set_config(with_b);
    reload_nats(&nats, 1).await;
    relay.signal("HUP");
    ready(&address, 200).await;
    get(&nats, "b/object").await.expect_code(0);

    // The permission is denied again, and then the store is removed.
    nats.set_config(without_b);
    reload_nats(&nats, 2).await;
    let text = ready(&address, 503).await;
    assert!(text.contains("gantry.v1.get.b"), "{text}");
    write(&["a"]);
    relay.signal("HUP");
    let text = ready(&address, 200).await;
    assert!(!text.contains("get.b"), "{text}");
    get(&nats, "a/object").await.expect_code(0);
}

/// Makes nats-server reload its configuration, for the `times`th time.
async fn reload_nats(nats: &Nats, times: usize) {
    nats.signal("HUP");
    until("nats-server's reload", async || {
        (nats.log().matches("Reloaded server configuration").count() >= times).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_check_reports_settings_and_problems() {
    let nats = Nats::plain().await;
    let folder = data::folder();
    let store = format!("s={}", store(folder.path()));
    let said = gantry(["serve", "--check", "--store", &store, "--http", "off"]);
    let said = said.env("NATS_TOKEN", "hush-hush").nats(&nats).run().await.expect_code(0);
    let text = said.stdout_text();
    for part in ["stores.s.url = ", "# --store", "nats.token = \"[redacted]\"  # NATS_TOKEN", "stores.s: answers"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("hush-hush") && !said.stderr.contains("hush-hush"));

    // It once reported problems only.
    let said = gantry(["serve", "--check", "--store", &store, "--http", "8080"]).env("NATS_TOKEN", "hush-hush");
    let said = said.env("GANTRY_RELAY__CHUNK_MAX_BYTES", "1").run().await.expect_code(2);
    let text = said.stdout_text();
    assert!(text.contains("stores.s.url = ") && text.contains("nats.token = \"[redacted]\""), "{text}");
    assert!(!text.contains("http.listen") && said.stderr.contains("`http.listen` = \"8080\""), "{said:?}");
    assert!(!text.contains("chunk_max_bytes") && said.stderr.contains("`relay.chunk_max_bytes` = \"1\""), "{said:?}");
    assert!(!text.contains("hush-hush") && !said.stderr.contains("hush-hush"));

    let gone = format!("nats://u:hush-hush@127.0.0.1:{}", data::free_port());
    let said = gantry(["serve", "--check", "--store", &store, "--timeout", "300ms", "--http", "off", "-s", &gone]);
    let said = said.run().await.expect_code(2);
    assert!(said.stderr.contains("`nats.url` = ") && said.stderr.contains("start nats-server"), "{}", said.stderr);
    assert!(!said.stdout_text().contains("hush-hush") && !said.stderr.contains("hush-hush"));
    let at = gone.rsplit_once('@').unwrap().1;
    assert_documented(&said.stderr, &[(at, "127.0.0.1:4222")]);

    let s3 = S3::shared().await;
    let said = gantry(["serve", "--check", "--store", "s=s3://no-such-bucket-here", "--http", "off"]).nats(&nats);
    let said = s3.env(s3.admin()).into_iter().fold(said, |said, (name, value)| said.env(name, value));
    let said = said.run().await.expect_code(2);
    assert!(said.stderr.contains("`stores.s.url` = \"s3://no-such-bucket-here\" in --store"), "{}", said.stderr);
    assert_documented(&said.stderr, &[]);
}

/// Every failure was once attributed to the address of nats-server or of the store.
#[tokio::test]
async fn the_check_names_the_faulty_key() {
    let nats = Nats::plain().await;
    let s3 = S3::shared().await;
    let folder = data::folder();
    let bucket = s3.bucket().await;
    let garbage = folder.path().join("garbage");
    let directory = format!("s={}", store(folder.path()));
    std::fs::write(&garbage, "garbage\n").unwrap();

    let garbage = garbage.display().to_string();
    let missing = format!("{directory}/none");
    let in_s3 = format!("s=s3://{bucket}");
    let gone = format!("http://127.0.0.1:{}", data::free_port());

    for (store, variable, value, named, cure) in [
        (&directory, "NATS_CREDS", garbage.as_str(), "`nats.creds_file` = ", "correct the file"),
        (&directory, "NATS_CA", &garbage, "`nats.tls_ca_file` = ", "correct the file"),
        (&missing, "AWS_REGION", "x", "`stores.s.url` = ", "create the directory"),
        (&in_s3, "AWS_ENDPOINT_URL", &gone, "in AWS_ENDPOINT_URL: ", "start the S3 server"),
        (&in_s3, "AWS_SECRET_ACCESS_KEY", "wrong", "from AWS_ACCESS_KEY_ID: ", "check these credentials"),
    ] {
        let check = gantry(["serve", "--check", "--http", "off", "--store", store]).nats(&nats);
        let check = s3.env(s3.admin()).into_iter().fold(check, |check, (name, value)| check.env(name, value));
        let said = check.env(variable, value).run().await.expect_code(2).stderr;
        assert!(said.contains(named) && said.contains(cure) && said.lines().count() == 1, "{variable}: {said}");
        let folder = folder.path().display().to_string();
        assert_documented(&said, &[(&folder, "/srv"), (&gone, "http://127.0.0.1:9000"), (&bucket, "bucket")]);
    }
}

/// Credentials without any permissions were once reported as good.
#[tokio::test]
async fn the_check_reports_what_credentials_permit() {
    let nats = Nats::plain().await;
    let s3 = S3::shared().await;
    let bucket = s3.bucket().await;

    for (put, user, told) in [
        (false, s3.admin(), "reading was not tested, there is no object"),
        (true, s3.admin(), "may list and read"),
        (true, s3.denied(), "may not list: missing keys will be reported as denied; reading was not tested"),
    ] {
        if put {
            s3.put(&bucket, "key", data::random_bytes(1, 10), None).await;
        }
        let check =
            gantry(["serve", "--check", "--http", "off", "--store"]).arg(format!("s=s3://{bucket}")).nats(&nats);
        let check = s3.env(user).into_iter().fold(check, |check, (name, value)| check.env(name, value));
        let said = check.run().await.expect_code(0).stdout_text();
        assert!(said.contains(told), "{told}: {said}");
        let reason = "(403 AccessDenied";
        let cure = "permit `s3:ListBucket` on the bucket (deploy/iam/policy.json)";
        let is_denied = told.contains("may not list");
        assert!(!is_denied || (said.contains(reason) && said.contains(cure)), "{said}");
    }
}

#[tokio::test]
async fn a_password_in_a_file_is_read_again_at_each_connection() {
    let users = |password: &str| format!("authorization {{ user: relay, password: {password} }}\n");
    let mut nats = Nats::start(NatsOptions { config: users("first"), ..NatsOptions::default() }).await;
    let folder = data::folder();
    let password = folder.path().join("password");
    std::fs::write(&password, "first\n").unwrap();
    let address = address();
    let url = nats.url();
    let probe = async_nats::ConnectOptions::with_user_and_password("relay".into(), "first".into());
    let probe = probe.connect(&url).await.unwrap();
    let relay = Relay::at(&url).probe(probe).store("s", store(folder.path())).arg("--http").arg(&address);
    let relay = relay.env("GANTRY_NATS__USER", "relay").env("GANTRY_NATS__PASSWORD_FILE", &password).start().await;
    ready(&address, 200).await;

    std::fs::write(&password, "second\n").unwrap();
    nats.kill().await;
    ready(&address, 503).await;
    nats.set_config(users("second"));
    nats.restart().await;
    ready(&address, 200).await;
    assert!(!relay.stderr().contains("first") && !relay.stderr().contains("second"), "{}", relay.stderr());
}

#[tokio::test]
async fn one_trace_shows_consumer_relay_and_s3() {
    let nats = Nats::plain().await;
    let s3 = S3::shared().await;
    let collector = Collector::start().await;
    let bucket = s3.bucket().await;
    s3.put(&bucket, "object", data::random_bytes(5, 20 << 20), None).await;
    let address = address();
    let relay = Relay::on(&nats).store("s", format!("s3://{bucket}")).s3(s3).arg("--http").arg(&address);
    let mut relay = relay.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()).start().await;
    let target = data::folder();
    let get = gantry(["get", "s/object", "-o"]).arg(target.path().join("object")).nats(&nats);
    get.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()).run().await.expect_code(0);
    assert!(metric(&address, "gantry_s3_requests_total{store=\"s\",operation=\"get\",result=\"ok\"} ").await >= 1.0);
    relay.signal("TERM");
    assert_eq!(relay.wait().await.code(), Some(0));

    let spans = collector.spans();
    let download = spans.iter().find(|span| span.name == "download").unwrap_or_else(|| panic!("{spans:?}"));
    assert!(download.parent.is_empty() && spans.iter().all(|span| !span.has_failed), "{spans:?}");
    let tree = tree(&spans, download, 0);
    // The number of ranges and the durations differ between runs.
    let page = include_str!("../../docs/OPERATING.md");
    for line in tree.lines() {
        let without_duration = line.trim_end_matches(|c: char| c.is_ascii_digit() || " .ms".contains(c));
        assert!(page.contains(&format!("    {without_duration} ")), "docs/OPERATING.md must hold:\n{tree}");
    }
}

/// Formats a span and its descendants, one per line.
fn tree(spans: &[Span], top: &Span, depth: usize) -> String {
    let name = format!("{:indent$}{} {}", "", top.name, top.attribute("operation"), indent = 3 * depth);
    let ms = top.took.as_secs_f64() * 1000.0;
    let mut text = format!("{:20} {:6} {:15} {ms:8.1} ms\n", name.trim_end(), top.kind, top.service);
    let mut below: Vec<_> = spans.iter().filter(|span| span.parent == top.id && span.trace == top.trace).collect();
    below.sort_by_key(|span| span.begun_ns);
    for span in below {
        text += &tree(spans, span, depth + 1);
    }
    text
}

#[tokio::test]
async fn s3_receives_the_span_of_each_request_and_failures_are_marked() {
    let nats = Nats::plain().await;
    let collector = Collector::start().await;
    let object = data::random_bytes(8, 1 << 20);
    let s3 = S3Double::start(object.clone(), |request| {
        if request.target.contains("denied") { Act::Fail(403, "AccessDenied", "") } else { Act::Serve }
    })
    .await;
    let relay = Relay::on(&nats).store("s", "s3://bucket").arg("--http").arg("off");
    let relay = relay.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url());
    let relay = relay.env("AWS_ACCESS_KEY_ID", "id").env("AWS_SECRET_ACCESS_KEY", "secret");
    let relay = relay.env("GANTRY_STORES__S__ENDPOINT_URL", s3.endpoint());
    let mut relay = relay.env("GANTRY_STORES__S__RANGE_BYTES", "65536").start().await;
    for (key, code) in [("s/object", 0), ("s/denied", 8)] {
        let get = gantry(["get", key, "-o", "-"]).nats(&nats);
        let got = get.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()).run().await.expect_code(code);
        assert!(code != 0 || got.stdout == object);
    }
    relay.signal("TERM");
    assert_eq!(relay.wait().await.code(), Some(0));

    let spans = collector.spans();
    let of = |name: &str, failed: bool| {
        let found = spans.iter().filter(|span| span.name == name && span.has_failed == failed);
        found.collect::<Vec<_>>()
    };
    let transfer = of("transfer", false);
    let failed = of("transfer", true);
    assert_eq!((transfer.len(), transfer[0].attribute("outcome").as_str()), (1, "completed"), "{spans:?}");
    assert_eq!((failed.len(), failed[0].attribute("outcome").as_str()), (1, "denied"), "{spans:?}");
    assert_eq!((of("download", false).len(), of("download", true).len()), (1, 1), "{spans:?}");
    for (of_relay, of_consumer) in [(&transfer, of("download", false)), (&failed, of("download", true))] {
        let id = of_relay[0].attribute("correlation");
        assert!(!id.is_empty() && id == of_consumer[0].attribute("correlation"), "{spans:?}");
    }
    assert!(!of("s3", true).is_empty());
    // The probe every ten seconds once created a trace of its own.
    let probes: Vec<_> = spans.iter().filter(|span| span.attribute("operation") == "probe").collect();
    assert!(probes.is_empty(), "{probes:?}");

    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let named: BTreeSet<_> = of("s3", false)
        .into_iter()
        .filter(|span| span.parent == transfer[0].id)
        .map(|span| format!("00-{}-{}-01", hex(&span.trace), hex(&span.id)))
        .collect();
    let reads = s3.requests().into_iter().filter(|request| request.is_get() && request.target.contains("/object"));
    let told: Vec<_> = reads.map(|request| request.header("traceparent").unwrap_or_default().to_owned()).collect();
    // The first range, and the ranges that other tasks read ahead.
    assert!(told.len() > 1 && told.iter().all(|header| named.contains(header)), "{told:?}: {spans:?}");
}

/// A variable that platforms set in every container once made every command fail, including health checks.
#[tokio::test]
async fn an_unusable_collector_costs_only_traces() {
    let nats = Nats::plain().await;
    let folder = data::folder();
    data::random_file(&folder.path().join("object"), 7, 100_000);
    let address = address();
    let endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let relay = Relay::on(&nats).store("s", store(folder.path())).arg("--http").arg(&address);
    let relay = relay.env(endpoint, "https://collector:4318").start().await;
    relay.logged("https://collector:4318").await;
    ready(&address, 200).await;

    let gone = format!("http://127.0.0.1:{}", data::free_port());
    for (collector, told) in [("https://collector:4318", "so traces are off"), (&gone, "traces are lost")] {
        let get = gantry(["get", "s/object", "-o", "-"]).nats(&nats).env(endpoint, collector);
        let said = get.run().await.expect_code(0).stderr;
        assert_eq!(said.lines().filter(|line| line.contains("WARN")).count(), 1, "{said}");
        assert!(said.contains(told), "{said}");
        let url = format!("http://{address}/readyz");
        let said = gantry(["health", "--url", &url]).env(endpoint, collector).run().await.expect_code(0).stderr;
        assert_eq!(said, "");
    }
    let off = gantry(["get", "s/object", "-o", "-"]).nats(&nats).env(endpoint, &gone).env("OTEL_SDK_DISABLED", "true");
    let said = off.run().await.expect_code(0).stderr;
    assert!(!said.contains("WARN"), "{said}");
    let own = gantry(["get", "s/object", "-o", "-"]).nats(&nats);
    own.env("GANTRY_TELEMETRY__OTLP_ENDPOINT", "https://collector:4318").run().await.expect_code(2);
}

/// Opens a named pipe for reading, and also for writing, so that opening does not block.
fn hold(pipe: &Path) -> (std::fs::File, std::fs::File) {
    let both = std::fs::OpenOptions::new().read(true).write(true).open(pipe).unwrap();
    let reader = std::fs::File::open(pipe).unwrap();
    (reader, both)
}

fn read_all(mut pipe: std::fs::File) -> Vec<u8> {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut pipe, &mut bytes).unwrap();
    bytes
}
