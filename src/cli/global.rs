//! The options of every command.

use std::path::PathBuf;

use clap::Args;

use super::key_options::GlobalKeys;
use crate::config::{ContextChoice, Sources};

/// The options of every command: those that set configuration keys, and those that select the sources of settings.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct Global {
    #[command(flatten)]
    keys: GlobalKeys,
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        conflicts_with = "no_context",
        help_heading = "NATS options",
        help = "Context of the nats command line, by name or .json file; default: the selected one [env: NATS_CONTEXT]"
    )]
    context: Option<String>,
    #[arg(long, global = true, help_heading = "NATS options", help = "Ignore the selected context")]
    no_context: bool,
    #[arg(
        short,
        long,
        global = true,
        value_name = "FILE",
        help_heading = "Global options",
        help = "Configuration file [env: GANTRY_CONFIG]"
    )]
    config: Option<PathBuf>,
}

impl Global {
    /// Adds these options to `sources`.
    pub(super) fn sources(&self, mut sources: Sources) -> Sources {
        if let Some(config) = &self.config {
            sources.file = Some(config.clone());
        }
        if let Some(context) = &self.context {
            sources.context = ContextChoice::Named(context.clone());
        }
        if self.no_context {
            sources.context = ContextChoice::Never;
        }

        self.keys.apply(&mut sources.flags);
        sources
    }
}
