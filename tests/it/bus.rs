//! The bus over real nats-servers.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use gantry_bus::nats::{self, Auth, Options};
use gantry_bus::{Bus, Error, Event, Message, NO_RESPONDERS, Status, Subscription};
use gantry_proto::Headers;
use nkeys::KeyPair;
use tokio::time::{Instant, timeout};

use crate::support::nats::NatsVersion;
use crate::support::{DEADLINE, Nats, NatsCluster, NatsOptions, data, until};

#[tokio::test]
async fn message_arrives_as_it_was_sent() {
    for version in [NatsVersion::Current, NatsVersion::Debian] {
        let server = Nats::start(NatsOptions { version, ..NatsOptions::default() }).await;
        let (one, other) = (connect(&server).await, connect(&server).await);
        let mut subscription = listening(&other, "a.*", None).await;
        let mut headers = Headers::default();
        headers.push("Gantry-Type", "chunk");
        headers.push("X-Other".to_owned(), "value with spaces, and ünicode");
        let sent = Message {
            subject: "a.b".to_owned(),
            reply: Some("back".to_owned()),
            headers,
            payload: data::random_bytes(1, 100_000),
            status: None,
        };

        one.publish(sent.clone()).await.unwrap();
        one.publish(message("a.b", "")).await.unwrap();

        let heard = next(&mut subscription).await;
        for (name, value) in sent.headers.iter() {
            assert_eq!(heard.headers.get(name), Some(value));
        }
        assert_eq!(heard.headers.iter().count(), 2);
        assert_eq!(Message { headers: sent.headers.clone(), ..heard }, sent);
        assert_eq!(next(&mut subscription).await, message("a.b", ""));
    }
}

#[tokio::test]
async fn publisher_learns_that_nobody_listens() {
    for version in [NatsVersion::Current, NatsVersion::Debian] {
        let server = Nats::start(NatsOptions { version, ..NatsOptions::default() }).await;
        let (one, other) = (connect(&server).await, connect(&server).await);
        let inbox = one.new_inbox();
        let mut replies = listening(&one, &inbox, None).await;
        let ask = |payload: &'static str| Message { reply: Some(inbox.clone()), ..message("a.b", payload) };

        one.publish(ask("nobody yet")).await.unwrap();
        let answer = next(&mut replies).await;
        assert_eq!((answer.status, answer.payload.len()), (Some(NO_RESPONDERS), 0));
        if version == NatsVersion::Current {
            assert_eq!(answer.headers.get("Nats-Subject"), Some("a.b"));
        }

        let mut subscription = listening(&other, "a.b", None).await;
        one.publish(ask("heard")).await.unwrap();
        assert_eq!(next(&mut subscription).await.payload, "heard");

        // Dropping a subscription unsubscribes.
        drop(subscription);
        round_trip(&other).await;
        one.publish(ask("nobody any more")).await.unwrap();
        assert_eq!(next(&mut replies).await.status, Some(NO_RESPONDERS));
    }
}

#[tokio::test]
async fn one_member_of_a_queue_group_receives_a_message() {
    let server = Nats::plain().await;
    let (one, other) = (connect(&server).await, connect(&server).await);
    let mut first = listening(&one, "a", Some("q")).await;
    let mut second = listening(&other, "a", Some("q")).await;
    let mut everything = listening(&one, ">", None).await;

    for _ in 0..50 {
        one.publish(message("a", "x")).await.unwrap();
    }

    for _ in 0..50 {
        let heard = async {
            tokio::select! { message = first.next() => message, message = second.next() => message }
        };
        assert!(timeout(DEADLINE, heard).await.unwrap().is_some());
        next(&mut everything).await;
    }
    round_trip(&one).await;
    round_trip(&other).await;
    assert!(first.next().now_or_never().is_none());
    assert!(second.next().now_or_never().is_none());
}

#[tokio::test]
async fn closed_subscription_yields_what_arrived_and_ends() {
    let server = Nats::plain().await;
    let bus = connect(&server).await;
    let mut subscription = listening(&bus, "a", None).await;
    for _ in 0..100 {
        bus.publish(message("a", "x")).await.unwrap();
    }
    round_trip(&bus).await;

    subscription.close();

    assert_eq!(timeout(DEADLINE, subscription.count()).await.unwrap(), 100);
}

#[tokio::test]
async fn subscriptions_come_back_after_a_restart_in_a_new_epoch() {
    let mut server = Nats::plain().await;
    let bus = connect(&server).await;
    let mut status = bus.status();
    assert_eq!(*status.borrow_and_update(), Status { connected: true, epoch: 1 });
    let mut subscription = listening(&bus, "a", None).await;

    server.kill().await;
    wait_for(&mut status, |status| !status.connected).await;
    server.restart().await;
    assert_eq!(wait_for(&mut status, |status| status.connected).await.epoch, 2);

    bus.publish(message("a", "again")).await.unwrap();
    assert_eq!(next(&mut subscription).await.payload, "again");
}

#[tokio::test]
async fn reconnect_makes_a_new_connection() {
    let server = Nats::plain().await;
    let bus = connect(&server).await;
    let mut status = bus.status();
    let mut subscription = listening(&bus, "a", None).await;

    bus.reconnect().await.unwrap();
    wait_for(&mut status, |status| status.connected && status.epoch == 2).await;

    bus.publish(message("a", "again")).await.unwrap();
    assert_eq!(next(&mut subscription).await.payload, "again");
}

#[tokio::test]
async fn a_server_in_lame_duck_mode_is_replaced_by_another() {
    let cluster = NatsCluster::start::<2>(NatsOptions::default()).await;
    let options = Options { servers: vec![cluster.nodes[0].url()], ..Options::default() };
    let bus = nats::connect(options).await.unwrap();
    let (mut status, mut events) = (bus.status(), bus.events());
    let other = connect(&cluster.nodes[1]).await;
    let mut subscription = listening(&bus, "a", None).await;

    cluster.nodes[0].signal("USR2");

    let event = timeout(DEADLINE, events.recv()).await.unwrap().unwrap();
    assert_eq!(event, Event::LameDuck);
    wait_for(&mut status, |status| status.connected && status.epoch > 1).await;
    // The subscription is known once a message that the same connection sent comes back.
    round_trip(&bus).await;
    other.publish(message("a", "here")).await.unwrap();
    assert_eq!(next(&mut subscription).await.payload, "here");
}

#[tokio::test]
async fn connection_closes_when_its_last_user_is_dropped() {
    let server = Nats::plain().await;
    let bus = connect(&server).await;
    let mut status = bus.status();
    let subscription = listening(&bus, "a", None).await;
    drop(subscription);
    drop(bus);
    let end = async { while status.changed().await.is_ok() {} };
    timeout(DEADLINE, end).await.expect("the connection lives on without a user");
}

#[tokio::test]
async fn denied_subjects_are_reported() {
    let config = "authorization { users: [{ user: u, password: p, permissions: {\
                  publish: { deny: [\"secret.>\"] }, subscribe: { deny: [\"secret.>\"] } } }] }";
    let server = with_config(config).await;
    let auth = Auth::UserPassword { user: "u".to_owned(), password: "p".to_owned() };
    let bus = nats::connect(Options { auth, ..of(&server) }).await.unwrap();
    let mut events = bus.events();
    let mut event = async || timeout(DEADLINE, events.recv()).await.unwrap().unwrap();

    bus.publish(message("secret.a", "x")).await.unwrap();
    assert_eq!(event().await, Event::PublishDenied("secret.a".to_owned()));
    let _plain = bus.subscribe("secret.*", None).await.unwrap();
    assert_eq!(event().await, Event::SubscribeDenied("secret.*".to_owned()));
    let _queue = bus.subscribe("secret.b", Some("q")).await.unwrap();
    assert_eq!(event().await, Event::SubscribeDenied("secret.b".to_owned()));
}

#[tokio::test]
async fn full_subscription_loses_messages_and_reports_it() {
    let server = Nats::plain().await;
    let bus = nats::connect(Options { subscription_messages: 2, ..of(&server) }).await.unwrap();
    let mut events = bus.events();
    let mut subscription = listening(&bus, "a", None).await;
    for payload in ["1", "2", "3"] {
        bus.publish(message("a", payload)).await.unwrap();
    }
    assert_eq!(timeout(DEADLINE, events.recv()).await.unwrap().unwrap(), Event::SlowConsumer);
    assert_eq!(next(&mut subscription).await.payload, "1");
    assert_eq!(next(&mut subscription).await.payload, "2");
    assert!(subscription.next().now_or_never().is_none());
}

#[tokio::test]
async fn max_payload_is_the_servers_and_counts_headers() {
    for max in [65_536, 8 << 20] {
        let server = Nats::start(NatsOptions { max_payload: Some(max as u64), ..NatsOptions::default() }).await;
        let bus = connect(&server).await;
        assert_eq!(bus.max_payload(), max);
        let mut subscription = listening(&bus, "a", None).await;
        let mut exact = message("a", "");
        exact.headers.push("Gantry-Seq", "1");
        exact.payload = data::random_bytes(1, max - exact.wire_len());
        assert_eq!(exact.wire_len(), max);
        let mut larger = exact.clone();
        larger.headers.push("A", "b");

        assert!(matches!(bus.publish(larger).await, Err(Error::TooLarge { len, max: limit })
            if len == max + 6 && limit == max));
        bus.publish(exact.clone()).await.unwrap();
        assert_eq!(next(&mut subscription).await.payload, exact.payload);
        assert_eq!(bus.status().borrow().epoch, 1, "the server hung up on a message that is not too large");
    }
}

#[tokio::test]
async fn invalid_messages_are_rejected() {
    let server = Nats::plain().await;
    let bus = connect(&server).await;
    let mut broken = message("a", "");
    broken.headers.push("Name", "two\r\nlines");
    assert!(matches!(bus.publish(broken).await, Err(Error::Header(name)) if name == "Name"));
    let mut broken = message("a", "");
    broken.headers.push("Na:me", "value");
    assert!(matches!(bus.publish(broken).await, Err(Error::Header(_))));
    for subject in ["", "a b", "a.*", "a..b"] {
        assert!(matches!(bus.publish(message(subject, "")).await, Err(Error::Subject(_))), "{subject:?}");
    }
    for subject in ["", "a b", "a..b"] {
        assert!(matches!(bus.subscribe(subject, None).await, Err(Error::Subject(_))), "{subject:?}");
    }
    let reply = Some("b c".to_owned());
    assert!(matches!(bus.publish(Message { reply, ..message("a", "") }).await, Err(Error::Subject(_))));
}

#[tokio::test]
async fn an_unreachable_server_fails_within_the_timeout() {
    let port = data::free_port();
    let begun = Instant::now();
    let options = Options {
        servers: vec![format!("nats://u:s3cret@127.0.0.1:{port}")],
        connect_timeout: Duration::from_millis(700),
        ..Options::default()
    };
    let error = nats::connect(options).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(3), "it took {:?}", begun.elapsed());
    assert!(matches!(&error, Error::Unreachable { servers, .. } if *servers == format!("nats://127.0.0.1:{port}")));
    assert!(error.to_string().contains("refused") && !error.to_string().contains("s3cret"), "{error}");
}

/// A listener that never sends anything. Only the timeout ends the attempt.
#[tokio::test]
async fn silent_server_fails_within_the_timeout() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = Options {
        servers: vec![silent.local_addr().unwrap().to_string()],
        connect_timeout: Duration::from_millis(700),
        ..Options::default()
    };
    let outcome = timeout(Duration::from_secs(10), nats::connect(options)).await.unwrap();
    assert!(matches!(outcome, Err(Error::Unreachable { .. })), "{outcome:?}");
}

#[tokio::test]
async fn server_that_starts_a_little_later_is_found() {
    let mut server = Nats::plain().await;
    server.kill().await;
    let options = Options { connect_timeout: DEADLINE, ..of(&server) };
    let (connected, ()) = tokio::join!(nats::connect(options), server.restart());
    assert_eq!(*connected.unwrap().status().borrow(), Status { connected: true, epoch: 1 });
}

#[tokio::test]
async fn dead_server_in_the_list_is_skipped() {
    let server = Nats::plain().await;
    let servers = vec![format!("127.0.0.1:{},{}", data::free_port(), server.url())];
    nats::connect(Options { servers, ..Options::default() }).await.unwrap();
}

#[tokio::test]
async fn user_and_password_are_checked() {
    let server = with_config("authorization { user: \"u@x\", password: \"p:s\" }").await;
    let auth = |password: &str| Auth::UserPassword { user: "u@x".to_owned(), password: password.to_owned() };
    assert_admits(&server, auth("p:s"), [Auth::None, auth("wrong"), Auth::Token("p:s".to_owned())]).await;

    let url = server.url().replace("://", "://u%40x:p%3As@");
    nats::connect(Options { servers: vec![url], ..Options::default() }).await.unwrap();
}

#[tokio::test]
async fn token_is_checked() {
    let server = with_config("authorization { token: t0ken }").await;
    assert_admits(&server, Auth::Token("t0ken".to_owned()), [Auth::None, Auth::Token("other".to_owned())]).await;

    let url = server.url().replace("://", "://t0ken@");
    nats::connect(Options { servers: vec![url], ..Options::default() }).await.unwrap();
}

#[tokio::test]
async fn nkey_is_checked() {
    let folder = data::folder();
    let (user, stranger) = (KeyPair::new_user(), KeyPair::new_user());
    let server = with_config(&format!("authorization {{ users: [{{ nkey: {} }}] }}", user.public_key())).await;
    let file = |name: &str, key: &KeyPair| Auth::Nkey(write(folder.path(), name, &key.seed().unwrap()));
    assert_admits(&server, file("user.nk", &user), [Auth::None, file("stranger.nk", &stranger)]).await;
}

#[tokio::test]
async fn credentials_are_checked_and_reread_at_each_connection() {
    let folder = data::folder();
    let (operator, account) = (KeyPair::new_operator(), KeyPair::new_account());
    let (user, renewed) = (KeyPair::new_user(), KeyPair::new_user());
    let operator_jwt = jwt(&operator, &operator, serde_json::json!({ "type": "operator", "version": 2 }));
    let limits = serde_json::json!({ "subs": -1, "conn": -1, "leaf": -1, "imports": -1, "exports": -1, "data": -1,
                                     "payload": -1, "wildcards": true });
    let claims = serde_json::json!({ "type": "account", "version": 2, "limits": limits });
    let account_jwt = jwt(&operator, &account, claims);
    let mut server = with_config(&format!(
        "operator: {operator_jwt}\nresolver: MEMORY\nresolver_preload: {{ {}: {account_jwt} }}",
        account.public_key()
    ))
    .await;
    let file = |name: &str, issuer: &KeyPair, user: &KeyPair| {
        let claims = serde_json::json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1 });
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            jwt(issuer, user, claims),
            user.seed().unwrap()
        );
        Auth::Credentials(write(folder.path(), name, &text))
    };
    let good = file("user.creds", &account, &user);
    let foreign = file("foreign.creds", &KeyPair::new_account(), &user);
    assert_admits(&server, good.clone(), [Auth::None, foreign]).await;

    let bus = nats::connect(Options { auth: good, ..of(&server) }).await.unwrap();
    let mut status = bus.status();
    server.kill().await;
    file("user.creds", &KeyPair::new_account(), &renewed);
    let logged = server.log().len();
    server.restart().await;
    // The old file would have been good: a refusal shows that the new one was read.
    until("a refusal", async || server.log()[logged..].contains("authentication error").then_some(())).await;
    assert_eq!(status.borrow().epoch, 1);
    file("user.creds", &account, &renewed);
    wait_for(&mut status, |status| status.epoch == 2).await;
}

#[tokio::test]
async fn unusable_files_are_named() {
    let folder = data::folder();
    let broken = write(folder.path(), "broken", "no secret here");
    let missing = folder.path().join("missing");
    for (auth, named) in [
        (Auth::Credentials(broken.clone()), "broken"),
        (Auth::Credentials(missing.clone()), "missing"),
        (Auth::Nkey(broken), "broken"),
        (Auth::Nkey(missing), "missing"),
    ] {
        let outcome = nats::connect(Options { auth, ..Options::default() }).await;
        assert!(matches!(&outcome, Err(Error::Options { reason, .. }) if reason.contains(named)), "{outcome:?}");
    }
}

#[tokio::test]
async fn tls_is_negotiated_and_verified() {
    let tls = Tls::new();
    let server = tls.server("").await;
    let ca = Options { tls_ca: Some(tls.ca.clone()), ..of(&server) };

    assert_works(&nats::connect(ca.clone()).await.unwrap()).await;
    let servers = vec![server.url().replace("nats:", "tls:")];
    nats::connect(Options { servers, ..ca }).await.unwrap();

    assert_options_error(of(&server)).await;
    assert_options_error(Options { tls_ca: Some(Tls::new().ca), ..of(&server) }).await;
}

#[tokio::test]
async fn tls_is_required_of_every_later_server() {
    let tls = Tls::new();
    let server = Nats::plain().await;
    for options in [
        Options { tls_required: true, ..of(&server) },
        Options { tls_ca: Some(tls.ca.clone()), ..of(&server) },
        Options { servers: vec![server.url().replace("nats:", "tls:")], ..of(&server) },
    ] {
        let options = Options { connect_timeout: Duration::from_secs(1), ..options };
        let outcome = nats::connect(options).await;
        assert!(matches!(outcome, Err(Error::Options { .. } | Error::Unreachable { .. })), "{outcome:?}");
    }
}

#[tokio::test]
async fn client_certificate_is_presented() {
    let tls = Tls::new();
    let server = tls.server("verify: true").await;
    let anonymous = Options { tls_ca: Some(tls.ca.clone()), ..of(&server) };
    let known = Options { tls_cert: Some(tls.cert.clone()), tls_key: Some(tls.key.clone()), ..anonymous.clone() };

    assert_works(&nats::connect(known).await.unwrap()).await;
    assert_options_error(anonymous).await;
}

#[tokio::test]
async fn tls_may_come_first() {
    let tls = Tls::new();
    let server = tls.server("handshake_first: true").await;
    let options = Options { tls_ca: Some(tls.ca.clone()), tls_first: true, ..of(&server) };
    assert_works(&nats::connect(options).await.unwrap()).await;
}

/// A certificate authority, and a certificate for both server and client.
pub(crate) struct Tls {
    pub(crate) ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
    folder: tempfile::TempDir,
}

impl Tls {
    pub(crate) fn new() -> Self {
        Self::for_names(["127.0.0.1"])
    }

    /// Creates a certificate for these hosts.
    pub(crate) fn for_names<const N: usize>(names: [&str; N]) -> Self {
        let folder = data::folder();
        let mut authority = rcgen::CertificateParams::default();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority_key = rcgen::KeyPair::generate().unwrap();
        let authority_cert = authority.self_signed(&authority_key).unwrap();
        let issuer = rcgen::Issuer::new(authority, authority_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(names.map(str::to_owned)).unwrap();
        params.extended_key_usages =
            vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let cert = params.signed_by(&key, &issuer).unwrap();
        Self {
            ca: write(folder.path(), "ca.pem", &authority_cert.pem()),
            cert: write(folder.path(), "cert.pem", &cert.pem()),
            key: write(folder.path(), "key.pem", &key.serialize_pem()),
            folder,
        }
    }

    pub(crate) async fn server(&self, more: &str) -> Nats {
        with_config(&format!("tls {{\n {}\n}}", self.config(more))).await
    }

    /// Returns the contents of a `tls` block in nats-server's configuration.
    pub(crate) fn config(&self, more: &str) -> String {
        let file = |name: &str| self.folder.path().join(name).display().to_string();
        format!(
            "cert_file: \"{}\"\n key_file: \"{}\"\n ca_file: \"{}\"\n {more}",
            file("cert.pem"),
            file("key.pem"),
            file("ca.pem")
        )
    }
}

pub(crate) fn of(server: &Nats) -> Options {
    Options { servers: vec![server.url()], ..Options::default() }
}

async fn connect(server: &Nats) -> Arc<nats::Nats> {
    nats::connect(of(server)).await.unwrap()
}

async fn with_config(config: &str) -> Nats {
    Nats::start(NatsOptions { config: config.to_owned(), ..NatsOptions::default() }).await
}

pub(crate) fn message(subject: &str, payload: &'static str) -> Message {
    Message { subject: subject.to_owned(), payload: Bytes::from_static(payload.as_bytes()), ..Message::default() }
}

pub(crate) async fn next(subscription: &mut Subscription) -> Message {
    timeout(DEADLINE, subscription.next()).await.expect("a message in time").expect("an open subscription")
}

/// Subscribes, and returns once the server has registered the subscription.
async fn listening(bus: &nats::Nats, subject: &str, queue: Option<&str>) -> Subscription {
    let subscription = bus.subscribe(subject, queue).await.unwrap();
    round_trip(bus).await;
    subscription
}

/// Returns once the server has processed all earlier commands and its answers have arrived.
pub(crate) async fn round_trip(bus: &nats::Nats) {
    let inbox = bus.new_inbox();
    let mut echo = bus.subscribe(&inbox, None).await.unwrap();
    bus.publish(message(&inbox, "")).await.unwrap();
    next(&mut echo).await;
}

async fn assert_works(bus: &nats::Nats) {
    round_trip(bus).await;
}

async fn wait_for(status: &mut tokio::sync::watch::Receiver<Status>, wanted: impl FnMut(&Status) -> bool) -> Status {
    *timeout(DEADLINE, status.wait_for(wanted)).await.expect("the status in time").unwrap()
}

async fn assert_admits(server: &Nats, good: Auth, bad: impl IntoIterator<Item = Auth>) {
    assert_works(&nats::connect(Options { auth: good, ..of(server) }).await.unwrap()).await;
    for auth in bad {
        let begun = Instant::now();
        // If a refusal were not final, this would take the whole timeout.
        let options = Options { auth: auth.clone(), connect_timeout: DEADLINE, ..of(server) };
        let outcome = nats::connect(options).await;
        assert!(matches!(outcome, Err(Error::Unauthorized { .. })), "{auth:?}: {outcome:?}");
        assert!(begun.elapsed() < DEADLINE / 2, "{auth:?}: refused only after {:?}", begun.elapsed());
    }
}

async fn assert_options_error(options: Options) {
    let outcome = nats::connect(Options { connect_timeout: DEADLINE, ..options }).await;
    assert!(matches!(outcome, Err(Error::Options { .. })), "{outcome:?}");
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// Creates a JWT in the format of NATS (ADR-14 in nats-io/nats-architecture-and-design).
pub(crate) fn jwt(issuer: &KeyPair, subject: &KeyPair, claims: serde_json::Value) -> String {
    use base64::Engine;
    let encode = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    let header = serde_json::json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let body = serde_json::json!({
        "jti": subject.public_key(), "iat": 1_700_000_000, "iss": issuer.public_key(), "name": "it",
        "sub": subject.public_key(), "nats": claims,
    });
    let signed = format!("{}.{}", encode(header.to_string().as_bytes()), encode(body.to_string().as_bytes()));
    let signature = encode(&issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}
