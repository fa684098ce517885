//! One connection of async-nats: how it is established, what it reports, and how its end is detected.
//!
//! async-nats reconnects by itself, but its connection task may die: a header value with a lone CR makes it panic, and
//! any client may send one. Nothing reports this, and `connection_state()` stays `Connected`. However, the values
//! captured by the event callback are dropped with the task, so a [`Guard`] among them detects the end at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, ServerAddr, ServerError};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::dial::{self, Dialled};
use super::options::Options;
use super::shared::{Reports, Shared};
use crate::{Error, Event};
use gantry_proto::Location;

/// One connection of async-nats, and the totals of its predecessors.
pub(super) struct Link {
    pub(super) client: Client,
    /// The server that was dialled.
    pub(super) addr: ServerAddr,
    pub(super) made_at: Instant,
    pub(super) location: Option<Arc<Location>>,
    over: Arc<Over>,
    earlier: Totals,
}

/// The totals of several connections of a bus.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    /// The number of connections so far.
    pub(super) epoch: u64,
    pub(super) received_bytes: u64,
}

/// Whether a link is dead.
#[derive(Debug, Default)]
pub(super) struct Over {
    is_over: AtomicBool,
    noticed: Notify,
}

/// Owned by the callback of one link, so it is dropped when the link's connection task ends in any way.
///
/// It must not own the client, which would keep the connection alive.
struct Guard {
    shared: Arc<Shared>,
    over: Arc<Over>,
    link: OnceLock<Weak<Link>>,
}

/// Establishes a connection. The first one is tried for `connect_timeout`, each later one once at every server.
///
/// # Errors
/// The same as [`dial::dial`].
pub(super) async fn make(options: &Options, shared: &Arc<Shared>, earlier: Option<Totals>) -> Result<Arc<Link>, Error> {
    let mut guard = None;
    let mut finish = |options: ConnectOptions| {
        let own = Arc::new(Guard { shared: Arc::clone(shared), over: Arc::default(), link: OnceLock::new() });
        // A guard kept here would not be dropped with the task.
        guard = Some((Arc::downgrade(&own), Arc::clone(&own.over)));
        options.event_callback(move |event| {
            let own = Arc::clone(&own);
            async move { own.handle(event).await }
        })
    };

    let mut pool = shared.pool();
    let dialled = match earlier {
        None => Box::pin(dial::dial_first(options, &mut pool, &mut finish)).await,
        Some(_) => Box::pin(dial::dial(options, &mut pool, &mut finish)).await,
    };
    if let Ok(Dialled { client, addr }) = &dialled
        && !options.ignore_discovered_servers
    {
        pool.discover(addr, &client.server_info().connect_urls);
    }
    shared.set_pool(pool);

    let Dialled { client, addr } = dialled?;
    let (guard, over) = guard.ok_or(Error::Closed)?;
    shared.payload.note_connected();
    let earlier = earlier.unwrap_or_default();
    let location = location(&client);
    let link = Arc::new(Link { client, addr, made_at: Instant::now(), location, over, earlier });
    if let Some(guard) = guard.upgrade() {
        guard.link.get_or_init(|| Arc::downgrade(&link));
    }
    Ok(link)
}

/// Returns where the client is connected, as the server states it.
fn location(client: &Client) -> Option<Arc<Location>> {
    let info = client.server_info();
    let cluster = info.cluster.filter(|cluster| !cluster.is_empty());
    (!info.server_id.is_empty()).then(|| Arc::new(Location { server: info.server_id, cluster }))
}

impl Link {
    /// Returns whether the connection task has ended. Nothing will be sent or received on this link again.
    pub(super) fn is_over(&self) -> bool {
        self.over.is_over.load(Ordering::Acquire)
    }

    /// Returns the signal of the link's end, which does not keep the link alive.
    pub(super) fn over(&self) -> Arc<Over> {
        Arc::clone(&self.over)
    }

    /// Returns the totals of this link and its predecessors.
    pub(super) fn totals(&self) -> Totals {
        let statistics = self.client.statistics();
        Totals {
            epoch: self.earlier.epoch + statistics.connects.load(Ordering::Relaxed),
            received_bytes: self.earlier.received_bytes + statistics.in_bytes.load(Ordering::Relaxed),
        }
    }

    /// Reports the state of this link. `connected` is the state according to an event; the client's own state follows a
    /// moment later.
    pub(super) fn refresh(&self, reports: &Reports, connected: Option<bool>) {
        let reports_connected = connected.unwrap_or_else(|| self.client.connection_state() == State::Connected);
        reports.refresh(reports_connected && !self.is_over(), self.totals().epoch);
    }
}

impl Over {
    /// Waits for the link's end. Only one task may wait.
    pub(super) async fn wait(&self) {
        while !self.is_over.load(Ordering::Acquire) {
            self.noticed.notified().await;
        }
    }
}

impl Guard {
    fn link(&self) -> Option<Arc<Link>> {
        self.link.get().and_then(Weak::upgrade)
    }

    /// Handles an event of async-nats. Since async-nats drops events when there are many at once, each one refreshes
    /// the status.
    async fn handle(&self, event: async_nats::Event) {
        let connected = match event {
            async_nats::Event::Connected => Some(true),
            async_nats::Event::Disconnected | async_nats::Event::Closed => Some(false),
            async_nats::Event::LameDuckMode
            | async_nats::Event::Draining
            | async_nats::Event::SlowConsumer(_)
            | async_nats::Event::ServerError(_)
            | async_nats::Event::ClientError(_) => None,
        };
        if let Some(link) = self.link() {
            link.refresh(&self.shared.reports, connected);
        }

        match event {
            async_nats::Event::SlowConsumer(_) | async_nats::Event::ServerError(ServerError::SlowConsumer(_)) => {
                self.shared.reports.emit(Event::SlowConsumer);
            }
            async_nats::Event::LameDuckMode => {
                self.shared.reports.emit(Event::LameDuck);
                self.leave_lame_duck().await;
            }
            async_nats::Event::ServerError(error) => self.handle_error(&error.to_string()),
            // The error only means that async-nats could not reconnect by itself.
            async_nats::Event::ClientError(_)
            | async_nats::Event::Connected
            | async_nats::Event::Disconnected
            | async_nats::Event::Draining
            | async_nats::Event::Closed => {}
        }
    }

    /// Handles an error that nats-server reports. It closes the connection after most of them.
    fn handle_error(&self, text: &str) {
        if let Some(event) = denied(text) {
            return self.shared.reports.emit(event);
        }

        let text = text.strip_prefix("nats: ").unwrap_or(text);
        if text.to_lowercase().contains("maximum payload") {
            return self.shared.payload.note_exceeded();
        }

        tracing::warn!(error = text, "nats-server reports an error");
        self.shared.reports.note_error(text);
    }

    /// Moves to another server before this one closes. If there is no other, the connection stays: a server in lame
    /// duck mode serves its existing connections for a while, but accepts no new ones.
    async fn leave_lame_duck(&self) {
        // A strong reference to the link would keep it alive during the wait.
        let Some((client, addr)) = self.link().map(|link| (link.client.clone(), link.addr.clone())) else { return };
        if self.shared.leave(&addr)
            && let Err(error) = client.force_reconnect().await
        {
            tracing::debug!(%error, "the connection closed before it could move to another server");
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.over.is_over.store(true, Ordering::Release);
        self.over.noticed.notify_one();
        // A failed attempt has no link. If the bus was dropped, the link is gone.
        if self.link().is_some() {
            self.shared.reports.disconnected();
        }
    }
}

/// Reads nats-server's `Permissions Violation for Publish to "x"` and `… for Subscription to "x" using queue "y"`.
fn denied(text: &str) -> Option<Event> {
    let (_, what) = text.split_once("Permissions Violation for ")?;
    let (verb, rest) = what.split_once('"')?;
    let (subject, _) = rest.split_once('"')?;

    if verb.starts_with("Publish") {
        Some(Event::PublishDenied(subject.to_owned()))
    } else if verb.starts_with("Subscription") {
        Some(Event::SubscribeDenied(subject.to_owned()))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_permission_violations() {
        let cases = [
            (r#"nats: Permissions Violation for Publish to "a.b""#, Some(Event::PublishDenied("a.b".to_owned()))),
            (
                r#"nats: Permissions Violation for Subscription to "a.>" using queue "q""#,
                Some(Event::SubscribeDenied("a.>".to_owned())),
            ),
            (
                r#"Permissions Violation for Publish with Reply of "_INBOX.x""#,
                Some(Event::PublishDenied("_INBOX.x".to_owned())),
            ),
            ("nats: Maximum Payload Violation", None),
            (r#"Permissions Violation for Publish to "open"#, None),
        ];
        for (text, event) in cases {
            assert_eq!(denied(text), event, "{text}");
        }
    }
}
