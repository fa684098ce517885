//! The relay as a service of the NATS services API: discovery, description and statistics.
//!
//! Source: ADR-32 of nats-io/nats-architecture-and-design. The client library's implementation is not used because it
//! sends errors without a body and would tie the relay to one bus.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use futures_util::StreamExt;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;
use tracing::warn;

use crate::lifetime::Lifetime;
use crate::metrics::RelayMetrics;
use crate::neighbours::Neighbours;
use crate::options::Options;
use crate::registry::Registry;
use crate::throttle::{REFUSALS, Throttle};
use gantry_bus::{Bus, Message, Subscription};
use gantry_proto::message::json;
use gantry_proto::service::{self, Question};
use gantry_proto::subject::{DeliveryAllow, Operation, Prefix, QUEUE_GROUP, SERVICE};
use gantry_proto::{StoreName, VERSION, WireError, limits};

/// The longest name of a relay or host that is published or logged.
const NAME_MAX: usize = 64;

/// How long a gap in the connection for requests is remembered. Consumers look for a relay for 1.5 s before they ask.
const GAP_REMEMBERED: Duration = Duration::from_secs(10);

/// The description and statistics that a relay publishes about itself.
#[derive(Debug)]
pub(crate) struct Service {
    identity: Identity,
    started: String,
    registry: Arc<Registry>,
    endpoints: RwLock<Vec<Endpoint>>,
    prefix: Prefix,
    pub(crate) neighbours: Neighbours,
    /// When the connection for requests was interrupted or replaced last.
    gap_at: Mutex<Option<Instant>>,
}

#[derive(Clone, Debug, Serialize)]
struct Identity {
    name: &'static str,
    id: String,
    version: &'static str,
    metadata: BTreeMap<&'static str, String>,
}

#[derive(Debug)]
struct Endpoint {
    operation: Operation,
    store: StoreName,
    subject: String,
    /// A fingerprint of the place that the store reads from.
    fingerprint: Option<String>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    requests: u64,
    errors: u64,
    last_error: String,
    processing: Duration,
}

#[derive(Serialize)]
struct EndpointInfo<'a> {
    name: String,
    subject: &'a str,
    queue_group: &'static str,
    metadata: BTreeMap<&'static str, String>,
}

#[derive(Serialize)]
struct EndpointStats<'a> {
    name: String,
    subject: &'a str,
    queue_group: &'static str,
    num_requests: u64,
    num_errors: u64,
    last_error: &'a str,
    /// In nanoseconds, as the API requires.
    processing_time: u64,
    average_processing_time: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<EndpointData>,
}

/// What the API leaves to the service. Anyone may read it, so it identifies no transfer.
#[derive(Serialize)]
struct EndpointData {
    /// The number of transfers in progress.
    active: usize,
}

#[derive(Serialize)]
struct Response<'a, T: Serialize> {
    r#type: &'static str,
    #[serde(flatten)]
    identity: &'a Identity,
    #[serde(flatten)]
    more: T,
}

#[derive(Serialize)]
struct Nothing {}

#[derive(Serialize)]
struct Info<'a> {
    description: &'static str,
    endpoints: Vec<EndpointInfo<'a>>,
}

#[derive(Serialize)]
struct Stats<'a> {
    started: &'a str,
    endpoints: Vec<EndpointStats<'a>>,
}

impl Service {
    pub(crate) fn new(instance: &str, options: &Options, registry: Arc<Registry>) -> Self {
        let metadata = BTreeMap::from([
            ("protocol", VERSION.to_string()),
            ("prefix", options.prefix.to_string()),
            ("chunk_max_bytes", options.chunk_max_bytes.to_string()),
            ("window_max_bytes", options.window_max_bytes.to_string()),
            ("transfers_max", options.transfers_max.to_string()),
            ("beat_ms", limits::beat(options.beat_interval).as_millis().to_string()),
            ("idle_ms", options.idle_timeout.as_millis().to_string()),
            ("host", host()),
        ]);
        Self {
            identity: Identity { name: SERVICE, id: instance.to_owned(), version: env!("CARGO_PKG_VERSION"), metadata },
            started: OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
            registry,
            endpoints: RwLock::default(),
            prefix: options.prefix.clone(),
            neighbours: Neighbours::default(),
            gap_at: Mutex::default(),
        }
    }

    /// Returns this host's name.
    pub(crate) fn host(&self) -> &str {
        self.identity.metadata.get("host").map_or("", String::as_str)
    }

    /// Adds a store's endpoints.
    pub(crate) fn add(&self, store: &StoreName) {
        let mut endpoints = self.endpoints.write().unwrap_or_else(PoisonError::into_inner);
        endpoints.extend(Operation::ALL.map(|operation| Endpoint {
            operation,
            store: store.clone(),
            subject: self.prefix.request(operation, store),
            fingerprint: None,
            counts: Counts::default(),
        }));
    }

    /// Sets the place that a store is served from.
    pub(crate) fn set_fingerprint(&self, store: &StoreName, fingerprint: Option<&String>) {
        let mut endpoints = self.endpoints.write().unwrap_or_else(PoisonError::into_inner);
        for endpoint in endpoints.iter_mut().filter(|endpoint| endpoint.store == *store) {
            endpoint.fingerprint = fingerprint.cloned();
        }
    }

    /// Removes a store's endpoints.
    pub(crate) fn remove(&self, store: &StoreName) {
        let mut endpoints = self.endpoints.write().unwrap_or_else(PoisonError::into_inner);
        endpoints.retain(|endpoint| endpoint.store != *store);
    }

    /// Returns the subjects where questions about the service arrive.
    pub(crate) fn subjects(&self) -> Vec<String> {
        subjects(&self.identity.id)
    }

    /// Counts one answered request.
    pub(crate) fn count(&self, operation: Operation, store: &StoreName, took: Duration, error: Option<&WireError>) {
        let mut endpoints = self.endpoints.write().unwrap_or_else(PoisonError::into_inner);
        let endpoint = endpoints.iter_mut().find(|own| own.operation == operation && own.store == *store);
        let Some(Endpoint { counts, .. }) = endpoint else { return };
        counts.requests = counts.requests.saturating_add(1);
        counts.processing = counts.processing.saturating_add(took);

        if let Some(error) = error {
            counts.errors = counts.errors.saturating_add(1);
            // Anyone may read it, so it must not contain what others requested.
            counts.last_error = format!("{}:{}", error.code.number(), error.code.name());
        }
    }

    fn serves(&self, store: &StoreName) -> bool {
        let endpoints = self.endpoints.read().unwrap_or_else(PoisonError::into_inner);
        endpoints.iter().any(|endpoint| endpoint.store == *store)
    }

    /// Records that the connection for requests is interrupted or has been replaced.
    pub(crate) fn note_gap(&self) {
        *self.gap_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Returns whether a consumer may have found nobody because of a gap.
    fn had_gap(&self) -> bool {
        let gap_at = *self.gap_at.lock().unwrap_or_else(PoisonError::into_inner);
        gap_at.is_some_and(|at| at.elapsed() < GAP_REMEMBERED)
    }

    /// Records which stores the asking relay serves.
    fn note(&self, verb: &str, question: Question) {
        // Consumers may send the other questions, too. The relay also receives its own.
        if verb == "INFO" && question.prefix == self.prefix.to_string() {
            self.neighbours.note(question.stores.into_iter().filter(|store| !self.serves(store)));
        }
    }

    /// Returns the answer to a question. `missing` is the store that the asking consumer can't find. It is one of this
    /// relay's if the request met a gap in the connection.
    fn describe(&self, verb: &str, missing: Option<StoreName>) -> Option<bytes::Bytes> {
        let mut identity = self.identity.clone();
        let exists = |store: &StoreName| match self.serves(store) {
            true => self.had_gap(),
            false => self.neighbours.has_served(store),
        };
        if let Some(store) = missing.filter(exists) {
            identity.metadata.insert(service::LEFT, store.to_string());
        }

        let identity = &identity;
        let endpoints = self.endpoints.read().unwrap_or_else(PoisonError::into_inner);

        match verb {
            "PING" => Some(json(&Response { r#type: "io.nats.micro.v1.ping_response", identity, more: Nothing {} })),
            "INFO" => {
                let more = Info {
                    description: "Relays objects over NATS",
                    endpoints: endpoints.iter().map(Endpoint::info).collect(),
                };
                Some(json(&Response { r#type: "io.nats.micro.v1.info_response", identity, more }))
            }
            "STATS" => {
                let endpoints = endpoints.iter().map(|endpoint| endpoint.stats(&self.registry)).collect();
                let more = Stats { started: &self.started, endpoints };
                Some(json(&Response { r#type: "io.nats.micro.v1.stats_response", identity, more }))
            }
            _ => None,
        }
    }
}

impl Endpoint {
    fn name(&self) -> String {
        format!("{}-{}", self.operation.name(), self.store)
    }

    fn info(&self) -> EndpointInfo<'_> {
        EndpointInfo {
            name: self.name(),
            subject: &self.subject,
            queue_group: QUEUE_GROUP,
            metadata: [("store", self.store.to_string())]
                .into_iter()
                .chain(self.fingerprint.clone().map(|fingerprint| ("fingerprint", fingerprint)))
                .collect(),
        }
    }

    fn stats(&self, registry: &Registry) -> EndpointStats<'_> {
        let is_get = self.operation == Operation::Get;

        let counts = &self.counts;
        let processing_time = u64::try_from(counts.processing.as_nanos()).unwrap_or(u64::MAX);
        EndpointStats {
            name: self.name(),
            subject: &self.subject,
            queue_group: QUEUE_GROUP,
            num_requests: counts.requests,
            num_errors: counts.errors,
            last_error: &counts.last_error,
            processing_time,
            average_processing_time: processing_time.checked_div(counts.requests).unwrap_or(0),
            data: is_get.then(|| EndpointData { active: registry.active_of(&self.store) }),
        }
    }
}

/// Returns the subjects where questions about the relay `instance` arrive.
#[must_use]
pub fn subjects(instance: &str) -> Vec<String> {
    ["PING", "INFO", "STATS"]
        .into_iter()
        .flat_map(|verb| {
            [format!("$SRV.{verb}"), format!("$SRV.{verb}.{SERVICE}"), format!("$SRV.{verb}.{SERVICE}.{instance}")]
        })
        .collect()
}

/// Returns the subject where all relays describe themselves.
pub(crate) fn info_subject() -> String {
    format!("$SRV.INFO.{SERVICE}")
}

/// Answers questions about the service.
#[derive(Debug)]
pub(crate) struct Answers {
    pub(crate) service: Arc<Service>,
    pub(crate) data: Arc<dyn Bus>,
    pub(crate) delivery_allow: DeliveryAllow,
    pub(crate) lifetime: Arc<Lifetime>,
    pub(crate) metrics: Arc<RelayMetrics>,
    pub(crate) throttle: Arc<Throttle>,
}

impl Answers {
    /// Answers until a shutdown.
    pub(crate) async fn answer(self: Arc<Self>, mut questions: Subscription) {
        loop {
            let question = tokio::select! {
                () = self.lifetime.stopping() => return,
                question = questions.next() => question,
            };
            let Some(question) = question else { return };

            let verb = question.subject.split('.').nth(1).unwrap_or_default();
            let asked = Question::parse(&question.payload);
            let Some(payload) = self.service.describe(verb, asked.store.clone()) else { continue };
            self.service.note(verb, asked);
            let Some(reply) = question.reply.filter(|reply| self.delivery_allow.allows(reply)) else {
                self.metrics.refuse("reply_subject");
                continue;
            };

            let answer = Message { subject: reply, payload, ..Message::default() };
            if let Err(error) = self.data.publish(answer).await
                && self.throttle.admits("service", REFUSALS)
            {
                warn!(%error, "can't answer a service question");
            }
        }
    }
}

/// Returns this host's name.
fn host() -> String {
    let from_kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let from_environment = || std::env::var("HOSTNAME").ok();
    let name = from_kernel.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).or_else(from_environment);
    safe_name(&name.unwrap_or_else(|| "unknown".to_owned()))
}

/// Returns a name of a relay or host without characters that could forge a log line.
pub(crate) fn safe_name(name: &str) -> String {
    let allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    name.chars().filter(allowed).take(NAME_MAX).collect()
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_store_of_this_relay_was_only_unreachable_if_there_was_a_gap() {
        let service = Service::new("relay", &Options::default(), Arc::default());
        let own: StoreName = "own".parse().unwrap();
        service.add(&own);
        let exists = |missing: &StoreName| {
            let answer = service.describe("PING", Some(missing.clone())).unwrap();
            service::Answer::parse(&answer).unwrap().has_left(missing)
        };
        // The relay or the consumer has no permission.
        assert!(!exists(&own));

        service.note_gap();
        assert!(exists(&own) && !exists(&"other".parse().unwrap()));

        advance(GAP_REMEMBERED).await;
        assert!(!exists(&own));
    }

    #[test]
    fn a_safe_name_can_not_forge_a_log_line() {
        assert_eq!(safe_name("relay-1.site_a"), "relay-1.site_a");
        assert_eq!(safe_name("a\u{1b}[31m\nWARN b"), "a31mWARNb");
        assert_eq!(safe_name(&"x".repeat(1000)).len(), NAME_MAX);
        assert!(!host().is_empty());
    }
}
