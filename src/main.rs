//! The `gantry` command.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use gantry::cli::Cli;
use tikv_jemallocator::Jemalloc;
use tokio::runtime;

/// Chunks are buffers of half a megabyte that live for milliseconds. glibc's allocator returns each of them to the kernel,
/// which clears the pages again for the next one. That takes half of a consumer's CPU time. jemalloc keeps the pages for a
/// while.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// The allocator's settings, which it finds by the name of this symbol. With one arena, memory that one thread frees can
/// be reused by the others, so passing large buffers from thread to thread does not increase the process's memory.
#[expect(unsafe_code, reason = "exporting a symbol is unsafe, since its name could be another's")]
#[unsafe(export_name = "_rjem_malloc_conf")]
static ALLOCATOR_SETTINGS: &[u8; 10] = b"narenas:1\0";

/// The time limit at exit for work that can't be cancelled, such as a write to a disk that hangs.
const LINGER: Duration = Duration::from_millis(200);

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    let runtime = runtime::Builder::new_multi_thread().enable_all().build().context("can't start the runtime")?;
    let exit = runtime.block_on(cli.run());
    runtime.shutdown_timeout(LINGER);
    Ok(exit.into())
}
