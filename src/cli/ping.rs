//! `gantry ping`: tests each step of the path to a store.

use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, timeout};

use super::exit::{Exit, Failure};
use super::output::{self, Form};
use super::survey::{self, Failed, Found};
use crate::config::{Config, without_credentials};
use gantry_bus::Bus;
use gantry_client::{Client, Error, Get};
use gantry_proto::{ListRequest, StoreName, printable};

/// The time limit for nats-server to answer.
const SERVER_WITHIN: Duration = Duration::from_secs(5);

/// Test the way to the relays and to a store, step by step
///
/// The steps are: the connection to nats-server, the permission to ask for relays, the relays, the first page of the
/// store's listing, and a request for no bytes of the first object in it. The exit code is that of the step that fails.
#[derive(Args, Clone, Debug)]
pub(super) struct Ping {
    #[arg(value_name = "STORE", help = "Store to test; without it, the test ends at the relays")]
    store: Option<StoreName>,
    #[arg(long, help = "Print one JSON object per step")]
    json: bool,
}

impl Ping {
    pub(super) const fn form(&self) -> Form {
        if self.json { Form::Json } else { Form::Text }
    }

    pub(super) fn store(&self) -> Option<StoreName> {
        self.store.clone()
    }

    /// Runs the steps after the connection, which took `connected_in`.
    pub(super) async fn run(
        self,
        config: &Config,
        bus: &dyn Bus,
        client: &Client,
        connected_in: Duration,
    ) -> Result<(), Failure> {
        let servers =
            config.nats.servers.iter().map(|server| without_credentials(server)).collect::<Vec<_>>().join(",");
        let limit = bus.max_payload();
        let connected = format!("connected to {servers}, which takes messages of up to {limit} bytes");
        self.step("server", &connected, connected_in)?;

        let asked = Instant::now();
        match timeout(SERVER_WITHIN, bus.flush()).await {
            Ok(flushed) => flushed?,
            Err(_) => return Err(Failure::new(Exit::GaveUp, "nats-server does not answer").about("server")),
        }
        let relays = match survey::relays(bus, &config.prefix).await {
            Ok(relays) => relays,
            // Consumers need this permission only to look for relays.
            Err(Failed::Denied(what)) if self.store.is_some() => {
                let skipped = format!("asking for relays is denied ({what}), downloads do not need it");
                self.step("permissions", &skipped, asked.elapsed())?;
                return self.ask_store(client, None).await;
            }
            Err(failed) => return Err(Failure::from(failed).about("permissions")),
        };
        self.step("permissions", "asking for relays is allowed", asked.elapsed())?;

        let Some(fastest) = relays.iter().map(|relay| relay.round_trip_ms).min() else {
            let message = format!(
                "none with the prefix {} answers: start one with gantry serve, or correct --server or --prefix",
                config.prefix
            );
            return Err(Failure::new(Exit::GaveUp, message).about("relays"));
        };
        let hosts: Vec<_> = relays.iter().map(|relay| format!("{} ({})", relay.host, relay.version)).collect();
        let found = format!("{} answered: {}", relays.len(), hosts.join(", "));
        self.step("relays", &found, Duration::from_millis(fastest))?;
        self.ask_store(client, Some(&relays)).await
    }

    /// Lists the store and requests an object of it. `relays` are those that answered, if asking them is allowed.
    async fn ask_store(&self, client: &Client, relays: Option<&[Found]>) -> Result<(), Failure> {
        let Some(store) = &self.store else { return Ok(()) };
        let asked = Instant::now();
        let request = ListRequest { limit: Some(1), recursive: true, ..ListRequest::default() };
        let page = client.list_page(store, &request).await;
        let page = page.map_err(|error| Failure::from(error).about(format!("store {store}")))?;
        let is_empty = page.entries.is_empty() && page.prefixes.is_empty();
        let listed = if is_empty { "is empty, or has no keys that can be listed" } else { "can be listed" };
        let by = relays.map_or_else(String::new, |relays| {
            let serving = relays.iter().filter(|relay| relay.stores.contains(store.as_str())).count();
            format!(", by {serving} of the relays")
        });
        self.step("store", &format!("{store} {listed}{by}"), asked.elapsed())?;

        let Some(entry) = page.entries.first() else { return Ok(()) };
        let asked = Instant::now();
        let address = format!("{store}/{}", entry.key);
        open(client, &address).await.map_err(|error| Failure::from(error).about(format!("get {address}")))?;
        self.step("get", &format!("{} can be requested", printable::name(&address)), asked.elapsed())
    }

    fn step(&self, name: &str, what: &str, took: Duration) -> Result<(), Failure> {
        if self.json {
            let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            return output::json(&serde_json::json!({ "step": name, "message": what, "took_ms": took_ms }));
        }
        output::line(&format!("{name:<12} ok  {:>8}  {what}", output::seconds(took)))
    }
}

/// Requests no bytes of an object.
async fn open(client: &Client, address: &str) -> Result<(), Error> {
    let mut download = client.get(Get::at(address)?.range(0..0)).await?;
    while download.try_next().await?.is_some() {}
    Ok(())
}
