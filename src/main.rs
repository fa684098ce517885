//! The `gantry` command.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use gantry_relay::cli::Cli;
use tokio::runtime;

/// How long work that can't be cancelled, such as a write to a disk that hangs, may hold up the end of the process.
const LINGER: Duration = Duration::from_millis(200);

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    let runtime = runtime::Builder::new_multi_thread().enable_all().build().context("can't start the runtime")?;
    let exit = runtime.block_on(cli.run());
    runtime.shutdown_timeout(LINGER);
    Ok(exit.into())
}
