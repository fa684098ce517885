//! `gantry conformance relay`: a scripted consumer tests a relay.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a message that a case does not expect breaks its rule, whatever it is"
)]

mod bench;
mod cases;
mod talk;

use std::sync::Arc;

use clap::Args;
use gantry_bus::Bus;
use tokio::time::Instant;

use self::bench::{Bench, Broken, Case};
use super::super::address::ObjectAddress;
use super::super::exit::{Exit, Failure};
use super::report::{self, Row, Verdict};
use crate::config::Config;

/// Test a relay with a scripted consumer
///
/// Needs an object in a store of the relay. No other relay should serve the store.
#[derive(Args, Clone, Debug)]
pub(super) struct Relay {
    #[arg(value_name = "STORE/KEY", help = "An object of at least 100,000 bytes that the relay serves")]
    address: ObjectAddress,
    #[arg(long = "case", value_name = "ID", help = "Run only this case; may be repeated")]
    cases: Vec<String>,
    #[arg(long, help = "Print one JSON object")]
    json: bool,
}

impl Relay {
    pub(super) async fn run(self, bus: Arc<dyn Bus>, config: &Config) -> Result<(), Failure> {
        let cases = self.chosen()?;
        let bench = Bench::start(bus, config.prefix.clone(), &self.address)
            .await
            .map_err(|broken| Failure::new(Exit::GaveUp, broken.to_string()).about(self.address.to_string()))?;

        // Sequentially, so that no case affects another one's timing.
        let mut rows = Vec::new();
        for case in cases {
            rows.push(judge(&bench, case).await);
        }
        report::print(&rows, self.json)
    }

    fn chosen(&self) -> Result<Vec<&'static Case>, Failure> {
        let all: Vec<_> = cases::all().collect();
        if let Some(unknown) = self.cases.iter().find(|id| !all.iter().any(|case| case.id == **id)) {
            return Err(Failure::new(Exit::Usage, format!("there is no case {unknown:?}")));
        }
        Ok(all.into_iter().filter(|case| self.cases.is_empty() || self.cases.iter().any(|id| id == case.id)).collect())
    }
}

async fn judge(bench: &Bench, case: &'static Case) -> Row {
    let began = Instant::now();
    let verdict = match (case.run)(bench).await {
        Ok(()) => Verdict::Passed,
        Err(Broken::Inapplicable(reason)) => Verdict::NotApplicable(reason),
        Err(broken) => Verdict::Failed(vec![broken.to_string()]),
    };
    let (id, section, rule) = (case.id, case.section, case.rule);
    Row { id, section, rule, level: "relay", verdict, elapsed: began.elapsed() }
}
