//! `gantry serve --check`: tries everything that a relay needs, and says what is wrong.

use std::io::ErrorKind;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::time::timeout;

use super::exit::{Exit, Failure};
use super::{connect, output, stores};
use crate::bus::{Bus, Event, Message};
use crate::config::{Config, Effective};
use crate::http;
use crate::metrics::S3Metrics;
use crate::proto::subject::Operation;
use crate::relay;
use crate::store::budget::Budget;

/// How long nats-server may take to send a message back to us.
const ROUND_TRIP: Duration = Duration::from_secs(3);

/// Tries `config` out; `effective` is what it was read from.
pub(super) async fn run(config: &Config, effective: &[Effective]) -> Result<(), Failure> {
    output::line("# The configuration that applies, and where each value comes from.")?;
    for line in effective {
        output::line(&line.to_string())?;
    }
    output::line("\n# What was tried.")?;
    let mut problems = Vec::new();
    tell("http.listen", listen(config, effective).await, &mut problems)?;
    tell("nats.url", nats(config, effective).await, &mut problems)?;
    for (name, outcome) in probes(config, effective).await {
        tell(&name, outcome, &mut problems)?;
    }
    if problems.is_empty() { Ok(()) } else { Err(Failure::new(Exit::Usage, problems.join("\n"))) }
}

fn tell(what: &str, outcome: Result<String, String>, problems: &mut Vec<String>) -> Result<(), Failure> {
    match outcome {
        Ok(text) => output::line(&format!("{what}: {text}")),
        Err(problem) => {
            output::line(&format!("{what}: FAILED"))?;
            problems.push(problem);
            Ok(())
        }
    }
}

/// Names a key, its value and where it stands, as every message about the configuration does.
fn named(effective: &[Effective], key: &str) -> String {
    effective
        .iter()
        .find(|line| line.key == key)
        .map_or_else(|| format!("`{key}`"), |line| format!("`{key}` = {} in {}", line.value, line.origin))
}

async fn listen(config: &Config, effective: &[Effective]) -> Result<String, String> {
    let Some(address) = config.http.listen else { return Ok("off".to_owned()) };
    match http::bind(address).await {
        Ok(_) => Ok(format!("{address} is free")),
        // A relay that runs may be why, and this may be the check before its restart.
        Err(error) if error.kind() == ErrorKind::AddrInUse => Ok(format!("{address} is in use, by a relay perhaps")),
        Err(error) if config.http.chosen => {
            let key = named(effective, "http.listen");
            Err(format!("{key}: can't be listened on: {error}: choose another address, or off"))
        }
        Err(error) => Ok(format!("{address} can't be listened on ({error}): the relay would go without its pages")),
    }
}

async fn nats(config: &Config, effective: &[Effective]) -> Result<String, String> {
    let bus = connect::nats(&config.nats).await.map_err(|failure| {
        let (key, cure) = if failure.exit == Exit::Denied {
            (auth_key(effective), "check these credentials, and whether the server knows the user")
        } else {
            ("nats.url", "start nats-server, or correct the address, port or TLS")
        };
        format!("{}: {}: {cure}", named(effective, key), failure.message)
    })?;
    let mut events = bus.events();
    let denied = round_trip(&*bus, config).await.map_err(|reason| {
        format!("{}: {reason}: check the rights of the relay's user", named(effective, "nats.url"))
    })?;
    let mut forbidden: Vec<_> = denied.into_iter().collect();
    while let Ok(event) = events.try_recv() {
        match event {
            Event::SubscribeDenied(subject) => forbidden.push(format!("to subscribe to {subject:?}")),
            Event::PublishDenied(subject) => forbidden.push(format!("to publish to {subject:?}")),
            Event::SlowConsumer | Event::LameDuck => {}
        }
    }
    if forbidden.is_empty() {
        return Ok(format!("connected, messages of up to {} bytes", bus.max_payload()));
    }
    let key = named(effective, "prefix");
    Err(format!("{key}: nats-server forbids the relay {}: grant that to its user", forbidden.join(", ")))
}

fn auth_key(effective: &[Effective]) -> &'static str {
    ["nats.creds_file", "nats.nkey_file", "nats.user", "nats.token_file", "nats.token"]
        .into_iter()
        .find(|key| effective.iter().any(|line| line.key == *key))
        .unwrap_or("nats.url")
}

/// Subscribes to what the relay would and sends a message to an inbox: by the time it is back, all that nats-server
/// forbids has been said. Returns what is forbidden if that message does not come back.
async fn round_trip(bus: &dyn Bus, config: &Config) -> Result<Option<String>, String> {
    let text = |error: crate::bus::Error| error.to_string();
    let mut held = Vec::new();
    for store in config.stores.keys() {
        for operation in Operation::ALL {
            let subject = config.prefix.request(operation, store);
            // A queue group of its own, so that no request is kept from the relays that serve.
            held.push(bus.subscribe(&subject, Some("gantry-check")).await.map_err(text)?);
        }
    }
    held.push(bus.subscribe(&config.prefix.controls("check"), None).await.map_err(text)?);
    let inbox = bus.new_inbox();
    let mut answers = bus.subscribe(&inbox, None).await.map_err(text)?;
    bus.publish(Message { subject: inbox.clone(), ..Message::default() }).await.map_err(text)?;
    bus.flush().await.map_err(text)?;
    match timeout(ROUND_TRIP, answers.next()).await {
        Ok(Some(_)) => Ok(None),
        Ok(None) => Err("the connection was closed".to_owned()),
        Err(_) => Ok(Some(format!("to send itself a message on {inbox:?}"))),
    }
}

async fn probes(config: &Config, effective: &[Effective]) -> Vec<(String, Result<String, String>)> {
    if config.stores.is_empty() {
        let problem = "`stores.NAME.url` is missing: give a store, as in --store files=file:///srv/files";
        return vec![("stores".to_owned(), Err(problem.to_owned()))];
    }
    let budget = Budget::new(config.relay.memory_budget_bytes);
    let mut outcomes = Vec::new();
    for name in config.stores.keys() {
        let only = Config {
            stores: config.stores.clone().into_iter().filter(|(own, _)| own == name).collect(),
            ..config.clone()
        };
        let outcome = match stores::open(&only, &budget, &S3Metrics::default()).await {
            Ok(opened) => probe(opened).await,
            Err(failure) => Err(failure.message),
        };
        let key = format!("stores.{name}.url");
        let outcome = outcome.map(|()| "answers".to_owned()).map_err(|reason| {
            let cure = "correct the address, the region, or the rights of the relay's credentials";
            format!("{}: {reason}: {cure}", named(effective, &key))
        });
        outcomes.push((key, outcome));
    }
    outcomes
}

async fn probe(stores: relay::Stores) -> Result<(), String> {
    for store in stores.values() {
        relay::probe(&**store).await?;
    }
    Ok(())
}
