//! `gantry serve`: the relay.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::sync::Arc;

use clap::Args;

use super::exit::Failure;
use super::{connect, stores};
use crate::config::{Config, Place, Sources};
use crate::metrics::RelayMetrics;
use crate::proto::StoreName;
use crate::relay::{self, Relay};
use crate::shutdown::Shutdown;
use crate::store::budget::Budget;

const ABOUT: &str = "Serve stores to whoever may ask

S3 is reached as the AWS tools reach it: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE, AWS_REGION, \
AWS_ENDPOINT_URL and so on. More than one endpoint, and limits, are set in a configuration file, or by variables such \
as GANTRY_STORES__FILES__ENDPOINT_URL.

The first SIGTERM or SIGINT lets transfers finish, the second ends at once.";

/// Serve stores to whoever may ask
#[derive(Args, Clone, Debug)]
#[command(long_about = ABOUT)]
pub(super) struct Serve {
    #[arg(
        long = "store",
        value_name = "NAME=URL",
        help = "A store's name and where its objects are: s3://bucket/prefix or file:///dir. May be given more than once"
    )]
    stores: Vec<StoreArg>,
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
        let name = name.parse().map_err(|error| format!("{error}: {form}"))?;
        Place::parse(url)?;
        Ok(Self { name, url: url.to_owned() })
    }
}

impl Serve {
    pub(super) fn settings(&self, sources: &mut Sources) -> Result<(), Failure> {
        let mut seen = BTreeSet::new();
        for StoreArg { name, url } in &self.stores {
            if !seen.insert(name) {
                return Err(Failure::usage(format!(
                    "--store {name} is given twice: give each store a name of its own"
                )));
            }
            sources.flags.set_store(name, url);
        }
        Ok(())
    }

    pub(super) async fn run(self, config: &Config, shutdown: &Shutdown) -> Result<(), Failure> {
        if config.stores.is_empty() {
            return Err(Failure::usage(
                "no store to serve: give one, as in --store files=file:///srv/files, or [stores.NAME] in a \
                 configuration file",
            ));
        }
        let options = options(config);
        let stores = stores::open(config, &options.budget).await?;
        let bus = connect::nats(&config.nats).await?;
        let metrics = Arc::new(RelayMetrics::default());
        let relay = Relay::start(bus, stores, options, metrics, shutdown.clone()).await?;
        Ok(relay.wait().await?)
    }
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
        ..relay::Options::default()
    }
}

impl From<relay::Error> for Failure {
    fn from(error: relay::Error) -> Self {
        match error {
            relay::Error::NoStore => Self::usage(error.to_string()),
            relay::Error::Bus(error) => error.into(),
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
