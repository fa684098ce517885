//! The `gantry` command line: one file per subcommand. Results go to stdout, everything else to stderr.

mod address;
mod check;
mod conformance;
mod connect;
mod exit;
mod get;
mod global;
mod health;
mod key_options;
mod ls;
mod output;
mod serve;
mod stat;
mod stores;

use clap::{Parser, Subcommand};

use self::exit::Failure;
use self::output::Form;
use crate::config::{Config, Effective, Sources};
use crate::telemetry;
use gantry_bus as bus;
use gantry_bus::rate::RateLimit;
use gantry_client as consumer;
use gantry_relay::shutdown::{Shutdown, Signals};

pub use self::exit::Exit;

/// Serve S3 objects and local files over NATS, and download them, verified and resumable
#[derive(Debug, Parser)]
#[command(name = "gantry", version, propagate_version = true, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(flatten)]
    global: global::Global,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
    0  success; a download is complete and verified
    1  any other failure
    2  invalid command line or configuration
    4  no such store, bucket, key or version
    5  gave up on a failure that may pass; retry later
    6  the bytes do not match the store's checksum
    7  the object changed during the download
    8  access denied
  130  interrupted by a signal";

#[derive(Clone, Debug, Subcommand)]
enum Command {
    // The help texts are on the structs: a comment here would replace them.
    Serve(serve::Serve),
    Get(get::Get),
    Stat(stat::Stat),
    Ls(ls::Ls),
    Health(health::Health),
    Conformance(conformance::Conformance),
}

impl Cli {
    /// Runs the command, and reports a failure.
    pub async fn run(self) -> Exit {
        let form = self.command.form();
        let mut is_logged = false;
        let exit = match Box::pin(self.try_run(&mut is_logged)).await {
            Ok(()) => Exit::Done,
            Err(failure) => {
                if is_logged {
                    output::logged_failure(&failure)
                } else {
                    output::failure(&failure, form)
                }
                failure.exit
            }
        };
        telemetry::flush().await;
        exit
    }

    /// Returns the sources of settings, including the options of this command line.
    fn sources(&self) -> Result<Sources, Failure> {
        let mut sources = Sources::of_process();
        self.command.settings(&mut sources)?;
        Ok(self.global.sources(sources))
    }

    /// Runs the command. Sets `is_logged` once failures must be logged, as JSON, instead of printed.
    async fn try_run(self, is_logged: &mut bool) -> Result<(), Failure> {
        let (config, effective) = self.sources()?.read();
        let config = match config {
            Ok(config) => config,
            Err(error) => {
                if self.command.is_check() {
                    check::print_valid(&effective, &error)?;
                }
                return Err(error.into());
            }
        };

        let level = config.log.level.as_deref().unwrap_or_else(|| self.command.log_level());
        let format = config.log.format;
        let options = telemetry::Options {
            level,
            format,
            traces_url: config.telemetry.traces_url.as_deref().filter(|_| self.command.is_traced()),
            traces_optional: config.telemetry.is_inherited,
            service: self.command.service(),
            is_queued: self.command.is_relay(),
        };
        let telemetry = telemetry::init(options).map_err(|error| Failure::usage(error.to_string()))?;
        // Installed after the log's own panic hook, so that it runs before that one.
        bus::nats::quieten_panics();
        *is_logged = self.command.is_relay() && format == telemetry::Format::Json;
        if let Some(ignored) = config.telemetry.ignored.as_deref().filter(|_| self.command.is_traced()) {
            tracing::warn!("{ignored}");
        }

        let shutdown = Shutdown::default();
        let signals = Signals::listen()
            .map_err(|error| Failure::new(Exit::Failed, format!("can't listen for signals: {error}")))?;
        let done = tokio::select! {
            done = self.command.clone().run(&config, &effective, &self, &shutdown) => done,
            () = signals.drive(&shutdown) => Err(Failure::interrupted()),
        };
        if !shutdown.force.is_cancelled() {
            telemetry.end().await;
        }
        done
    }
}

impl Command {
    async fn run(
        self,
        config: &Config,
        effective: &[Effective],
        cli: &Cli,
        shutdown: &Shutdown,
    ) -> Result<(), Failure> {
        match self {
            Self::Serve(serve) => serve.run(config, effective, cli, shutdown).await,
            Self::Health(health) => health.run(config).await,
            Self::Get(get) => {
                let client = client(config, get.rate_limit(), shutdown).await?;
                get.run(client, shutdown).await
            }
            Self::Stat(stat) => stat.run(&client(config, None, shutdown).await?, shutdown).await,
            Self::Ls(ls) => ls.run(&client(config, None, shutdown).await?, shutdown).await,
            Self::Conformance(kit) => kit.run(connect::nats(&config.nats).await?, config, shutdown).await,
        }
    }

    /// Adds the settings from the command's own options.
    fn settings(&self, sources: &mut Sources) -> Result<(), Failure> {
        match self {
            Self::Serve(serve) => serve.settings(sources),
            Self::Get(_) | Self::Stat(_) | Self::Ls(_) | Self::Health(_) | Self::Conformance(_) => Ok(()),
        }
    }

    const fn is_check(&self) -> bool {
        matches!(self, Self::Serve(serve) if serve.is_check())
    }

    const fn is_relay(&self) -> bool {
        matches!(self, Self::Serve(serve) if !serve.is_check())
    }

    /// Returns whether the command is traced. A container's health check, which runs every few seconds, is not.
    const fn is_traced(&self) -> bool {
        !matches!(self, Self::Health(_) | Self::Conformance(_))
    }

    const fn service(&self) -> &'static str {
        match self {
            Self::Serve(_) => "gantry-relay",
            Self::Get(_) | Self::Stat(_) | Self::Ls(_) | Self::Health(_) | Self::Conformance(_) => "gantry-consumer",
        }
    }

    const fn log_level(&self) -> &'static str {
        match self {
            Self::Serve(serve) if !serve.is_check() => "info",
            // The line that reports a failure includes what the libraries say about it.
            Self::Serve(_) | Self::Get(_) | Self::Stat(_) | Self::Ls(_) | Self::Health(_) | Self::Conformance(_) => {
                "gantry=warn"
            }
        }
    }

    fn form(&self) -> Form {
        match self {
            Self::Serve(_) | Self::Health(_) | Self::Conformance(_) => Form::Text,
            Self::Get(get) => get.form(),
            Self::Stat(stat) => stat.form(),
            Self::Ls(ls) => ls.form(),
        }
    }
}

async fn client(
    config: &Config,
    rate_limit: Option<RateLimit>,
    shutdown: &Shutdown,
) -> Result<consumer::Client, Failure> {
    let bus = tokio::select! {
        bus = connect::nats(&config.nats) => bus?,
        () = shutdown.drain.cancelled() => return Err(Failure::interrupted()),
    };
    let options = consumer::Options::default().prefix(config.prefix.clone()).rate_limit(rate_limit);
    Ok(consumer::Client::new(bus, options))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// A doc comment on a variant of [`Command`] replaced the long text.
    #[test]
    fn long_help_explains_signals_and_resuming() {
        let mut cli = Cli::command();
        for (name, text) in [("serve", "SIGHUP"), ("get", "resume it"), ("ls", "cut after the next slash")] {
            let command = cli.find_subcommand_mut(name).unwrap();
            let help = command.render_long_help().to_string();
            let unwrapped = help.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(unwrapped.contains(text), "{name}: {help}");
        }
    }
}
