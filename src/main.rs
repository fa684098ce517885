//! The `gantry` command.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use gantry::cli::{Cli, Exit};
use gantry::{telemetry, threads};
use tikv_jemallocator::Jemalloc;

/// Chunks are buffers of half a megabyte that live for milliseconds. glibc's allocator returns each of them to the
/// kernel, which clears the pages again for the next one. This uses half of a consumer's CPU time. jemalloc keeps the
/// pages for a while.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// The allocator's settings. The allocator finds them by the name of this symbol. With one arena, memory that one
/// thread frees can be reused by the others, so passing large buffers from thread to thread does not increase the
/// process's memory.
#[expect(unsafe_code, reason = "exporting a symbol is unsafe, since its name could be another's")]
#[unsafe(export_name = "_rjem_malloc_conf")]
static ALLOCATOR_SETTINGS: &[u8; 10] = b"narenas:1\0";

/// The time limit at exit for work that can't be cancelled, such as a write to a disk that hangs.
const LINGER: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match threads::runtime() {
        Ok(runtime) => runtime,
        Err(error) => return without_threads(&error).into(),
    };

    let exit = runtime.block_on(async {
        tokio::select! {
            exit = cli.run() => exit,
            error = threads::exhausted() => without_threads(&error),
        }
    });
    runtime.shutdown_timeout(LINGER);
    exit.into()
}

/// Reports that the process can't start the threads that it needs.
fn without_threads(error: &io::Error) -> Exit {
    telemetry::print(&format!(
        "gantry: can't start a thread: {error}: raise the limit on processes, such as ulimit -u, TasksMax or --pids-limit"
    ));
    Exit::Failed
}
