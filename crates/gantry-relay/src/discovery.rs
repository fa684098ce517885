//! The relay as a service of the NATS services API: discovery, description and statistics.
//!
//! By ADR-32 of nats-io/nats-architecture-and-design. It is written here and not taken from the client library because
//! that one sends errors without a body, and because it would tie the relay to one bus.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::StreamExt;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::warn;

use super::throttle::REFUSALS;
use super::{Options, Shared, peers};
use gantry_bus::{Message, Subscription};
use gantry_proto::message::json;
use gantry_proto::subject::{Operation, Prefix, QUEUE_GROUP};
use gantry_proto::{StoreName, VERSION, WireError, limits};

/// The service's name.
const NAME: &str = "gantry";

/// What a relay tells about itself.
#[derive(Debug)]
pub(super) struct Service {
    identity: Identity,
    started: String,
    endpoints: RwLock<Vec<Endpoint>>,
    prefix: Prefix,
}

#[derive(Debug, Serialize)]
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
    /// What tells the store's place from others.
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
    /// Nanoseconds, as the API has it.
    processing_time: u64,
    average_processing_time: u64,
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
    pub(super) fn new(instance: &str, options: &Options) -> Self {
        let metadata = BTreeMap::from([
            ("protocol", VERSION.to_string()),
            ("prefix", options.prefix.to_string()),
            ("chunk_max_bytes", options.chunk_max_bytes.to_string()),
            ("window_max_bytes", options.window_max_bytes.to_string()),
            ("transfers_max", options.transfers_max.to_string()),
            ("beat_ms", limits::beat(options.beat_interval).as_millis().to_string()),
            ("idle_ms", options.idle_timeout.as_millis().to_string()),
            ("host", peers::host()),
        ]);
        Self {
            identity: Identity { name: NAME, id: instance.to_owned(), version: env!("CARGO_PKG_VERSION"), metadata },
            started: OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
            endpoints: RwLock::default(),
            prefix: options.prefix.clone(),
        }
    }

    /// Adds a store's endpoints.
    pub(super) fn add(&self, store: &StoreName) {
        let mut endpoints = self.endpoints.write().unwrap_or_else(PoisonError::into_inner);
        endpoints.extend(Operation::ALL.map(|operation| Endpoint {
            operation,
            store: store.clone(),
            subject: self.prefix.request(operation, store),
            fingerprint: None,
            counts: Counts::default(),
        }));
    }

    /// Says from which place a store is served now.
    pub(super) fn mark(&self, store: &StoreName, fingerprint: Option<&String>) {
        let mut endpoints = self.endpoints.write().unwrap_or_else(PoisonError::into_inner);
        for endpoint in endpoints.iter_mut().filter(|endpoint| endpoint.store == *store) {
            endpoint.fingerprint = fingerprint.cloned();
        }
    }

    /// Takes a store's endpoints away.
    pub(super) fn remove(&self, store: &StoreName) {
        let mut endpoints = self.endpoints.write().unwrap_or_else(PoisonError::into_inner);
        endpoints.retain(|endpoint| endpoint.store != *store);
    }

    /// Returns the subjects under which the service is asked about itself.
    pub(super) fn subjects(&self) -> Vec<String> {
        subjects(&self.identity.id)
    }

    /// Counts one answered request.
    pub(super) fn count(&self, operation: Operation, store: &StoreName, took: Duration, error: Option<&WireError>) {
        let mut endpoints = self.endpoints.write().unwrap_or_else(PoisonError::into_inner);
        let endpoint = endpoints.iter_mut().find(|own| own.operation == operation && own.store == *store);
        let Some(Endpoint { counts, .. }) = endpoint else { return };
        counts.requests = counts.requests.saturating_add(1);
        counts.processing = counts.processing.saturating_add(took);
        if let Some(error) = error {
            counts.errors = counts.errors.saturating_add(1);
            // Everyone may ask for it, so that it must not tell what others asked for.
            counts.last_error = format!("{}:{}", error.code.number(), error.code.name());
        }
    }

    fn describe(&self, verb: &str) -> Option<bytes::Bytes> {
        let identity = &self.identity;
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
                let endpoints = endpoints.iter().map(Endpoint::stats).collect();
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

    fn stats(&self) -> EndpointStats<'_> {
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
        }
    }
}

/// Returns the subjects under which the relay `instance` is asked about itself.
pub fn subjects(instance: &str) -> Vec<String> {
    ["PING", "INFO", "STATS"]
        .into_iter()
        .flat_map(|verb| {
            [format!("$SRV.{verb}"), format!("$SRV.{verb}.{NAME}"), format!("$SRV.{verb}.{NAME}.{instance}")]
        })
        .collect()
}

/// Answers questions about the service until a shutdown.
pub(super) async fn answer(shared: Arc<Shared>, mut questions: Subscription) {
    loop {
        let question = tokio::select! {
            () = shared.shutdown.drain.cancelled() => return,
            () = shared.shutdown.force.cancelled() => return,
            question = questions.next() => question,
        };
        let Some(question) = question else { return };
        let verb = question.subject.split('.').nth(1).unwrap_or_default();
        let Some(payload) = shared.service.describe(verb) else { continue };
        let Some(reply) = question.reply.filter(|reply| shared.options.delivery_allow.allows(reply)) else {
            shared.metrics.refuse("reply_subject");
            continue;
        };
        let answer = Message { subject: reply, payload, ..Message::default() };
        if let Err(error) = shared.buses.data.publish(answer).await
            && shared.throttle.admits("service", REFUSALS)
        {
            warn!(%error, "can't answer a service question");
        }
    }
}
