//! The connection to NATS.

use std::sync::Arc;

use super::exit::Failure;
use gantry_bus::nats::{self, Options};
use gantry_bus::{self as bus, Bus};

/// Connects to NATS.
pub(super) async fn nats(options: &Options) -> Result<Arc<dyn Bus>, Failure> {
    Ok(try_nats(options).await?)
}

/// Connects to NATS, and returns an error that callers can match.
pub(super) async fn try_nats(options: &Options) -> Result<Arc<dyn Bus>, bus::Error> {
    let bus = nats::connect(options.clone()).await?;
    Ok(bus)
}
