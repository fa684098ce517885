//! The log of lost connections. It must not grow with their number: any client can make async-nats reconnect hundreds
//! of times per second.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};

/// Minimum time between two warnings about lost connections. Losses in between are counted.
const INTERVAL: Duration = Duration::from_secs(60);

/// Whether the process is ending.
static IS_ENDING: AtomicBool = AtomicBool::new(false);

/// Stops the log of lost connections: the process is ending, and closes them itself.
pub fn expect_end() {
    IS_ENDING.store(true, Ordering::Relaxed);
}

#[derive(Debug, Default)]
pub(super) struct Losses(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    logged_at: Option<Instant>,
    /// The number of losses since the last logged one.
    unlogged: u64,
    /// Whether the latest loss was logged.
    is_logged: bool,
    /// Whether the log contains the reason why the connection could not be restored at once.
    is_explained: bool,
}

impl Losses {
    /// Logs that the connection is lost: at most once per interval at WARN.
    pub(super) fn lost(&self) {
        if IS_ENDING.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.logged_at.is_some_and(|at| at.elapsed() < INTERVAL) {
            state.unlogged += 1;
            state.is_logged = false;
            debug!("the connection to nats-server is lost");
            return;
        }

        if state.unlogged == 0 {
            warn!("the connection to nats-server is lost");
        } else {
            let times = state.unlogged;
            warn!(times, "the connection to nats-server was lost several times since the last warning");
        }
        *state = State { logged_at: Some(Instant::now()), unlogged: 0, is_logged: true, is_explained: false };
    }

    /// Logs once per loss why the connection could not be restored at once.
    pub(super) fn failing(&self, reason: &dyn Display) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.logged_at.is_none() || (state.is_logged && state.is_explained) {
            debug!(%reason, "no connection to nats-server");
            return;
        }

        warn!(%reason, "the connection to nats-server could not be restored at once: retrying");
        state.is_logged = true;
        state.is_explained = true;
    }

    /// Logs that the connection is restored, at the level of its loss.
    pub(super) fn restored(&self, epoch: u64) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_explained = false;
        if state.is_logged {
            info!(epoch, "connected to nats-server again");
        } else {
            debug!(epoch, "connected to nats-server again");
        }
    }
}
