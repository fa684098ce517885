//! `gantry serve`: the relay.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::sync::Arc;

use clap::Args;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::exit::{Exit, Failure};
use super::{Cli, check, connect, stores};
use crate::config::{self, Config, Effective, Place, Sources, without_credentials};
use crate::http;
use crate::telemetry;
use gantry_bus as bus;
use gantry_bus::rate::RateLimit;
use gantry_proto::{self as proto, StoreName};
use gantry_relay::metrics::{Facts, RelayMetrics, ResultLabel, Sampled};
use gantry_relay::shutdown::{self, Shutdown};
use gantry_relay::{self as relay, Buses, Readiness, Relay, Replaced};
use gantry_store::budget::Budget;

const ABOUT: &str = "Serve stores to whoever may ask

S3 is reached as the AWS tools reach it: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE, AWS_REGION, \
AWS_ENDPOINT_URL and so on. More than one endpoint, and limits, are set in a configuration file, or by variables such \
as GANTRY_STORES__FILES__ENDPOINT_URL.

The first SIGTERM or SIGINT lets transfers finish, the second ends at once. SIGHUP reads the stores' configuration again.";

/// Serve stores to whoever may ask
#[derive(Args, Clone, Debug)]
#[command(long_about = ABOUT)]
pub(super) struct Serve {
    #[arg(
        long = "store",
        value_name = "NAME=URL",
        help = "A store's name and where its objects are: s3://bucket/prefix or file:///dir. May be given more than once"
    )]
    stores: Vec<String>,
    #[arg(
        long,
        value_name = "ADDRESS",
        help = "Where /livez, /readyz and /metrics are answered, or off [default: 127.0.0.1:8080]"
    )]
    http: Option<String>,
    #[arg(long, help = "Print the configuration that applies, try to connect, ask each store, and exit with 0 or 2")]
    check: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct StoreArg {
    name: StoreName,
    url: String,
}

impl FromStr for StoreArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "must be NAME=URL, as in files=file:///srv/files";
        let (name, url) = text.split_once('=').ok_or(form)?;
        // The error of the name would show it, and an address that was put there.
        let name = name
            .parse()
            .map_err(|error| if name.contains('@') { form.to_owned() } else { format!("{error}: {form}") })?;
        Place::parse(url)?;
        Ok(Self { name, url: url.to_owned() })
    }
}

impl Serve {
    pub(super) fn settings(&self, sources: &mut Sources) -> Result<(), Failure> {
        let mut seen = BTreeSet::new();
        for text in &self.stores {
            // Not parsed by clap, which would print the whole of a wrong one, with the password that may be in it.
            let StoreArg { name, url } = text
                .parse()
                .map_err(|error| Failure::usage(format!("--store {:?}: {error}", without_credentials(text))))?;
            if !seen.insert(name.clone()) {
                return Err(Failure::usage(format!(
                    "--store {name} is given twice: give each store a name of its own"
                )));
            }
            sources.flags.set_store(&name, &url);
        }
        if let Some(address) = &self.http {
            sources.flags.set("http.listen", address, "--http");
        }
        Ok(())
    }

    pub(super) const fn is_check(&self) -> bool {
        self.check
    }

    pub(super) async fn run(
        self,
        config: &Config,
        effective: &[Effective],
        cli: &Cli,
        shutdown: &Shutdown,
    ) -> Result<(), Failure> {
        if self.check {
            return check::run(config, effective).await;
        }
        if config.stores.is_empty() {
            return Err(Failure::usage(
                "no store to serve: give one, as in --store files=file:///srv/files, or [stores.NAME] in a \
                 configuration file",
            ));
        }
        let mut hangups =
            shutdown::hangups().map_err(|error| Failure::new(Exit::Failed, format!("signals: {error}")))?;
        let options = options(config);
        let budget = options.budget.clone();
        let mut registry = Registry::default();
        let metrics = Arc::new(RelayMetrics::register(&mut registry, facts(&budget)));
        let stores = stores::open(config, &budget, &metrics.s3).await?;
        let listener = listen(&config.http).await?;
        let readiness = watch::Sender::new(Readiness::default());
        let pages = http::Pages { registry: Arc::new(registry), readiness: readiness.subscribe() };
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let mut told = tokio::spawn(async move {
            match listener {
                Some(listener) => http::serve(listener, pages, stopped).await,
                None => stopped.cancelled().await,
            }
        });
        let served = async {
            let _stop = stop.clone().drop_guard();
            let Some(buses) = first_connections(&config.nats, shutdown).await? else { return Ok(()) };
            let relay = Relay::start(buses, stores, options, Arc::clone(&metrics), shutdown.clone()).await?;
            let reloads = async {
                // Signals that come during a reload are one by then.
                while hangups.recv().await.is_some() {
                    reload(&relay, config, cli, &budget, &metrics).await;
                }
            };
            // Side by side: a reload waits for NATS, and neither readiness nor the end waits for a reload. One that is
            // under way at the end is dropped with all that it would have served.
            let beside = async { tokio::join!(show(relay.readiness(), &readiness), reloads) };
            tokio::select! {
                served = relay.wait() => Ok(served?),
                _ = beside => Ok(relay.wait().await?),
            }
        };
        tokio::select! {
            served = served => {
                // However it ended: the relay has.
                drop(told.await);
                served
            }
            _ = &mut told => Err(Failure::new(Exit::Failed, "the task of the operator's pages ended: see the log")),
        }
    }
}

/// Shows the relay's readiness on the operator's pages.
async fn show(mut of_relay: watch::Receiver<Readiness>, readiness: &watch::Sender<Readiness>) {
    loop {
        let now = of_relay.borrow_and_update().clone();
        readiness.send_replace(now);
        if of_relay.changed().await.is_err() {
            return;
        }
    }
}

/// Connects to NATS, trying for as long as it takes: nats-server may come later. Returns `None` for a shutdown.
///
/// # Errors
/// When another try would fail the same way: the server refuses us, or an option is unusable.
async fn first_connections(config: &config::Nats, shutdown: &Shutdown) -> Result<Option<Buses>, Failure> {
    loop {
        // Dropped on a shutdown, an attempt leaves nothing behind.
        let attempt = tokio::select! {
            attempt = connect::try_buses(config) => attempt,
            () = shutdown.drain.cancelled() => return Ok(None),
            () = shutdown.force.cancelled() => return Ok(None),
        };
        match attempt {
            Ok(buses) => return Ok(Some(buses)),
            Err(bus::Error::Unreachable { servers, reason }) => {
                warn!(servers, reason, "no connection to NATS yet: trying on, /readyz says not ready meanwhile");
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn facts(budget: &Budget) -> Facts {
    let sampled = budget.clone();
    Facts {
        protocol: proto::VERSION,
        memory_budget_bytes: budget.total_bytes(),
        memory_reserved_bytes: Sampled::new(move || sampled.reserved_bytes()),
        log_lines_dropped: Sampled::new(telemetry::dropped_lines),
    }
}

/// Binds the operator's pages. An address that someone chose must be had; the default may be another relay's already.
async fn listen(config: &config::Http) -> Result<Option<TcpListener>, Failure> {
    let Some(address) = config.listen else { return Ok(None) };
    match http::bind(address).await {
        Ok(listener) => {
            let address = listener.local_addr().unwrap_or(address);
            info!(%address, "answering /livez, /readyz and /metrics");
            Ok(Some(listener))
        }
        Err(error) if config.chosen => Err(Failure::usage(format!(
            "`http.listen` = {:?} can't be listened on: {error}: choose another address, or off",
            address.to_string()
        ))),
        Err(error) => {
            warn!(%address, %error, "going without /livez, /readyz and /metrics: set `http.listen` to have them");
            Ok(None)
        }
    }
}

/// Reads the configuration again and serves its stores. What is wrong with it is logged, and nothing changes.
async fn reload(relay: &Relay, running: &Config, cli: &Cli, budget: &Budget, metrics: &RelayMetrics) {
    let reloaded = async {
        let config = cli.sources()?.load()?;
        let stores = stores::open(&config, budget, &metrics.s3).await?;
        let replaced = relay.replace_stores(stores).await?;
        Ok::<_, Failure>((config, replaced))
    };
    let result = match reloaded.await {
        Ok((config, Replaced { added, kept, removed })) => {
            let names = |stores: Vec<StoreName>| stores.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            info!(added = names(added), kept = names(kept), removed = names(removed), "reloaded the stores");
            let others = config.differs_beside_stores(running);
            if !others.is_empty() {
                warn!(sections = others.join(","), "only stores are reloaded: the rest applies after a restart");
            }
            "ok"
        }
        Err(failure) => {
            for problem in failure.message.lines() {
                error!(problem, "the configuration is wrong: going on with the one before");
            }
            "failed"
        }
    };
    metrics.reloads.get_or_create(&ResultLabel { result }).inc();
}

fn options(config: &Config) -> relay::Options {
    relay::Options {
        prefix: config.prefix.clone(),
        delivery_allow: config.relay.delivery_allow.clone(),
        transfers_max: config.relay.transfers_max,
        budget: Budget::new(config.relay.memory_budget_bytes),
        chunk_max_bytes: config.relay.chunk_max_bytes,
        window_max_bytes: config.relay.window_max_bytes,
        beat_interval: config.relay.beat_interval,
        idle_timeout: config.relay.idle_timeout,
        drain_grace: config.relay.drain_grace,
        transfer_rate_max: config.relay.transfer_rate_max_bytes_per_s,
        rate_limit: config.relay.rate_max_bytes_per_s.map(RateLimit::new),
        ..relay::Options::default()
    }
}

impl From<relay::Error> for Failure {
    fn from(error: relay::Error) -> Self {
        match error {
            relay::Error::NoStore => Self::usage(error.to_string()),
            relay::Error::TaskEnded(_) => Self::new(Exit::Failed, error.to_string()),
            relay::Error::Bus(error) => error.into(),
            relay::Error::Lost { .. } => Self::new(Exit::Denied, error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_defaults_are_the_relays_own() {
        let ours = options(&Sources::default().load().unwrap());
        let theirs = relay::Options::default();
        assert_eq!(ours.budget.available_bytes(), theirs.budget.available_bytes());
        let shown = |options: relay::Options| format!("{:?}", relay::Options { budget: Budget::new(0), ..options });
        assert_eq!(shown(ours), shown(theirs));
    }

    #[test]
    fn a_store_argument_is_a_name_and_an_address() {
        let arg: StoreArg = "files=s3://bucket/a=b".parse().unwrap();
        assert_eq!((arg.name.as_str(), arg.url.as_str()), ("files", "s3://bucket/a=b"));
        for text in ["", "files", "files=", "=s3://b", "a.b=s3://b", "files=bucket", "files=http://b"] {
            assert!(text.parse::<StoreArg>().is_err(), "{text:?}");
        }
    }
}
