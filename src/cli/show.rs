//! The options of downloads that decide what is printed.

use clap::Args;

use super::progress::{self, Meter};

/// What a download prints.
#[derive(Args, Clone, Debug)]
pub(super) struct Show {
    #[arg(long, help = "Print the result as JSON on stdout, or on stderr if stdout carries the bytes")]
    pub(super) json: bool,
    #[arg(short, long, help = "Print nothing but failures")]
    pub(super) quiet: bool,
    #[arg(long, value_enum, value_name = "FORM", default_value_t, help = "What to print on stderr meanwhile")]
    pub(super) progress: progress::Form,
}

impl Show {
    pub(super) fn meter(&self, is_quiet: bool) -> Meter {
        Meter::new(self.progress, is_quiet || self.json)
    }
}
