//! The connection to NATS, and the permissions on it.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;
use uuid::Uuid;

use super::super::connect;
use super::super::payload::Probe;
use super::{find, named};
use crate::config::{Config, Effective};
use gantry_bus::nats::OptionKind;
use gantry_bus::{self as bus, Bus, Event, Message};
use gantry_proto::HEADERS_MAX_BYTES;
use gantry_proto::subject::{Operation, QUEUE_GROUP};
use gantry_relay as relay;

/// The time limit for the whole check. If nats-server disappears during it, the bus waits without limit.
const PATIENCE: Duration = Duration::from_secs(10);

/// The time limit for nats-server to answer.
const ROUND_TRIP: Duration = Duration::from_secs(3);

/// The time that refusals may arrive after the answer to a later message. They pass through another queue of the client
/// library.
const SETTLE: Duration = Duration::from_millis(200);

/// The prefix of the subjects that nats-server creates for requests from other accounts.
const IMPORTED: &str = "_R_.";

pub(super) async fn check(config: &Config, effective: &[Effective]) -> Result<String, String> {
    let bus = connect::try_nats(&config.nats).await.map_err(|error| unconnected(&error, effective))?;
    let rights = Rights::needed(config);
    let forbidden = timeout(PATIENCE, forbidden(&*bus, &rights))
        .await
        .unwrap_or(Err(bus::Error::Closed))
        .map_err(|error| format!("{}: {error}: try again", named(effective, "nats.url")))?;

    let (vital, rest): (Vec<_>, Vec<_>) = forbidden.into_iter().partition(|denied| rights.is_vital(denied));
    if !vital.is_empty() {
        let key = named(effective, auth_key(effective));
        return Err(format!("{key}: nats-server forbids the relay {}: grant that to its user", vital.join(", ")));
    }

    if let Some(probe) = Probe::of(config)
        && let wanted = probe.wanted_on(&*bus)
        && let Ok(Ok(Some(accepted))) = timeout(PATIENCE, probe.accepted(&*bus)).await
        && accepted < wanted
    {
        let key = named(effective, "relay.chunk_max_bytes");
        let chunk_max = accepted.saturating_sub(HEADERS_MAX_BYTES);
        return Err(format!(
            "{key}: nats-server closes the connection at messages of more than {accepted} bytes, although it announces \
             a larger limit: raise `max_payload` of the relay's account, or set this key to {chunk_max}"
        ));
    }

    let connected = format!("connected, messages of up to {} bytes", bus.max_payload());
    if rest.is_empty() {
        return Ok(format!("{connected}, all rights"));
    }
    Ok(format!("{connected}; downloads work, but nats-server forbids the relay {}", rest.join(", ")))
}

/// Names the key that explains a failed connection, and what to do.
#[expect(clippy::wildcard_enum_match_arm, reason = "all other errors have the same cure")]
fn unconnected(error: &bus::Error, effective: &[Effective]) -> String {
    let (key, cure) = match error {
        bus::Error::Unauthorized { .. } => match auth_key(effective) {
            "nats.url" => ("nats.url", "set `nats.creds_file`, or another way to authenticate"),
            key => (key, "check these credentials, and whether the server knows the user"),
        },
        bus::Error::Options { option, .. } => blamed(*option, effective),
        _ => ("nats.url", "start nats-server, or correct the address or the port"),
    };
    format!("{}: {error}: {cure}", named(effective, key))
}

/// Names the key of an invalid option, and what to do.
fn blamed(option: OptionKind, effective: &[Effective]) -> (&'static str, &'static str) {
    const FILE: &str = "correct the file, or name another";

    match option {
        OptionKind::Address | OptionKind::Queues => ("nats.url", "correct the address"),
        OptionKind::Credentials => (auth_key(effective), FILE),
        OptionKind::TlsAuthorities => ("nats.tls_ca_file", FILE),
        OptionKind::TlsCertificate => ("nats.tls_cert_file", FILE),
        OptionKind::TlsKey => ("nats.tls_key_file", FILE),
        OptionKind::TlsHandshake => (
            "nats.tls_ca_file",
            "set it to the authority that signed nats-server's certificate, and `nats.url` to a host in that certificate",
        ),
        OptionKind::TlsNotOffered => without_tls(effective),
    }
}

/// Names the key that requires TLS, which nats-server does not offer.
fn without_tls(effective: &[Effective]) -> (&'static str, &'static str) {
    let is_on = |key: &str| find(effective, key).is_some_and(|line| line.value != "false");
    if is_on("nats.tls_first") {
        return (
            "nats.tls_first",
            "the server does not start with TLS: set `handshake_first` there, or remove this key",
        );
    }
    if find(effective, "nats.url").is_some_and(|line| line.value.contains("tls://")) {
        return ("nats.url", "the server does not offer TLS: set it up there, or use nats:// instead of tls://");
    }

    let key = ["nats.tls_required", "nats.tls_ca_file", "nats.tls_cert_file"].into_iter().find(|key| is_on(key));
    (key.unwrap_or("nats.url"), "the server does not offer TLS: set it up there, or remove this key")
}

/// Returns the key of the credentials, or of the file that contains them.
fn auth_key(effective: &[Effective]) -> &'static str {
    ["nats.creds_file", "nats.nkey_file", "nats.password_file", "nats.user", "nats.token_file", "nats.token"]
        .into_iter()
        .find(|key| find(effective, key).is_some())
        .unwrap_or("nats.url")
}

/// The subjects that a relay subscribes to and publishes to.
struct Rights {
    requests: Vec<String>,
    controls: String,
    /// The subject where nats-server reports that nobody receives a message.
    reports: String,
    /// A subject that `reports` matches, on which nats-server answers.
    answers: String,
    service: Vec<String>,
    /// One subject without a subscriber for each prefix of `relay.delivery_allow`.
    deliveries: Vec<String>,
    /// The requests that downloads need.
    gets: Vec<String>,
}

impl Rights {
    fn needed(config: &Config) -> Self {
        let instance = Uuid::new_v4().simple().to_string();
        let all = |operation| config.stores.keys().map(move |store| config.prefix.request(operation, store));
        let controls = config.prefix.controls(&instance);
        let reports = config.prefix.all_gone(&Uuid::new_v4().simple().to_string());
        Self {
            requests: Operation::ALL.into_iter().flat_map(all).collect(),
            answers: format!("{}.check", reports.trim_end_matches(".*")),
            reports,
            controls,
            service: relay::service_subjects(&instance),
            deliveries: config
                .relay
                .delivery_allow
                .prefixes()
                .map(|prefix| format!("{prefix}gantry-check.{instance}"))
                .collect(),
            gets: all(Operation::Get).collect(),
        }
    }

    /// Returns whether downloads need the permission. Listing may be forbidden, and not every setup answers other
    /// accounts.
    fn is_vital(&self, denied: &str) -> bool {
        let vital = self.gets.iter().chain([&self.controls]).chain(&self.deliveries);
        vital.filter(|subject| !subject.starts_with(IMPORTED)).any(|subject| denied.contains(&format!("{subject:?}")))
    }
}

/// Subscribes and publishes once as a relay does, and returns the actions that nats-server forbids.
///
/// The last message goes to a subject without subscribers, which nats-server answers itself. All refusals have been sent
/// before that answer. A request that arrives between subscribing and unsubscribing is lost, and its consumer retries.
async fn forbidden(bus: &dyn Bus, rights: &Rights) -> Result<BTreeSet<String>, bus::Error> {
    let mut events = bus.events();
    let mut forbidden = BTreeSet::new();

    for subject in &rights.requests {
        drop(bus.subscribe(subject, Some(QUEUE_GROUP)).await?);
    }
    for subject in &rights.service {
        drop(bus.subscribe(subject, None).await?);
    }

    drop(bus.subscribe(&rights.controls, None).await?);
    let mut answers = bus.subscribe(&rights.reports, None).await?;
    for subject in &rights.deliveries {
        let reply = Some(rights.answers.clone());
        bus.publish(Message { subject: subject.clone(), reply, ..Message::default() }).await?;
    }
    bus.flush().await?;

    let answered = timeout(ROUND_TRIP, async {
        loop {
            tokio::select! {
                answer = answers.next() => return answer.is_some(),
                denied = next_denied(&mut events) => forbidden.insert(denied),
            };
        }
    })
    .await;

    while let Ok(denied) = timeout(SETTLE, next_denied(&mut events)).await {
        forbidden.insert(denied);
    }

    if forbidden.is_empty() && answered != Ok(true) {
        forbidden.insert(format!("something: no answer arrived on {:?}", rights.reports));
    }
    Ok(forbidden)
}

/// Waits for the next refusal.
async fn next_denied(events: &mut Receiver<Event>) -> String {
    loop {
        match events.recv().await {
            Ok(Event::SubscribeDenied(subject)) => return format!("to subscribe to {subject:?}"),
            Ok(Event::PublishDenied(subject)) => return format!("to publish to {subject:?}"),
            Ok(Event::SlowConsumer | Event::LameDuck | Event::Closed(_)) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return std::future::pending().await,
        }
    }
}
