//! `gantry conformance consumer`: a scripted relay tests a consumer.

mod case;
mod cases;
mod judge;
mod process;
mod relay;
mod scene;
mod transfer;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use futures_util::{StreamExt as _, stream};
use gantry_bus::Bus;
use gantry_proto::subject::Prefix;
use tokio::time::{Instant, sleep};

use self::case::{Case, Level};
use self::process::{Ended, Names};
use self::relay::Relay;
use self::scene::Scene;
use super::super::exit::{Exit, Failure};
use super::report::{self, Row, Verdict};
use crate::config::Config;

/// How long messages may still arrive after the consumer has ended.
const LAST_MESSAGES: Duration = Duration::from_millis(200);

/// Test a consumer with a scripted relay
///
/// For each case, a scripted relay serves one object in a store of its own, and breaks the protocol in one way. COMMAND is
/// started once per case. It must download {key} of {store} from the nats-server {url} to {file}, and exit with 0 if and
/// only if the file is complete and verified. For example:
///
/// `gantry conformance consumer --level bare -- python3 examples/bare_consumer.py {url} {store} {key} {file}`
#[derive(Args, Clone, Debug)]
#[command(verbatim_doc_comment)]
pub(super) struct Consumer {
    #[arg(long, value_enum, default_value = "bare", help = "Level of docs/PROTOCOL.md that the consumer implements")]
    level: Level,
    #[arg(long = "case", value_name = "ID", help = "Run only this case; may be repeated")]
    cases: Vec<String>,
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=64),
        help = "Cases to run at once")]
    jobs: u8,
    #[arg(long, value_name = "SECONDS", default_value_t = 40, value_parser = clap::value_parser!(u16).range(1..),
        help = "Time after which a consumer that has not ended has failed the case")]
    patience: u16,
    #[arg(long, help = "Print one JSON object")]
    json: bool,
    #[arg(last = true, required = true, value_name = "COMMAND", help = "Command that downloads, with placeholders")]
    command: Vec<String>,
}

/// The state that all cases share.
struct Bench {
    bus: Arc<dyn Bus>,
    prefix: Prefix,
    url: String,
    level: Level,
    patience: Duration,
    command: Vec<String>,
}

impl Consumer {
    pub(super) async fn run(self, bus: Arc<dyn Bus>, config: &Config) -> Result<(), Failure> {
        let cases = self.chosen()?;
        let bench = Bench {
            bus,
            prefix: config.prefix.clone(),
            url: config.nats.servers.join(","),
            level: self.level,
            patience: Duration::from_secs(u64::from(self.patience)),
            command: self.command,
        };

        let rows = stream::iter(cases).map(|case| bench.judge(case)).buffered(usize::from(self.jobs));
        let rows: Vec<Row> = Box::pin(rows.collect()).await;
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

impl Bench {
    async fn judge(&self, case: &'static Case) -> Row {
        let began = Instant::now();
        let verdict = if case.level > self.level {
            Verdict::NotApplicable("a higher level")
        } else {
            match Box::pin(self.play(case)).await {
                Ok(problems) => Verdict::of(problems),
                Err(error) => Verdict::Failed(vec![format!("the kit failed: {error}")]),
            }
        };

        let (id, section, rule) = (case.id, case.section, case.rule);
        Row { id, section, rule, level: case.level.name(), verdict, elapsed: began.elapsed() }
    }

    /// Runs the consumer against the case's relay. Returns the rules that it broke.
    async fn play(&self, case: &'static Case) -> anyhow::Result<Vec<String>> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("file");
        let scene = Arc::new(Scene::new(case, Arc::clone(&self.bus), self.prefix.clone()));
        let mut relay = Relay::start(Arc::clone(&scene)).await?;

        let consumer = async {
            let ended = self.consume(&scene, &file).await;
            scene.ended.cancel();
            sleep(LAST_MESSAGES).await;
            ended
        };
        let ended = tokio::select! {
            ended = consumer => ended,
            served = relay.serve() => return Err(served.err().unwrap_or(gantry_bus::Error::Closed).into()),
        };
        Ok(judge::problems(&scene, self.level, &ended, &file))
    }

    async fn consume(&self, scene: &Scene, file: &Path) -> Ended {
        let names = Names { url: &self.url, store: scene.store.as_str(), key: scene.case.object.key, file };
        process::run(&self.command, names, self.patience).await
    }
}
