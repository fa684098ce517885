//! The `gantry` command.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use gantry::cli::Cli;
use tikv_jemallocator::Jemalloc;
use tokio::runtime;

/// Chunks are buffers of half a megabyte that live for milliseconds. glibc's allocator gives each back to the kernel,
/// which clears its pages again for the next one: half of a consumer's CPU time. This one keeps them for a while.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// The allocator's settings, which it finds by the name of this symbol. With one arena, memory that one thread frees
/// can be used by the others: a process that passes large buffers from thread to thread keeps no more than it needs.
#[expect(unsafe_code, reason = "exporting a symbol is unsafe, since its name could be another's")]
#[unsafe(export_name = "_rjem_malloc_conf")]
static ALLOCATOR_SETTINGS: &[u8; 10] = b"narenas:1\0";

/// How long work that can't be cancelled, such as a write to a disk that hangs, may hold up the end of the process.
const LINGER: Duration = Duration::from_millis(200);

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    let runtime = runtime::Builder::new_multi_thread().enable_all().build().context("can't start the runtime")?;
    let exit = runtime.block_on(cli.run());
    runtime.shutdown_timeout(LINGER);
    Ok(exit.into())
}
