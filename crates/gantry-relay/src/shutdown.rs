//! How the process is asked to stop: first gently, then at once.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Two stages of stopping, shared by everything that runs.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Take no new work; let what runs finish within its grace.
    pub drain: CancellationToken,
    /// Stop now.
    pub force: CancellationToken,
}

/// Listens for SIGHUP, which from now on no longer ends the process.
///
/// # Errors
/// When the system does not let us.
pub fn hangups() -> io::Result<Signal> {
    signal(SignalKind::hangup())
}

/// The signals that ask this process to stop.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Listens; from now on the signals no longer end the process by themselves.
    ///
    /// # Errors
    /// When the system does not let us.
    pub fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Drains at the first SIGTERM or SIGINT; forces at the second, and returns.
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
