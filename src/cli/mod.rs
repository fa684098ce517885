//! The `gantry` command line: one file per subcommand. Results go to stdout, everything else to stderr.

mod address;
mod arguments;
mod cache;
mod caches;
mod cat;
mod check;
mod conformance;
mod connect;
mod du;
mod exit;
mod find;
mod gateway;
mod get;
mod global;
mod health;
mod help;
mod key_options;
mod ls;
mod output;
mod pages;
mod payload;
mod ping;
mod progress;
mod relays;
mod select;
mod serve;
mod show;
mod stat;
mod stores;
mod suggest;
mod survey;
mod sync;
mod tree;
mod watch;

use std::sync::Arc;

use clap::{Args, CommandFactory, Parser, Subcommand};
use tokio::time::Instant;

use self::exit::Failure;
use self::output::Form;
use crate::config::{Config, Effective, Sources};
use crate::telemetry;
use gantry_bus as bus;
use gantry_bus::rate::RateLimit;
use gantry_client as consumer;
use gantry_proto::StoreName;
use gantry_relay::shutdown::{Shutdown, Signals};

pub use self::exit::Exit;

/// Serve S3 objects and local files over NATS, and download them, verified and resumable
#[derive(Args, Debug)]
#[command(version, propagate_version = true, disable_help_subcommand = true, after_help = help::EXIT_CODES)]
pub struct Cli {
    #[command(flatten)]
    global: global::Global,
    #[command(subcommand)]
    command: Command,
}

impl CommandFactory for Cli {
    fn command() -> clap::Command {
        Self::augment_args(clap::Command::new("gantry"))
    }

    fn command_for_update() -> clap::Command {
        Self::augment_args_for_update(clap::Command::new("gantry"))
    }
}

impl Parser for Cli {
    /// Parses the arguments of this process, or ends it with a message without their credentials.
    fn parse() -> Self {
        Self::try_parse().unwrap_or_else(|error| arguments::exit(&error))
    }
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    // The help texts are on the structs: a comment here would replace them.
    Get(get::Get),
    Sync(sync::Sync),
    Watch(watch::Watch),
    Cat(cat::Cat),
    Ls(ls::Ls),
    Stat(stat::Stat),
    Find(find::Find),
    Du(du::Du),
    Stores(relays::Stores),
    Relays(relays::Relays),
    Ping(ping::Ping),
    Serve(serve::Serve),
    Gateway(gateway::Gateway),
    Cache(cache::Cache),
    Health(health::Health),
    Conformance(conformance::Conformance),
    Completions(help::Completions),
    Man(help::Man),
    Help(help::Help),
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
        if let Some(done) = self.command.run_alone() {
            return done;
        }

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
            is_queued: self.command.is_server(),
        };
        let telemetry = telemetry::init(options).map_err(|error| Failure::usage(error.to_string()))?;
        // Installed after the log's own panic hook, so that it runs before that one.
        bus::nats::quieten_panics();
        *is_logged = self.command.is_server() && format == telemetry::Format::Json;
        if let Some(ignored) = config.telemetry.ignored.as_deref().filter(|_| self.command.is_traced()) {
            tracing::warn!("{ignored}");
        }

        let shutdown = Shutdown::default();
        let signals = Signals::listen()
            .map_err(|error| Failure::new(Exit::Failed, format!("can't listen for signals: {error}")))?;
        let done = tokio::select! {
            done = self.command.clone().run(&config, &effective, &self, &shutdown) => done,
            () = signals.drive(&shutdown) => {
                bus::nats::expect_end();
                Err(Failure::interrupted())
            }
        };
        if !shutdown.force.is_cancelled() {
            telemetry.end().await;
        }
        done
    }
}

impl Command {
    /// Runs a command that needs no configuration. Returns `None` for the others.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the other commands have none")]
    fn run_alone(&self) -> Option<Result<(), Failure>> {
        match self {
            Self::Completions(completions) => Some(completions.run()),
            Self::Man(man) => Some(man.run()),
            Self::Help(help) => Some(help.run()),
            _ => None,
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the other commands are those of consumers")]
    async fn run(
        self,
        config: &Config,
        effective: &[Effective],
        cli: &Cli,
        shutdown: &Shutdown,
    ) -> Result<(), Failure> {
        match self {
            Self::Serve(serve) => serve.run(config, effective, cli, shutdown).await,
            Self::Gateway(gateway) => gateway.run(config, shutdown).await,
            Self::Cache(cache) => cache.run(config),
            Self::Health(health) => health.run(config).await,
            Self::Conformance(kit) => kit.run(connect::nats(&config.nats).await?, config, shutdown).await,
            command => command.consume(config, shutdown).await,
        }
    }

    /// Runs a command of a consumer.
    async fn consume(self, config: &Config, shutdown: &Shutdown) -> Result<(), Failure> {
        let started = Instant::now();
        let bus = tokio::select! {
            bus = connect::nats(&config.nats) => bus?,
            () = shutdown.drain.cancelled() => return Err(Failure::interrupted()),
        };
        let connected_in = started.elapsed();
        let options = consumer_options(config).rate_limit(self.rate_limit());
        let client = consumer::Client::new(Arc::clone(&bus), options);
        let prefix = &config.prefix;
        let wanted = self.stores();

        let done = match self {
            Self::Get(get) => Box::pin(get.run(client, shutdown)).await,
            Self::Sync(sync) => Box::pin(sync.run(&client, shutdown)).await,
            Self::Watch(watch) => Box::pin(watch.run(client, Arc::clone(&bus), shutdown)).await,
            Self::Cat(cat) => cat.run(&client, shutdown).await,
            Self::Ls(ls) => ls.run(&client, shutdown).await,
            Self::Stat(stat) => stat.run(&client, shutdown).await,
            Self::Find(find) => find.run(&client, shutdown).await,
            Self::Du(du) => du.run(&client, shutdown).await,
            Self::Stores(stores) => unless_interrupted(stores.run(&*bus, prefix), shutdown).await,
            Self::Relays(relays) => unless_interrupted(relays.run(&*bus, prefix), shutdown).await,
            Self::Ping(ping) => unless_interrupted(ping.run(config, &*bus, &client, connected_in), shutdown).await,
            Self::Serve(_)
            | Self::Gateway(_)
            | Self::Cache(_)
            | Self::Health(_)
            | Self::Conformance(_)
            | Self::Completions(_)
            | Self::Man(_)
            | Self::Help(_) => Ok(()),
        };
        let done = match done {
            Ok(()) => Ok(()),
            Err(failure) => Err(suggest::stores(failure, &wanted, &*bus, prefix).await),
        };
        bus::nats::expect_end();
        done
    }

    /// Returns the stores that the command names.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the other commands have none")]
    fn stores(&self) -> Vec<StoreName> {
        match self {
            Self::Get(get) => get.stores(),
            Self::Sync(sync) => vec![sync.store()],
            Self::Watch(watch) => vec![watch.store()],
            Self::Cat(cat) => cat.stores(),
            Self::Ls(ls) => vec![ls.store()],
            Self::Stat(stat) => vec![stat.store()],
            Self::Find(find) => vec![find.store()],
            Self::Du(du) => vec![du.store()],
            Self::Ping(ping) => ping.store().into_iter().collect(),
            _ => Vec::new(),
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the other commands have none")]
    fn rate_limit(&self) -> Option<RateLimit> {
        match self {
            Self::Get(get) => get.rate_limit(),
            Self::Sync(sync) => sync.rate_limit(),
            Self::Watch(watch) => watch.rate_limit(),
            _ => None,
        }
    }

    /// Checks the command's own options, and adds the settings from them.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the other commands have none")]
    fn settings(&self, sources: &mut Sources) -> Result<(), Failure> {
        match self {
            Self::Serve(serve) => serve.settings(sources),
            Self::Gateway(gateway) => {
                gateway.settings(sources);
                Ok(())
            }
            Self::Get(get) => get.check(),
            Self::Watch(watch) => watch.check(),
            _ => Ok(()),
        }
    }

    const fn is_check(&self) -> bool {
        matches!(self, Self::Serve(serve) if serve.is_check())
    }

    /// Returns whether the command serves others until it is stopped.
    const fn is_server(&self) -> bool {
        matches!(self, Self::Serve(serve) if !serve.is_check()) || matches!(self, Self::Gateway(_))
    }

    /// Returns whether the command is traced. A container's health check, which runs every few seconds, is not.
    const fn is_traced(&self) -> bool {
        !matches!(self, Self::Health(_) | Self::Conformance(_))
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the other commands have none")]
    const fn service(&self) -> &'static str {
        match self {
            Self::Serve(_) => "gantry-relay",
            Self::Gateway(_) => "gantry-gateway",
            _ => "gantry-consumer",
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the other commands have none")]
    const fn log_level(&self) -> &'static str {
        match self {
            Self::Serve(serve) if !serve.is_check() => "info",
            Self::Gateway(_) => "info",
            // The line that reports a failure already includes the libraries' errors.
            _ => "gantry=warn",
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the other commands have none")]
    fn form(&self) -> Form {
        match self {
            Self::Get(get) => get.form(),
            Self::Sync(sync) => sync.form(),
            Self::Watch(watch) => watch.form(),
            Self::Stat(stat) => stat.form(),
            Self::Ls(ls) => ls.form(),
            Self::Find(find) => find.form(),
            Self::Du(du) => du.form(),
            Self::Stores(stores) => stores.form(),
            Self::Relays(relays) => relays.form(),
            Self::Ping(ping) => ping.form(),
            Self::Cache(cache) => cache.form(),
            _ => Form::Text,
        }
    }
}

/// Returns the options of a command that downloads or asks. With more time to wait for a relay, the others are no shorter.
fn consumer_options(config: &Config) -> consumer::Options {
    let options = consumer::Options::default().prefix(config.prefix.clone()).no_relay_patience(config.await_relay);
    let (patience, query_timeout) = (options.patience, options.query_timeout);
    options.patience(patience.max(config.await_relay)).query_timeout(query_timeout.max(config.await_relay))
}

async fn unless_interrupted(
    work: impl Future<Output = Result<(), Failure>>,
    shutdown: &Shutdown,
) -> Result<(), Failure> {
    tokio::select! {
        done = work => done,
        () = shutdown.drain.cancelled() => Err(Failure::interrupted()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn options_of_all_commands_have_different_names() {
        Cli::command().debug_assert();
    }

    /// A doc comment on a variant of [`Command`] once replaced the long text.
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

    #[test]
    fn the_help_of_get_groups_its_options_by_what_they_apply_to() {
        let mut cli = Cli::command();
        cli.build();
        let get = cli.find_subcommand("get").unwrap();
        let heading = |name: &str| {
            let option = get.get_arguments().find(|option| option.get_long() == Some(name));
            option.unwrap().get_help_heading()
        };

        assert_eq!(heading("jobs"), Some("Options for several objects"));
        assert_eq!(heading("range"), Some("Options for one object"));
        assert_eq!((heading("limit-rate"), heading("json")), (None, None));
    }
}
