//! Common NATS setups: WebSocket, clusters with TLS, account limits, missing permissions, revoked credentials, and
//! relays that restart.

use std::path::PathBuf;
use std::time::Duration;

use gantry_bus::nats::{self, Options};
use gantry_bus::{Bus, Event};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use crate::bus::{Tls, message, next, of, round_trip};
use crate::support::gantry::{Command, RelayBuilder};
use crate::support::{DEADLINE, Nats, NatsOptions, Relay, data, gantry, until};

/// More than a connection's largest window, so that the download needs further credit.
const LARGE: u64 = 30 << 20;

/// The time limit for something that needs no timeout.
const SOON: Duration = Duration::from_secs(10);

/// A nats-server, and a directory with the file `large`, which relays serve as the store `files`.
struct Field {
    nats: Nats,
    folder: tempfile::TempDir,
    downloads: tempfile::TempDir,
}

impl Field {
    async fn with(config: impl Into<String>) -> Self {
        Self::on(Nats::start(NatsOptions { config: config.into(), ..NatsOptions::default() }).await)
    }

    fn on(nats: Nats) -> Self {
        let folder = data::folder();
        data::random_file(&folder.path().join("large"), 1, LARGE);
        std::fs::write(folder.path().join("small"), "hello").unwrap();
        Self { nats, folder, downloads: data::folder() }
    }

    /// Prepares a relay at this address.
    fn relay_at(&self, url: impl Into<String>) -> RelayBuilder {
        Relay::at(url).store("files", format!("file://{}", self.folder.path().display()))
    }

    /// Prepares a relay that logs in as a user.
    async fn relay_as(&self, user: &str) -> RelayBuilder {
        let probe = async_nats::ConnectOptions::with_user_and_password(user.to_owned(), "p".to_owned());
        let probe = probe.connect(self.nats.url()).await.unwrap();
        self.relay_at(self.nats.url()).probe(probe).env("NATS_USER", user).env("NATS_PASSWORD", "p")
    }

    /// Prepares a command that logs in as a user.
    fn command_as(&self, user: &str, args: &[&str]) -> Command {
        gantry(args).nats(&self.nats).env("NATS_USER", user).env("NATS_PASSWORD", "p")
    }

    fn target(&self) -> PathBuf {
        self.downloads.path().join("file")
    }

    fn assert_downloaded(&self) {
        data::assert_same_file(&self.folder.path().join("large"), &self.target());
    }
}

/// Returns a path as an argument.
fn arg(path: &std::path::Path) -> String {
    path.display().to_string()
}

#[tokio::test]
async fn downloads_work_over_websocket() {
    let port = data::free_port();
    let field = Field::with(format!("websocket {{ listen: \"127.0.0.1:{port}\", no_tls: true }}")).await;
    let url = format!("ws://127.0.0.1:{port}");
    let _relay = field.relay_at(&url).probe(field.nats.client().await).start().await;

    gantry(["get", "files/large", "-o", &arg(&field.target()), "--server", &url]).run().await.expect_code(0);

    field.assert_downloaded();
}

/// An edge site behind a firewall that permits HTTPS only, which may also route by path.
#[tokio::test]
async fn downloads_work_over_websocket_with_tls() {
    let tls = Tls::for_names(["localhost"]);
    let port = data::free_port();
    let config = format!("websocket {{ listen: \"127.0.0.1:{port}\"\n tls {{ {} }} }}", tls.config(""));
    let field = Field::with(format!("authorization {{ user: u, password: p }}\n{config}")).await;
    let url = format!("wss://u:p@localhost:{port}/edge");
    let relay = field
        .relay_as("u")
        .await
        .arg("--server")
        .arg(&url)
        .arg("--tlsca")
        .arg(&tls.ca)
        .env("GANTRY_HTTP__LISTEN", "off")
        .start()
        .await;

    let get = gantry(["get", "files/large", "-o", &arg(&field.target()), "--server", &url]);
    get.arg("--tlsca").arg(&tls.ca).run().await.expect_code(0);

    field.assert_downloaded();
    assert!(!relay.stderr().contains("WARN"), "{}", relay.stderr());
}

#[tokio::test]
async fn a_websocket_connection_is_restored() {
    let port = data::free_port();
    let config = format!("websocket {{ listen: \"127.0.0.1:{port}\", no_tls: true }}");
    let mut server = Nats::start(NatsOptions { config, ..NatsOptions::default() }).await;
    let options = Options { servers: vec![format!("ws://127.0.0.1:{port}")], ..Options::default() };
    let bus = nats::connect(options).await.unwrap();
    let mut subscription = bus.subscribe("a", None).await.unwrap();
    let mut status = bus.status();

    server.kill().await;
    server.restart().await;
    timeout(DEADLINE, status.wait_for(|status| status.connected && status.epoch == 2)).await.unwrap().unwrap();

    round_trip(&bus).await;
    bus.publish(message("a", "again")).await.unwrap();
    assert_eq!(next(&mut subscription).await.payload, "again");
}

/// nats-server names the members of its cluster by their IP addresses, which these certificates do not contain.
#[tokio::test]
async fn members_of_a_cluster_may_have_certificates_with_host_names_only() {
    let tls = Tls::for_names(["localhost"]);
    let routes = data::free_ports::<2>();
    let node = |index: usize| {
        let other = routes[1 - index];
        let own = routes[index];
        format!(
            "server_name: n{index}\ncluster {{ name: it, listen: \"127.0.0.1:{own}\", routes: [nats-route://127.0.0.1:{other}] }}\n\
             tls {{ {} }}",
            tls.config("")
        )
    };
    let start = async |index| Nats::start(NatsOptions { config: node(index), ..NatsOptions::default() }).await;
    let mut first = start(0).await;
    let second = start(1).await;
    until("both members in the greeting", async || (members(first.port()).await.len() == 2).then_some(())).await;

    let servers = vec![format!("tls://localhost:{}", first.port())];
    let bus = nats::connect(Options { servers, tls_ca: Some(tls.ca.clone()), ..Options::default() }).await.unwrap();
    let mut status = bus.status();
    first.kill().await;
    timeout(DEADLINE, status.wait_for(|status| status.connected && status.epoch == 2)).await.unwrap().unwrap();

    round_trip(&bus).await;
    assert!(bus.server().ends_with(&second.port().to_string()), "{}", bus.server());

    // A certificate of another authority is not accepted.
    drop(second);
    let stranger = Tls::for_names(["localhost"]);
    let options = Options { tls_ca: Some(stranger.ca.clone()), ..of(&start(1).await) };
    assert!(nats::connect(options).await.is_err());
}

/// As when a cluster moves to other machines: in the end, nobody listens at the addresses that clients were given.
#[tokio::test]
async fn clients_follow_a_cluster_whose_nodes_are_replaced_one_by_one() {
    let [a, b, c, d] = data::free_ports();
    let node = async |own: u16, other: u16| {
        let routes = format!("routes: [nats-route://127.0.0.1:{other}]");
        let config = format!("server_name: n{own}\ncluster {{ name: it, listen: \"127.0.0.1:{own}\", {routes} }}");
        Nats::start(NatsOptions { config, ..NatsOptions::default() }).await
    };
    let are_known = async |server: &Nats, count: usize| {
        let known = async || (members(server.port()).await.len() == count).then_some(());
        until("the members in the greeting", known).await;
    };

    let (first, mut second) = (node(a, b).await, node(b, a).await);
    are_known(&first, 2).await;
    let mut field = Field::on(first);
    let _relay = field.relay_at(field.nats.url()).probe(second.client().await).start().await;
    let bus = nats::connect(of(&field.nats)).await.unwrap();
    let mut status = bus.status();

    let third = node(c, b).await;
    are_known(&third, 3).await;
    field.nats.stop().await;
    timeout(DEADLINE, status.wait_for(|status| status.connected && status.epoch == 2)).await.unwrap().unwrap();

    let fourth = node(d, c).await;
    are_known(&fourth, 3).await;
    let left = second.port().to_string();
    second.stop().await;
    let has_moved = async || (status.borrow().connected && !bus.server().ends_with(&left)).then_some(());
    until("a connection to a new node", has_moved).await;

    round_trip(&bus).await;
    gantry(["get", "files/large", "-o", &arg(&field.target())]).nats(&fourth).run().await.expect_code(0);
    field.assert_downloaded();
    drop(third);
}

/// Returns the members of the cluster that nats-server names in its greeting.
async fn members(port: u16) -> Vec<Value> {
    let mut line = String::new();
    let Ok(stream) = TcpStream::connect(("127.0.0.1", port)).await else { return Vec::new() };
    if BufReader::new(stream).read_line(&mut line).await.is_err() {
        return Vec::new();
    }
    let info: Value = serde_json::from_str(line.trim_start_matches("INFO ").trim()).unwrap_or_default();
    info["connect_urls"].as_array().cloned().unwrap_or_default()
}

/// The first address never answers. It once used up the whole time for the connection.
#[tokio::test]
async fn an_address_that_never_answers_leaves_time_for_the_others() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Nats::plain().await;
    for _ in 0..4 {
        let servers = vec![silent.local_addr().unwrap().to_string(), server.url()];
        let begun = Instant::now();
        nats::connect(Options { servers, ..Options::default() }).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    }
}

/// nats-server waits only some seconds for the credentials, which are late on a slow link or a busy machine.
#[tokio::test]
async fn a_server_that_the_credentials_reached_too_late_is_tried_again() {
    let server = Nats::plain().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let servers = vec![listener.local_addr().unwrap().to_string()];
    let upstream = server.url().trim_start_matches("nats://").to_owned();
    let late = tokio::spawn(async move {
        let (mut first, _) = listener.accept().await.unwrap();
        let info = r#"INFO {"server_id":"A","version":"2.14.0","proto":1,"headers":true,"max_payload":1048576}"#;
        first.write_all(format!("{info}\r\n-ERR 'Authentication Timeout'\r\n").as_bytes()).await.unwrap();
        drop(tokio::io::copy(&mut first, &mut tokio::io::sink()).await);

        let (mut second, _) = listener.accept().await.unwrap();
        let mut to_server = TcpStream::connect(upstream).await.unwrap();
        drop(tokio::io::copy_bidirectional(&mut second, &mut to_server).await);
    });

    let bus = timeout(SOON, nats::connect(Options { servers, ..Options::default() })).await.unwrap().unwrap();
    bus.flush().await.unwrap();
    late.abort();
}

/// nats-server closes the connection at each larger message, and async-nats does not learn the limit.
#[tokio::test]
async fn the_lower_payload_limit_of_an_account_is_known_before_the_first_transfer() {
    let config = "accounts { A { users: [{ user: u, password: p }], limits { max_payload: 64KB } } }";
    let field = Field::with(config).await;
    let relay = field.relay_as("u").await.start().await;

    let begun = Instant::now();
    let get = field.command_as("u", &["get", "files/large", "--json", "-o", &arg(&field.target())]);
    let first = get.run().await.expect_code(0);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(first.json()["recoveries"], 0, "{}", first.stdout_text());
    field.assert_downloaded();
    assert!(relay.stderr().contains("limit=65536"), "{}", relay.stderr());
}

#[tokio::test]
async fn the_check_finds_the_payload_limit_of_an_account() {
    let config = "accounts { A { users: [{ user: u, password: p }], limits { max_payload: 100000 } } }";
    let field = Field::with(config).await;
    let store = format!("files=file://{}", field.folder.path().display());
    let check = || field.command_as("u", &["serve", "--check", "--store", &store]);

    let output = check().run().await.expect_code(2);
    assert!(output.stderr.contains("`relay.chunk_max_bytes`") && output.stderr.contains("65536"), "{}", output.stderr);

    check().env("GANTRY_RELAY__CHUNK_MAX_BYTES", "61440").run().await.expect_code(0);
}

#[tokio::test]
async fn a_download_without_permission_for_control_messages_is_denied_at_once() {
    let consumer = "permissions: { publish: [\"gantry.v1.get.files\"], subscribe: [\"_INBOX.>\"] }";
    let config =
        format!("authorization {{ users: [{{ user: relay, password: p }}, {{ user: u, password: p, {consumer} }}] }}");
    let field = Field::with(config).await;
    let _relay = field.relay_as("relay").await.start().await;

    let get = field.command_as("u", &["get", "files/large", "-o", &arg(&field.target())]).run();
    let output = get.await.expect_code(8);
    assert!(output.elapsed < SOON, "{:?}", output.elapsed);
    assert!(output.stderr.contains("denies publishing to \"gantry.v1.ctl."), "{}", output.stderr);
    assert!(output.stderr.contains("to gantry.v1.ctl.*.*"), "{}", output.stderr);

    // The first credit covers a small object.
    field.command_as("u", &["get", "files/small", "-o", &arg(&field.target())]).run().await.expect_code(0);
}

#[tokio::test]
async fn ping_names_a_missing_permission_to_download() {
    let listing = "permissions: { publish: [\"gantry.v1.list.files\", \"$SRV.>\"], subscribe: [\"_INBOX.>\"] }";
    let config =
        format!("authorization {{ users: [{{ user: relay, password: p }}, {{ user: u, password: p, {listing} }}] }}");
    let field = Field::with(config).await;
    let _relay = field.relay_as("relay").await.start().await;

    field.command_as("u", &["ls", "files"]).run().await.expect_code(0);
    let output = field.command_as("u", &["ping", "files"]).run().await.expect_code(8);
    assert!(output.stderr.contains("denies publishing to \"gantry.v1.get.files\""), "{}", output.stderr);
    field.command_as("relay", &["ping", "files"]).run().await.expect_code(0);
}

#[tokio::test]
async fn ping_tests_a_store_although_asking_for_relays_is_denied() {
    let downloading =
        "permissions: { publish: [\"gantry.v1.*.files\", \"gantry.v1.ctl.>\"], subscribe: [\"_INBOX.>\"] }";
    let config = format!(
        "authorization {{ users: [{{ user: relay, password: p }}, {{ user: u, password: p, {downloading} }}] }}"
    );
    let field = Field::with(config).await;
    let _relay = field.relay_as("relay").await.start().await;

    let output = field.command_as("u", &["ping", "files"]).run().await.expect_code(0).stdout_text();
    let steps: Vec<_> = output.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(steps, ["server", "permissions", "store", "get"], "{output}");
    assert!(output.contains("$SRV.INFO.gantry"), "{output}");

    // Without a store, only the relays show that anything works.
    field.command_as("u", &["ping"]).run().await.expect_code(8);
}

#[tokio::test]
async fn revoked_credentials_end_a_download_soon() {
    let config = |users: &str| format!("authorization {{ users: [{{ user: relay, password: p }}{users}] }}");
    let mut field = Field::with(config(", { user: u, password: p }")).await;
    let _relay = field.relay_as("relay").await.start().await;
    let target = arg(&field.target());
    let get = field.command_as("u", &["get", "files/large", "-o", &target, "--limit-rate", "1M"]).spawn();
    let part = field.downloads.path().join(".file.gantry-part");
    until("a part file with bytes", async || std::fs::metadata(&part).is_ok_and(|part| part.len() > 0).then_some(()))
        .await;

    let revoked = Instant::now();
    field.nats.set_config(config(""));
    field.nats.signal("HUP");

    let output = get.output().await.expect_code(8);
    assert!(revoked.elapsed() < 2 * SOON, "{:?}", revoked.elapsed());
    assert!(output.stderr.to_lowercase().contains("authorization violation"), "{}", output.stderr);
    // The loss, why it could not be restored, and the failure.
    assert!(output.stderr.lines().count() <= 3, "{}", output.stderr);
}

#[tokio::test]
async fn a_store_whose_only_relay_restarts_is_not_missing() {
    let field = Field::with("").await;
    let _other = field.relay_at(field.nats.url()).start().await;
    let folder = data::folder();
    let url = format!("file://{}", folder.path().display());
    let mut only = Relay::on(&field.nats).store("single", url).start().await;
    let stat = |key: &'static str| gantry(["stat", key]).nats(&field.nats).run();
    // Each relay looks for others two seconds after its start.
    let info = field.nats.client().await;
    let mut questions = info.subscribe("$SRV.INFO.gantry").await.unwrap();
    for _ in 0..2 {
        timeout(DEADLINE, futures_util::StreamExt::next(&mut questions)).await.unwrap().unwrap();
    }

    only.signal("TERM");
    only.wait().await;

    let output = stat("single/key").await.expect_code(5);
    assert!(output.stderr.contains("no relay serves store single at the moment"), "{}", output.stderr);
    let output = stat("typo/key").await.expect_code(4);
    assert!(output.stderr.contains("no relay serves store typo, only files"), "{}", output.stderr);
    assert!(output.elapsed < Duration::from_secs(3), "{:?}", output.elapsed);
}

#[tokio::test]
async fn a_missing_relay_is_reported_with_server_and_prefix() {
    let nats = Nats::plain().await;
    let output = gantry(["stat", "files/key"]).nats(&nats).run().await.expect_code(5);
    let expected = format!("no relay is listening at {} with the prefix gantry", nats.url());
    assert!(output.stderr.contains(&expected), "{}", output.stderr);
}

#[tokio::test]
async fn an_inbox_that_the_user_may_not_subscribe_to_is_named_with_its_option() {
    let permissions = "permissions: { publish: [\">\"], subscribe: [\"mine.>\"] }";
    let field = Field::with(format!("authorization {{ users: [{{ user: u, password: p, {permissions} }}] }}")).await;
    let output = field.command_as("u", &["stat", "files/key"]).run().await.expect_code(8);
    assert!(output.stderr.contains("_INBOX.") && output.stderr.contains("--inbox-prefix"), "{}", output.stderr);
}

/// A process that may not start threads once panicked, and then hung forever.
#[tokio::test]
async fn a_limit_of_processes_is_reported_or_respected() {
    let field = Field::with("").await;
    let _relay = field.relay_at(field.nats.url()).start().await;
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    std::fs::set_permissions(field.downloads.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();

    for limit in [1, 2, 4, 5, 6, 8, 12] {
        // The limit counts all processes of a user, and does not apply to root.
        let uid = (61_000 + limit).to_string();
        let user = ["setpriv", "--reuid", &uid, "--clear-groups"];
        let nproc = format!("--nproc={limit}");
        let limited = ["prlimit", &*nproc];
        let words = if is_root { [&user[..], &limited[..]].concat() } else { limited.to_vec() };
        let target = field.downloads.path().join(limit.to_string());
        let get = gantry(["get", "files/large", "-o", &arg(&target)]).nats(&field.nats).env("HOME", "/");

        let output = get.through(words).deadline(Duration::from_secs(60)).run().await;

        match output.code {
            Some(0) => data::assert_same_file(&field.folder.path().join("large"), &target),
            code => {
                assert_eq!(code, Some(1), "{limit}: {}", output.stderr);
                assert!(output.stderr.contains("can't start a thread: "), "{limit}: {}", output.stderr);
                assert_eq!(output.stderr.lines().count(), 1, "{limit}: {}", output.stderr);
            }
        }
    }
}

/// nats-server refuses a publish where the subject is denied: the check of a full message must not hide that.
#[tokio::test]
async fn a_denied_delivery_prefix_is_still_reported_by_the_check() {
    let permissions = "permissions: { publish: { deny: [\"_INBOX.>\"] }, subscribe: [\">\"] }";
    let field = Field::with(format!("authorization {{ users: [{{ user: u, password: p, {permissions} }}] }}")).await;
    let store = format!("files=file://{}", field.folder.path().display());
    let output = field.command_as("u", &["serve", "--check", "--store", &store]).run().await.expect_code(2);
    assert!(output.stderr.contains("to publish to \"_INBOX."), "{}", output.stderr);
}

#[tokio::test]
async fn a_closed_bus_reports_why() {
    let config = |password: &str| format!("authorization {{ user: u, password: {password} }}");
    let mut server = Nats::start(NatsOptions { config: config("p"), ..NatsOptions::default() }).await;
    let servers = vec![server.url().replace("://", "://u:p@")];
    let options = Options { servers, refused_limit: Duration::from_millis(100), ..Options::default() };
    let bus = nats::connect(options).await.unwrap();
    let mut events = bus.events();

    server.set_config(config("other"));
    server.signal("HUP");

    let closed = async {
        loop {
            if let Event::Closed(reason) = events.recv().await.unwrap() {
                return reason;
            }
        }
    };
    let reason = timeout(SOON, closed).await.expect("the bus closes");
    assert!(reason.to_lowercase().contains("authorization violation"), "{reason}");
    let flushed = bus.flush().await;
    assert!(matches!(flushed, Err(gantry_bus::Error::Unauthorized { .. })), "{flushed:?}");
}
