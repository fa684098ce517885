//! The nats-server configurations of `deploy/nats`, unchanged, on real servers: which users may download, which may
//! not, and which errors they get.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::timeout;

use crate::support::doc::assert_documented;
use crate::support::gantry::{Command, Output, RelayBuilder};
use crate::support::nats::NatsVersion;
use crate::support::{DEADLINE, Nats, NatsOptions, Relay, data, gantry, until};

/// All password variables in `deploy/nats`. Each password is its variable's name in lower case.
const PASSWORDS: [&str; 7] = [
    "RELAY_PASSWORD",
    "DEVICE1_PASSWORD",
    "DEVICE2_PASSWORD",
    "MONITOR_PASSWORD",
    "LINE1_PASSWORD",
    "LINE2_PASSWORD",
    "SYS_PASSWORD",
];

/// More than the largest window, so that the download needs further credit.
const LARGE: u64 = 40 << 20;

/// The time limit for a refusal, which is an answer and not a timeout.
const PROMPT: Duration = Duration::from_secs(10);

/// A nats-server with one of the configurations, and a directory for each store.
struct Site {
    nats: Nats,
    folder: tempfile::TempDir,
}

impl Site {
    async fn start(config: &str) -> Self {
        Self::start_on(NatsVersion::Current, config).await
    }

    async fn start_on(version: NatsVersion, config: &str) -> Self {
        Self::start_with(version, shipped(config)).await
    }

    async fn start_with(version: NatsVersion, config: String) -> Self {
        let folder = data::folder();
        let (authority, certificate, key) = certificates();
        std::fs::write(folder.path().join("ca.crt"), authority).unwrap();
        for store in ["firmware", "models"] {
            std::fs::create_dir(folder.path().join(store)).unwrap();
            data::random_file(&folder.path().join(store).join("large.bin"), 1, LARGE);
        }
        let options = NatsOptions {
            version,
            config,
            files: vec![("tls/tls.crt", certificate), ("tls/tls.key", key)],
            env: PASSWORDS.iter().map(|name| (*name, name.to_lowercase())).collect(),
            ..NatsOptions::default()
        };
        Self { nats: Nats::start(options).await, folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The environment of this user's `gantry`.
    fn env(&self, user: &str) -> [(&'static str, String); 4] {
        [
            ("NATS_URL", self.nats.url()),
            ("NATS_USER", user.to_owned()),
            ("NATS_PASSWORD", format!("{user}_password")),
            ("NATS_CA", self.file("ca.crt").display().to_string()),
        ]
    }

    /// Prepares `gantry ARGS…` as a user with their own inbox prefix.
    fn gantry<const N: usize>(&self, user: &str, args: [&str; N]) -> Command {
        let inbox = ["--inbox-prefix".to_owned(), format!("_INBOX.{user}")];
        self.gantry_in_any_inbox(user, inbox.into_iter().chain(args.map(str::to_owned)))
    }

    fn gantry_in_any_inbox(&self, user: &str, args: impl IntoIterator<Item = String>) -> Command {
        self.env(user).into_iter().fold(gantry(args), |command, (name, value)| command.env(name, value))
    }

    /// Downloads to a file, and compares it with the object.
    async fn download(&self, user: &str, object: &str) {
        let target = self.file(&format!("got-by-{user}"));
        self.gantry(user, ["get", object, "-o"]).arg(&target).run().await.expect_code(0);
        data::assert_same_file(&target, &self.file(object));
    }

    /// Runs `gantry COMMAND OBJECT`, which must fail promptly with this code, and returns its error output.
    async fn refused(&self, user: &str, code: i32, command: &str, object: &str) -> String {
        let output: &[&str] = if command == "get" { &["-o", "-"] } else { &[] };
        let command = output.iter().fold(self.gantry(user, [command, object]), Command::arg);
        promptly(command.run().await.expect_code(code))
    }

    /// Connects as this user, and returns the connection and the user's inbox prefix.
    async fn client(&self, user: &str) -> async_nats::Client {
        async_nats::ConnectOptions::with_user_and_password(user.to_owned(), format!("{user}_password"))
            .add_root_certificates(self.file("ca.crt"))
            .custom_inbox_prefix(format!("_INBOX.{user}"))
            .connect(self.nats.url())
            .await
            .unwrap()
    }

    /// Prepares a relay. `probe` is the user that checks whether it is running.
    async fn relay_builder(&self, probe: &str, stores: &[&str]) -> RelayBuilder {
        let relay = Relay::on(&self.nats).probe(self.client(probe).await);
        let relay = self.env("relay").into_iter().fold(relay, |relay, (name, value)| relay.env(name, value));
        stores.iter().fold(relay, |relay, store| relay.store(store, format!("file://{}", self.file(store).display())))
    }

    /// Runs `gantry serve --check` as the relay.
    async fn check(&self) -> Output {
        let store = format!("--store=firmware=file://{}", self.file("firmware").display());
        self.gantry_in_any_inbox("relay", ["serve", "--check", "--http=off", &store].map(str::to_owned)).run().await
    }

    async fn relay(&self, probe: &str, stores: &[&str]) -> Relay {
        self.relay_builder(probe, stores).await.start().await
    }
}

#[tokio::test]
async fn a_user_with_permission_downloads() {
    let site = Site::start("server.conf").await;
    let _relay = site.relay("monitor", &["firmware", "models"]).await;

    site.download("device1", "firmware/large.bin").await;
    site.download("device2", "models/large.bin").await;

    let listed = site.gantry("device1", ["ls", "firmware"]).run().await.expect_code(0);
    assert!(listed.stdout_text().contains("large.bin"), "{}", listed.stdout_text());
    site.gantry("device1", ["stat", "firmware/large.bin"]).run().await.expect_code(0);
}

#[tokio::test]
async fn a_missing_permission_is_distinguished_from_a_missing_object() {
    let site = Site::start("server.conf").await;
    let mut relay = site.relay("monitor", &["firmware"]).await;

    for command in ["get", "stat", "ls"] {
        let said = site.refused("device1", 8, command, "models/large.bin").await;
        assert!(said.contains("denies") && said.contains("models"), "{said}");
    }
    let said = site.refused("device1", 4, "get", "firmware/none.bin").await;
    assert!(said.contains("none.bin"), "{said}");
    let said = site.refused("device2", 4, "get", "models/large.bin").await;
    assert!(said.contains("models"), "{said}");

    // The user's inbox prefix is not the default.
    let get = ["get", "firmware/large.bin", "-o", "-"];
    let command = site.gantry_in_any_inbox("device1", get.map(str::to_owned));
    let said = promptly(command.run().await.expect_code(8));
    assert!(said.contains("_INBOX."), "{said}");

    let command = site.gantry("device1", get).env("NATS_PASSWORD", "wrong");
    promptly(command.run().await.expect_code(8));

    relay.signal("TERM");
    relay.wait().await;
    site.refused("device1", 5, "get", "firmware/large.bin").await;
}

#[tokio::test]
async fn users_can_not_read_each_others_chunks() {
    overhear("server.conf", "monitor", "device1", "device2").await;
}

#[tokio::test]
async fn users_of_the_importing_account_can_not_read_each_others_chunks() {
    overhear("import.conf", "line1", "line1", "line2").await;
}

/// Tries all ways in which a user could receive another user's chunks.
async fn overhear(config: &str, probe: &str, victim: &str, other: &str) {
    let site = Site::start(config).await;
    let _relay = site.relay(probe, &["firmware", "models"]).await;
    let eavesdropper = site.client(other).await;
    let mut own = eavesdropper.subscribe(format!("_INBOX.{other}.>")).await.unwrap();
    let inbox = format!("_INBOX.{victim}.>");
    let mut heard = Vec::new();
    for subject in [
        ">",
        "_INBOX.>",
        "_INBOX.*.*",
        &inbox,
        "_R_.>",
        "gantry.>",
        "gantry.v1.ctl.*.*",
        "gantry.v1.gone.*.*",
        "$SRV.>",
    ] {
        heard.push(eavesdropper.subscribe(subject.to_owned()).await.unwrap());
        denied(&site, other, "Subscription", subject).await;
    }
    // A user can't join the relays' queue group either.
    heard.push(eavesdropper.queue_subscribe("gantry.v1.get.*", "gantry".into()).await.unwrap());
    denied(&site, other, "Subscription", "gantry.v1.get.*").await;

    site.download(victim, "firmware/large.bin").await;

    // Messages sent to the eavesdropper earlier arrive before the answer.
    let end = format!("_INBOX.{other}.end");
    eavesdropper.publish_with_reply("$SRV.PING.gantry", end.clone(), "".into()).await.unwrap();
    let first = timeout(DEADLINE, own.next()).await.unwrap().unwrap();
    assert_eq!(first.subject.as_str(), end);
    for subscription in &mut heard {
        let message = timeout(Duration::from_millis(1), subscription.next()).await;
        assert!(matches!(message, Err(_) | Ok(None)), "{message:?}");
    }
}

#[tokio::test]
async fn users_can_not_publish_without_permission() {
    let site = Site::start("server.conf").await;
    let importing = Site::start("import.conf").await;

    for (site, user, subject) in [
        (&site, "device2", "_INBOX.device1.x"),
        (&site, "device2", "gantry.v1.get.firmware"),
        (&site, "device1", "orders.new"),
        (&site, "device1", "gantry.v1.gone.a.b"),
        (&site, "monitor", "gantry.v1.get.firmware"),
        (&site, "relay", "orders.new"),
        (&site, "relay", "gantry.v1.get.firmware"),
        (&site, "relay", "$SRV.PING"),
        (&importing, "line2", "_INBOX.line1.x"),
        (&importing, "line2", "_R_.x"),
        (&importing, "line1", "gantry.v1.gone.a.b"),
        (&importing, "line2", "gantry.v1.get.firmware"),
        (&importing, "relay", "gantry.v1.get.firmware"),
    ] {
        let client = site.client(user).await;
        client.publish(subject, "".into()).await.unwrap();
        denied(site, user, "Publish", subject).await;
    }
}

/// `allow_responses` would permit this.
#[tokio::test]
async fn a_relay_answers_to_inboxes_only() {
    let site = Site::start("server.conf").await;
    let relay = site.client("relay").await;
    let mut requests = relay.queue_subscribe("gantry.v1.get.firmware", "gantry".into()).await.unwrap();
    relay.flush().await.unwrap();
    let device = site.client("device1").await;
    until("the request", async || {
        device.publish_with_reply("gantry.v1.get.firmware", "orders.new", "{}".into()).await.unwrap();
        timeout(Duration::from_millis(100), requests.next()).await.ok().flatten()
    })
    .await;

    relay.publish("orders.new", "bytes".into()).await.unwrap();

    denied(&site, "relay", "Publish", "orders.new").await;
}

/// The check once tested permissions that a relay does not need, and not those that it needs.
#[tokio::test]
async fn the_check_requires_only_the_granted_permissions() {
    for config in ["server.conf", "import.conf"] {
        let said = Site::start(config).await.check().await.expect_code(0);
        let text = said.stdout_text();
        assert!(text.contains("nats: connected") && text.contains("all rights"), "{config}: {text}");
    }
}

#[tokio::test]
async fn the_check_names_each_missing_permission() {
    let cases = [
        (r#""gantry.v1.get.* gantry""#, "", 2, r#"to subscribe to "gantry.v1.get.firmware""#),
        (r#""gantry.v1.get.* gantry""#, r#""gantry.v1.get.* others""#, 2, "gantry.v1.get.firmware"),
        (r#""gantry.v1.ctl.*.*""#, "", 2, r#"to subscribe to "gantry.v1.ctl."#),
        (r#"allow: ["_INBOX.>", "_R_.>", "#, r#"allow: ["_R_.>", "#, 2, r#"to publish to "_INBOX.gantry-check."#),
        (r#"allow: ["_INBOX.>", "_R_.>", "#, r#"allow: ["_INBOX.>", "#, 0, r#"to publish to "_R_.gantry-check."#),
        (r#""gantry.v1.gone.*.*""#, "", 0, r#"to subscribe to "gantry.v1.gone."#),
        (r#""$SRV.PING", "#, "", 0, r#"to subscribe to "$SRV.PING""#),
        (r#""gantry.v1.list.* gantry""#, "", 0, r#"to subscribe to "gantry.v1.list.firmware""#),
    ];
    for (grant, instead, code, named) in cases {
        let granted = shipped("server.conf");
        assert!(granted.contains(grant), "{grant} is not in server.conf");
        let config = granted.replacen(grant, instead, 1);
        let site = Site::start_with(NatsVersion::Current, config).await;

        let said = site.check().await.expect_code(code);
        let text = if code == 0 { said.stdout_text() } else { said.stderr.clone() };
        assert!(text.contains(named), "{named} without {grant}: {text}");
        assert!(code == 0 || text.contains("`nats.user` = \"relay\" in NATS_USER"), "{text}");
        // The other refusals name subjects that contain a random part.
        if named.contains("gantry.v1.get.firmware") {
            assert_documented(&text, &[]);
        }
    }
}

#[tokio::test]
async fn the_check_names_the_key_when_one_side_does_not_trust_the_other() {
    let site = Site::start("server.conf").await;
    let store = format!("--store=firmware=file://{}", site.file("firmware").display());
    for (variable, value, named, cure) in [
        ("NATS_CA", "", "`nats.tls_ca_file` is not set", "authority that signed"),
        ("NATS_PASSWORD", "wrong", "`nats.user` = \"relay\" in NATS_USER", "check these credentials"),
    ] {
        let args = ["serve", "--check", "--http=off", &store].map(str::to_owned);
        let said = site.gantry_in_any_inbox("relay", args).env(variable, value).run().await.expect_code(2).stderr;
        assert!(said.contains(named) && said.contains(cure), "{said}");
        let address = site.nats.url();
        assert_documented(&said, &[(address.rsplit_once("//").unwrap().1, "127.0.0.1:4222")]);
    }
}

#[tokio::test]
async fn another_account_downloads_through_its_import() {
    let site = Site::start("import.conf").await;
    let _relay = site.relay("line1", &["firmware", "models"]).await;

    site.download("line1", "firmware/large.bin").await;
    let listed = site.gantry("line1", ["ls", "firmware"]).run().await.expect_code(0);
    assert!(listed.stdout_text().contains("large.bin"), "{}", listed.stdout_text());
    site.gantry("line2", ["stat", "firmware/large.bin"]).run().await.expect_code(0);

    site.refused("line1", 4, "get", "firmware/none.bin").await;
    site.refused("line1", 8, "get", "models/large.bin").await;
    site.refused("line2", 8, "get", "firmware/large.bin").await;
    // The user may publish the request, but the account does not import that store, so nobody answers.
    site.refused("line2", 4, "get", "models/large.bin").await;
}

#[tokio::test]
async fn a_missing_relay_is_reported_to_another_account() {
    let site = Site::start("import.conf").await;
    let line1 = site.client("line1").await;
    let mut inbox = line1.subscribe("_INBOX.line1.>").await.unwrap();
    // A dead relay is reported like a missing one: credit is answered with a `503` at once, too.
    let dead = "gantry.v1.ctl.0123456789abcdef0123456789abcdef.01234567-89ab-cdef-0123-456789abcdef";
    for subject in ["gantry.v1.get.firmware", dead] {
        line1.publish_with_reply(subject, "_INBOX.line1.x", "{}".into()).await.unwrap();
        let answer = timeout(DEADLINE, inbox.next()).await.unwrap().unwrap();
        assert_eq!(answer.status, Some(async_nats::StatusCode::NO_RESPONDERS), "{subject}");
    }
    site.refused("line1", 5, "get", "firmware/large.bin").await;
}

/// Through an import, nats-server does not report to the relay that a consumer is gone. The relay's own timer ends the
/// transfer.
#[tokio::test]
async fn a_dead_consumer_of_another_account_frees_the_relay() {
    let site = Site::start("import.conf").await;
    let relay =
        site.relay_builder("line1", &["firmware"]).await.env("GANTRY_RELAY__IDLE_TIMEOUT_MS", "2000").start().await;
    let consumer = site.client("line1").await;
    let mut inbox = consumer.subscribe("_INBOX.line1.x").await.unwrap();
    let request = r#"{"key":"large.bin","credit":1000000}"#;
    consumer.publish_with_reply("gantry.v1.get.firmware", "_INBOX.line1.x", request.into()).await.unwrap();
    let accepted = timeout(DEADLINE, inbox.next()).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&accepted.payload).contains("gantry.v1.ctl."));

    drop((inbox, consumer));

    relay.logged("idle").await;
}

#[tokio::test]
async fn debians_nats_server_serves_both_configurations() {
    let site = Site::start_on(NatsVersion::Debian, "server.conf").await;
    let _relay = site.relay("monitor", &["firmware"]).await;
    site.download("device1", "firmware/large.bin").await;
    site.refused("device1", 8, "get", "models/large.bin").await;

    let site = Site::start_on(NatsVersion::Debian, "import.conf").await;
    let _relay = site.relay("line1", &["firmware"]).await;
    site.download("line1", "firmware/large.bin").await;
}

/// Reads a configuration of `deploy/nats`.
fn shipped(name: &str) -> String {
    std::fs::read_to_string(root().join("deploy/nats").join(name)).unwrap()
}

fn promptly(output: Output) -> String {
    assert!(output.elapsed < PROMPT, "took {:?}: {}", output.elapsed, output.stderr);
    output.stderr
}

/// Waits until nats-server's log reports that it denied this to the user.
async fn denied(site: &Site, user: &str, what: &str, subject: &str) {
    until(&format!("nats-server's refusal of {subject:?} to {user}"), async || {
        let log = site.nats.log();
        let refused = log.lines().any(|line| {
            line.contains(&format!("{what} Violation"))
                && line.contains(user)
                && line.contains(&format!("\"{subject}\""))
        });
        refused.then_some(())
    })
    .await;
}

/// A certificate authority, and a certificate and key that it issued for 127.0.0.1, in PEM.
fn certificates() -> (String, String, String) {
    let mut authority = rcgen::CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let authority_cert = authority.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let cert = params.signed_by(&key, &issuer).unwrap();
    (authority_cert.pem(), cert.pem(), key.serialize_pem())
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
