//! The connection to NATS.

use std::sync::Arc;
use std::time::Duration;

use super::exit::Failure;
use gantry_bus::nats::{self, Options};
use gantry_bus::{self as bus, Bus};
use gantry_relay::Buses;

/// Connects to NATS.
pub(super) async fn nats(options: &Options) -> Result<Arc<dyn Bus>, Failure> {
    Ok(try_nats(options).await?)
}

/// Connects to NATS, and returns an error that callers can match.
pub(super) async fn try_nats(options: &Options) -> Result<Arc<dyn Bus>, bus::Error> {
    let bus = nats::connect(options.clone()).await?;
    Ok(bus)
}

/// How long a server retries while nats-server refuses its credentials. A relay or gateway serves for months, and a server that
/// restarts may refuse everybody until it has loaded its accounts.
pub(super) const REFUSED_LIMIT: Duration = Duration::from_secs(60);

/// Makes the two connections of a relay, named so that `nats server report connections` shows which is which.
pub(super) async fn try_buses(options: &Options) -> Result<Buses, bus::Error> {
    let named = |connection: &str| {
        let name = format!("{} {connection}", options.name);
        Box::pin(nats::connect(Options { name, refused_limit: REFUSED_LIMIT, ..options.clone() }))
    };

    let (requests, data) = tokio::try_join!(named("requests"), named("data"))?;
    Ok(Buses { requests, data })
}
