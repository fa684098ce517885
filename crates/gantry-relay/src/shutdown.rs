//! Requests to stop the process: first gracefully, then at once.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The two stages of a shutdown, shared by all tasks.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Accept no new work, and let running work finish within its grace.
    pub drain: CancellationToken,
    /// Stop now.
    pub force: CancellationToken,
}

/// Listens for SIGHUP, which from now on does not end the process.
///
/// # Errors
/// If the signal handler can't be installed.
pub fn hangups() -> io::Result<Signal> {
    signal(SignalKind::hangup())
}

/// The signals that request this process to stop.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Listens for SIGTERM and SIGINT, which from now on do not end the process by themselves.
    ///
    /// # Errors
    /// If a signal handler can't be installed.
    pub fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Starts to drain at the first SIGTERM or SIGINT. Forces the shutdown at the second, and returns.
    ///
    /// # Cancel safety
    /// If the future is dropped, later signals have no effect.
    pub async fn drive(mut self, shutdown: &Shutdown) {
        self.next().await;
        shutdown.drain.cancel();
        self.next().await;
        shutdown.force.cancel();
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
