//! Queries all relays for their descriptions, through the NATS services API.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt as _;
use gantry_bus::{self as bus, Bus, Event, Message, NO_RESPONDERS};
use gantry_proto::subject::{Prefix, SERVICE};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, timeout_at};

/// How long to wait for the first answer, and for another one after each answer.
const FIRST_WITHIN: Duration = Duration::from_secs(2);
const NEXT_WITHIN: Duration = Duration::from_millis(300);
const NEXT_WITHIN_SHORT: Duration = Duration::from_millis(100);

/// The number of answers that are read, and the size limit of each in bytes. Anyone may answer.
const ANSWERS_MAX: usize = 2000;
const ANSWER_MAX_BYTES: usize = 256 * 1024;

/// A relay's description of itself.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Found {
    /// The relay's identifier.
    pub(super) id: String,
    /// The name of the relay's host.
    pub(super) host: String,
    /// The relay's version.
    pub(super) version: String,
    /// The names of the relay's stores.
    pub(super) stores: BTreeSet<String>,
    /// The number of requests that the relay has answered, including refused ones.
    pub(super) requests: u64,
    /// The number of requests that the relay has refused.
    pub(super) errors: u64,
    /// The number of transfers in progress, if the relay states it.
    pub(super) active: Option<u64>,
    /// The maximum number of concurrent transfers.
    pub(super) transfers_max: Option<u64>,
    /// The time until the relay's answer.
    pub(super) round_trip_ms: u64,
}

/// Why the relays can't be queried.
#[derive(Debug)]
pub(super) enum Failed {
    /// nats-server forbids the query.
    Denied(String),
    Bus(bus::Error),
}

impl From<bus::Error> for Failed {
    fn from(error: bus::Error) -> Self {
        Self::Bus(error)
    }
}

#[derive(Deserialize)]
struct Answer {
    name: String,
    id: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
struct Endpoint {
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    #[serde(default)]
    num_requests: u64,
    #[serde(default)]
    num_errors: u64,
    data: Option<EndpointData>,
}

#[derive(Deserialize)]
struct EndpointData {
    active: Option<u64>,
}

/// Returns the relays with this prefix, in the order of their hosts.
pub(super) async fn relays(bus: &dyn Bus, prefix: &Prefix) -> Result<Vec<Found>, Failed> {
    let (described, counted) =
        tokio::join!(ask(bus, "INFO", NEXT_WITHIN, |_| false), ask(bus, "STATS", NEXT_WITHIN, |_| false));
    let counted: BTreeMap<_, _> =
        counted.unwrap_or_default().into_iter().map(|(answer, _)| (answer.id.clone(), answer)).collect();
    let prefix = prefix.to_string();

    let ours = described?.into_iter().filter(|(answer, _)| answer.metadata.get("prefix") == Some(&prefix));
    let mut relays: Vec<_> = ours
        .map(|(answer, round_trip)| {
            let endpoints = counted.get(&answer.id).map_or(&[][..], |counted| &counted.endpoints);
            let metadata = |name: &str| answer.metadata.get(name).cloned();
            Found {
                host: metadata("host").unwrap_or_else(|| "unknown".to_owned()),
                stores: answer.stores().cloned().collect(),
                requests: endpoints.iter().fold(0, |sum, endpoint| sum.saturating_add(endpoint.num_requests)),
                errors: endpoints.iter().fold(0, |sum, endpoint| sum.saturating_add(endpoint.num_errors)),
                active: endpoints
                    .iter()
                    .filter_map(|endpoint| endpoint.data.as_ref()?.active)
                    .reduce(u64::saturating_add),
                transfers_max: metadata("transfers_max").and_then(|number| number.parse().ok()),
                round_trip_ms: u64::try_from(round_trip.as_millis()).unwrap_or(u64::MAX),
                version: answer.version,
                id: answer.id,
            }
        })
        .collect();
    relays.sort_by(|one, other| (&one.host, &one.id).cmp(&(&other.host, &other.id)));
    Ok(relays)
}

/// Returns the stores of the relays with this prefix. Ends early once `wanted` is among them.
pub(super) async fn stores(bus: &dyn Bus, prefix: &Prefix, wanted: &str) -> Result<BTreeSet<String>, Failed> {
    let prefix = prefix.to_string();
    let is_ours = |answer: &Answer| answer.metadata.get("prefix") == Some(&prefix);
    let enough = |answer: &Answer| is_ours(answer) && answer.stores().any(|store| store == wanted);

    let answers = ask(bus, "INFO", NEXT_WITHIN_SHORT, enough).await?;
    let ours = answers.iter().filter(|(answer, _)| is_ours(answer));
    Ok(ours.flat_map(|(answer, _)| answer.stores().cloned()).collect())
}

impl Answer {
    fn stores(&self) -> impl Iterator<Item = &String> {
        self.endpoints.iter().filter_map(|endpoint| endpoint.metadata.get("store"))
    }
}

/// Returns the answers of all relays to a question, with the time until each arrived. Ends early after an answer that is
/// `enough`.
async fn ask(
    bus: &dyn Bus,
    verb: &str,
    next_within: Duration,
    enough: impl Fn(&Answer) -> bool,
) -> Result<Vec<(Answer, Duration)>, Failed> {
    let inbox = bus.new_inbox();
    let subject = format!("$SRV.{verb}.{SERVICE}");
    let mut events = bus.events();

    let asked = Instant::now();
    let mut until = asked + FIRST_WITHIN;
    let question = async {
        let answers = bus.subscribe(&inbox, None).await?;
        bus.publish(Message { subject: subject.clone(), reply: Some(inbox.clone()), ..Message::default() }).await?;
        Ok::<_, bus::Error>(answers)
    };
    // Without a connection, the bus blocks once its queue is full.
    let Ok(answers) = timeout_at(until, question).await else { return Err(disconnected(bus)) };
    let mut answers = answers?;

    let mut found = Vec::new();
    while found.len() < ANSWERS_MAX {
        let answer = tokio::select! {
            answer = timeout_at(until, answers.next()) => answer,
            event = events.recv() => {
                if let Some(failed) = failure(event, &subject, &inbox) {
                    return Err(failed);
                }
                continue;
            }
        };
        let Ok(Some(answer)) = answer else { break };
        if answer.status == Some(NO_RESPONDERS) {
            break;
        }

        until = until.min(Instant::now() + next_within);
        if answer.payload.len() > ANSWER_MAX_BYTES {
            continue;
        }
        if let Ok(answer) = serde_json::from_slice::<Answer>(&answer.payload)
            && answer.name == SERVICE
        {
            let is_enough = enough(&answer);
            found.push((answer, asked.elapsed()));
            if is_enough {
                break;
            }
        }
    }

    if found.is_empty() && !bus.status().borrow().connected {
        return Err(disconnected(bus));
    }
    Ok(found)
}

fn disconnected(bus: &dyn Bus) -> Failed {
    let reason = "the connection is lost".to_owned();
    Failed::Bus(bus::Error::Unreachable { servers: bus.server(), reason })
}

/// Returns why a query fails, if nats-server reports the reason.
fn failure(event: Result<Event, RecvError>, subject: &str, inbox: &str) -> Option<Failed> {
    match event {
        Ok(Event::PublishDenied(denied)) if denied == subject => {
            Some(Failed::Denied(format!("publishing to {denied:?}")))
        }
        Ok(Event::SubscribeDenied(denied)) if denied == inbox => {
            Some(Failed::Denied(format!("subscribing to {denied:?}")))
        }
        Err(RecvError::Closed) => Some(Failed::Bus(bus::Error::Closed)),
        Ok(_) | Err(RecvError::Lagged(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use gantry_testing::bus::{MemoryNetwork, WhileCut};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_survey_without_a_connection_fails_in_time() {
        for publishes in [WhileCut::Wait, WhileCut::Lose] {
            let bus = MemoryNetwork::new(1).connect();
            bus.cut(publishes);

            let asked = Instant::now();
            let found = stores(&*bus, &Prefix::default(), "").await;

            assert!(matches!(found, Err(Failed::Bus(bus::Error::Unreachable { .. }))), "{found:?}");
            assert!(asked.elapsed() <= FIRST_WITHIN);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_relays_a_survey_finds_no_stores() {
        let bus = MemoryNetwork::new(1).connect();

        let found = stores(&*bus, &Prefix::default(), "").await;
        assert!(found.is_ok_and(|stores| stores.is_empty()));
    }
}
