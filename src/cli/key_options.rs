//! The command-line options that set configuration keys. They are generated from the table of keys.

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};

use crate::config::{Flag, Flags, KEYS, Key, Kind, Scope, parse_duration_ms};

/// The options of every command that set keys. Those for NATS are named as in the `nats` command line.
#[derive(Clone, Debug, Default)]
pub(super) struct GlobalKeys(Given);

/// The options of `gantry serve` that set keys.
#[derive(Clone, Debug, Default)]
pub(super) struct ServeKeys(Given);

/// The options of `gantry gateway` that set keys.
#[derive(Clone, Debug, Default)]
pub(super) struct GatewayKeys(Given);

/// The keys that were set on the command line, each with its value as text.
#[derive(Clone, Debug, Default)]
struct Given(Vec<(&'static Key, Flag, String)>);

impl GlobalKeys {
    /// Adds the options that were given to `flags`.
    pub(super) fn apply(&self, flags: &mut Flags) {
        self.0.apply(flags);
    }
}

impl ServeKeys {
    /// Adds the options that were given to `flags`.
    pub(super) fn apply(&self, flags: &mut Flags) {
        self.0.apply(flags);
    }
}

impl GatewayKeys {
    /// Adds the options that were given to `flags`.
    pub(super) fn apply(&self, flags: &mut Flags) {
        self.0.apply(flags);
    }
}

impl Given {
    fn apply(&self, flags: &mut Flags) {
        for (key, flag, value) in &self.0 {
            flags.set(key.name, value, &format!("--{}", flag.long));
        }
    }

    /// Collects the given options that belong to some scopes.
    fn of_matches(matches: &ArgMatches, scopes: &[Scope]) -> Self {
        let value_of = |key: &'static Key| match key.kind {
            Kind::Switch => matches.get_flag(key.name).then(|| "true".to_owned()),
            Kind::Millis { .. } => matches.get_one::<u64>(key.name).map(ToString::to_string),
            Kind::Text | Kind::Secret | Kind::Path | Kind::Integer { .. } | Kind::List | Kind::Choice(_) => {
                matches.get_one::<String>(key.name).cloned()
            }
        };
        Self(flags_of(scopes).filter_map(|(key, flag)| Some((key, flag, value_of(key)?))).collect())
    }
}

fn flags_of(scopes: &[Scope]) -> impl Iterator<Item = (&'static Key, Flag)> {
    let flags = KEYS.iter().filter_map(|key| Some((key, key.flag?)));
    flags.filter(|(_, flag)| scopes.contains(&flag.scope))
}

fn add(command: Command, scopes: &[Scope]) -> Command {
    command.args(flags_of(scopes).map(|(key, flag)| arg(key, flag)))
}

fn arg(key: &'static Key, flag: Flag) -> Arg {
    let arg = Arg::new(key.name).long(flag.long).short(flag.short).help(help(key));
    let arg = match key.kind {
        Kind::Switch => arg.action(ArgAction::SetTrue),
        Kind::Millis { .. } => arg.value_name(flag.value_name).value_parser(ValueParser::new(parse_duration_ms)),
        Kind::Text | Kind::Secret | Kind::Path | Kind::Integer { .. } | Kind::List | Kind::Choice(_) => {
            arg.value_name(flag.value_name)
        }
    };
    match flag.scope {
        Scope::Nats => arg.global(true).help_heading("NATS options"),
        Scope::Global => arg.global(true).help_heading("Global options"),
        Scope::Serve | Scope::Gateway | Scope::Pages => arg,
    }
}

/// Returns the key's meaning with its variable and its default.
fn help(key: &Key) -> String {
    let own = || key.alias.map_or_else(|| key.env_name(), str::to_owned);
    let variable = key.variable.map_or_else(own, str::to_owned);
    let mut help = format!("{} [env: {variable}]", key.meaning.replace('`', ""));

    // On the command line, a duration is written with its unit, and a switch is off unless it is given.
    let default = match key.kind {
        Kind::Millis { .. } => key.default_text().map(|default| match default.strip_suffix("000") {
            Some(seconds) if !seconds.is_empty() => format!("{seconds}s"),
            _ => format!("{default}ms"),
        }),
        Kind::Switch => None,
        Kind::Text | Kind::Secret | Kind::Path | Kind::Integer { .. } | Kind::List | Kind::Choice(_) => {
            key.default_text()
        }
    };
    if let Some(default) = default {
        help += &format!(" [default: {default}]");
    }
    help
}

/// Implements the traits of clap for options of some scopes.
macro_rules! impl_args {
    ($type:ident, $scopes:expr) => {
        impl Args for $type {
            fn augment_args(command: Command) -> Command {
                add(command, $scopes)
            }

            fn augment_args_for_update(command: Command) -> Command {
                add(command, $scopes)
            }
        }

        impl FromArgMatches for $type {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
                Ok(Self(Given::of_matches(matches, $scopes)))
            }

            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
                *self = Self::from_arg_matches(matches)?;
                Ok(())
            }
        }
    };
}

impl_args!(GlobalKeys, &[Scope::Nats, Scope::Global]);
impl_args!(ServeKeys, &[Scope::Serve, Scope::Pages]);
impl_args!(GatewayKeys, &[Scope::Gateway, Scope::Pages]);
