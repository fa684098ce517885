//! Threads under a limit of processes, such as `ulimit -u` or a container's `--pids-limit`.
//!
//! Tokio panics if it can't start its first thread. If it can't start a later one for a blocking call, the call waits
//! for a thread forever. The runtime therefore gets as many threads as the limit permits, and if the limit is reached
//! later, the process ends with a message.

use std::io;
use std::num::NonZeroUsize;
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};

/// The number of threads that a command needs in addition to the workers: for writing a file, for looking up names, and
/// for writing the log.
const BESIDE_WORKERS: usize = 3;

/// The interval at which a thread for a blocking call is requested.
const WATCH_INTERVAL: Duration = Duration::from_secs(5);

/// How long such a thread may take to start before the limit is examined.
const START_LIMIT: Duration = Duration::from_secs(5);

/// Starts the runtime with one worker per CPU, or with fewer if the process may not start that many threads.
///
/// # Errors
/// If the process may not start enough threads for even one worker.
pub fn runtime() -> io::Result<Runtime> {
    let cpus = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let started = count_startable(cpus + BESIDE_WORKERS);
    let workers = match started {
        Ok(()) => cpus,
        Err((count, _)) if count > BESIDE_WORKERS => count - BESIDE_WORKERS,
        Err((_, error)) => return Err(error),
    };
    Builder::new_multi_thread().worker_threads(workers).enable_all().build()
}

/// Waits until no thread can be started for a blocking call, and returns why.
///
/// # Cancel safety
/// Nothing is lost if the future is dropped.
pub async fn exhausted() -> io::Error {
    loop {
        sleep(WATCH_INTERVAL).await;
        if timeout(START_LIMIT, tokio::task::spawn_blocking(|| ())).await.is_ok() {
            continue;
        }
        // All threads may be busy. That is not a reason to end.
        if let Err((_, error)) = count_startable(1) {
            return error;
        }
    }
}

/// Starts `wanted` threads, which end at once afterwards. If fewer could be started, returns their number and the
/// reason.
fn count_startable(wanted: usize) -> Result<(), (usize, io::Error)> {
    let mut running: Vec<(mpsc::Sender<()>, JoinHandle<()>)> = Vec::new();
    let mut failure = None;
    for _ in 0..wanted {
        let (end, ended) = mpsc::channel();
        match thread::Builder::new().spawn(move || wait_for(&ended)) {
            Ok(thread) => running.push((end, thread)),
            Err(error) => {
                failure = Some((running.len(), error));
                break;
            }
        }
    }

    for (end, thread) in running {
        drop(end);
        // It can't panic.
        drop(thread.join());
    }
    failure.map_or(Ok(()), Err)
}

/// Waits for the other end to be dropped.
fn wait_for(ended: &Receiver<()>) {
    while ended.recv().is_ok() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_starts_and_runs_blocking_calls() {
        let done = runtime().unwrap().block_on(async { tokio::task::spawn_blocking(|| 7).await });
        assert_eq!(done.unwrap(), 7);
    }
}
