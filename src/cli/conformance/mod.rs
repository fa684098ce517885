//! `gantry conformance`: tests a consumer or a relay against the rules of `docs/PROTOCOL.md`.

mod consumer;
mod relay;
mod report;

use std::sync::Arc;

use clap::{Args, Subcommand};

use super::exit::Failure;
use crate::config::Config;
use gantry_bus::Bus;
use gantry_relay::shutdown::Shutdown;

/// Test a consumer or a relay against the protocol
///
/// Prints a table of the rules of docs/PROTOCOL.md with the result for each, or one JSON object with --json. The exit code
/// is 1 if the consumer or relay breaks a rule.
#[derive(Args, Clone, Debug)]
pub(super) struct Conformance {
    #[command(subcommand)]
    side: Side,
}

#[derive(Clone, Debug, Subcommand)]
enum Side {
    Consumer(consumer::Consumer),
    Relay(relay::Relay),
}

impl Conformance {
    pub(super) async fn run(self, bus: Arc<dyn Bus>, config: &Config, shutdown: &Shutdown) -> Result<(), Failure> {
        let run = async {
            match self.side {
                Side::Consumer(consumer) => consumer.run(bus, config).await,
                Side::Relay(relay) => relay.run(bus, config).await,
            }
        };
        tokio::select! {
            done = run => done,
            () = shutdown.drain.cancelled() => Err(Failure::interrupted()),
        }
    }
}
