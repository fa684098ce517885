//! Replaces a connection of async-nats that has ended: establishes another one and renews every subscription.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::dial;
use super::inner::Inner;
use super::link::Over;
use super::refresh;
use crate::Error;

/// A connection that lasted less than this is replaced after a pause.
const SHORT_LIFE: Duration = Duration::from_secs(1);

/// The pause after a short life. Hostile messages that kill each new connection cause at most a few hundred reconnects per
/// second, and requests still get through in between.
const PAUSE: Duration = Duration::from_millis(3);

/// Replaces each connection that dies, until the bus is dropped or closed for good.
pub(super) async fn watch(inner: Weak<Inner>, mut over: Arc<Over>) {
    loop {
        tokio::select! {
            () = over.wait() => {}
            () = refresh::at_intervals(&inner) => {}
        }
        let Some(renewed) = renew(&inner).await else { return };
        over = renewed;
    }
}

/// Establishes another connection, and retries for as long as it takes. Returns the signal of its end, or `None` if the
/// bus was dropped or closed for good.
async fn renew(inner: &Weak<Inner>) -> Option<Arc<Over>> {
    let mut refused_at = None;
    let mut parting = inner.upgrade()?.shared.reports.take_error();
    for attempt in 1.. {
        let pause = {
            let inner = inner.upgrade()?;
            inner.shared.reports.disconnected();
            let is_short = inner.link().made_at.elapsed() < SHORT_LIFE;
            dial::backoff(attempt).max(if is_short { PAUSE } else { Duration::ZERO })
        };
        sleep(pause).await;

        let inner = inner.upgrade()?;
        match inner.renew().await {
            Ok(link) => return Some(link.over()),
            Err(error @ (Error::Unauthorized { .. } | Error::Options { .. })) => {
                let since = *refused_at.get_or_insert_with(Instant::now);
                inner.shared.reports.failing(&error);
                if since.elapsed() >= inner.options.refused_limit {
                    inner.close(&explained(error, parting.take())).await;
                    return None;
                }
            }
            Err(error) => {
                refused_at = None;
                inner.shared.reports.failing(&error);
            }
        }
    }
    None
}

/// Adds the error with which the server closed the last connection. It explains more than a later refusal.
fn explained(error: Error, parting: Option<String>) -> Error {
    match (error, parting) {
        (Error::Unauthorized { servers, reason }, Some(parting)) if !reason.contains(&parting) => {
            Error::Unauthorized { servers, reason: format!("{reason}, after: {parting}") }
        }
        (error, _) => error,
    }
}
