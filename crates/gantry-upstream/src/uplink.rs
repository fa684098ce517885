//! A store of relays behind a connection of its own, which is made and restored in the background.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use gantry_client as client;
use gantry_client::bus::{Bus, Event};
use gantry_proto::{Key, ListPage, ListRequest, ObjectInfo, Pin, Span, StoreName};
use gantry_store::{Error, Opened, Store};

use crate::options::Options;
use crate::upstream::{Relays, Upstream};

/// The pause after a first attempt to connect has failed. It doubles.
const PAUSE_MIN: Duration = Duration::from_millis(500);

/// The longest pause between two attempts to connect.
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// Makes a connection. The error is a text for people.
pub type Connect = Box<dyn Fn() -> BoxFuture<'static, Result<Arc<dyn Bus>, String>> + Send + Sync>;

/// A store that relays serve under this name, over a connection of its own.
///
/// It exists before the connection does. Without a connection, all methods fail with [`Error::Unavailable`]: within
/// [`Options::connection_patience`] after the connection was lost, and at once later. They fail likewise if no relay
/// answers, or none serves the store any longer, since one may return. All other errors keep their kind. All messages name
/// the upstream store, since their readers know this relay only.
pub struct Uplink {
    /// How messages name the upstream.
    place: String,
    state: watch::Receiver<State>,
    patience: Duration,
    /// Whether a relay has served the store since the start.
    was_served: AtomicBool,
    task: JoinHandle<()>,
}

#[derive(Clone)]
enum State {
    /// There has been no connection for less than the patience.
    Waiting,
    Connected(Upstream),
    /// Why there is no connection.
    Away(String),
}

impl Uplink {
    /// Connects in the background, again and again, until the store is dropped.
    #[must_use]
    pub fn start(name: StoreName, connect: Connect, client: client::Options, options: Options) -> Self {
        let (sender, state) = watch::channel(State::Waiting);
        let (place, patience) = (format!("the relay's upstream store {name}"), options.connection_patience);
        let keeper = Keeper { name, connect, client, options, state: sender };
        let task = tokio::spawn(keeper.run());
        Self { place, state, patience, was_served: AtomicBool::new(false), task }
    }

    /// Asks the relays, and names them in the error.
    async fn ask<T, F>(&self, ask: impl FnOnce(Upstream) -> F + Send) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>> + Send,
    {
        let answer = match self.reach().await {
            Ok(upstream) => ask(upstream).await,
            Err(error) => Err(error),
        };

        if matches!(answer, Ok(_) | Err(Error::NotFound(_) | Error::Changed(_) | Error::Range { .. })) {
            self.was_served.store(true, Ordering::Relaxed);
        }
        let was_served = self.was_served.load(Ordering::Relaxed);
        answer.map_err(|error| may_return(error, was_served).from_place(&self.place))
    }

    /// Waits for the connection.
    async fn reach(&self) -> Result<Upstream, Error> {
        let mut state = self.state.clone();
        let known = timeout(self.patience, state.wait_for(|state| !matches!(state, State::Waiting))).await;

        match known {
            Ok(Ok(state)) => match &*state {
                State::Connected(upstream) => Ok(upstream.clone()),
                State::Away(reason) => Err(Error::unavailable(reason.clone())),
                State::Waiting => Err(Error::unavailable("no connection to the upstream nats-server yet")),
            },
            Ok(Err(_)) => Err(Error::unavailable("the connection to the upstream nats-server has ended")),
            Err(_) => Err(Error::unavailable("no connection to the upstream nats-server yet")),
        }
    }
}

impl fmt::Debug for Uplink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uplink").finish_non_exhaustive()
    }
}

impl Drop for Uplink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Store for Uplink {
    fn open<'a>(&'a self, key: &'a Key, pin: &'a Pin, span: Span) -> BoxFuture<'a, Result<Opened, Error>> {
        async move {
            let opened = self.ask(move |upstream| async move { upstream.open(key, pin, span).await }).await?;
            let place = self.place.clone();
            let body = opened.body.map_err(move |error| error.from_place(&place)).boxed();
            Ok(Opened { body, ..opened })
        }
        .boxed()
    }

    fn stat<'a>(&'a self, key: &'a Key, pin: &'a Pin) -> BoxFuture<'a, Result<ObjectInfo, Error>> {
        self.ask(move |upstream| async move { upstream.stat(key, pin).await }).boxed()
    }

    fn list<'a>(&'a self, request: &'a ListRequest) -> BoxFuture<'a, Result<ListPage, Error>> {
        self.ask(move |upstream| async move { upstream.list(request).await }).boxed()
    }

    /// Checks only whether there is a connection. A question to the relays would cost a request to their store, for each
    /// site and probe.
    fn probe(&self) -> BoxFuture<'_, Result<(), Error>> {
        async move { self.reach().await.map(|_| ()).map_err(|error| error.from_place(&self.place)) }.boxed()
    }
}

/// A relay that served the store may return. Without one since the start, its name may be wrong.
fn may_return(error: Error, was_served: bool) -> Error {
    if was_served && let Error::NoBucket(reason) = &error {
        return Error::unavailable(reason.clone());
    }
    error
}

/// Makes and watches the connection.
struct Keeper {
    name: StoreName,
    connect: Connect,
    client: client::Options,
    options: Options,
    state: watch::Sender<State>,
}

impl Keeper {
    async fn run(self) {
        let mut pause = PAUSE_MIN;
        loop {
            let reason = match (self.connect)().await {
                Ok(bus) => {
                    pause = PAUSE_MIN;
                    self.keep(bus).await
                }
                Err(reason) => reason,
            };

            self.leave(reason);
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Shows the state of a connection until it is closed for good, and returns why.
    async fn keep(&self, bus: Arc<dyn Bus>) -> String {
        let mut events = bus.events();
        let closed = async {
            loop {
                match events.recv().await {
                    Ok(Event::Closed(reason)) => return reason,
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return "the connection is closed".to_owned(),
                }
            }
        };

        tokio::select! {
            reason = closed => reason,
            reason = self.show(&bus) => reason,
        }
    }

    async fn show(&self, bus: &Arc<dyn Bus>) -> String {
        let ended = || "the connection has ended".to_owned();
        let relays = Relays::new(Arc::clone(bus), self.client.clone(), self.options.clone());
        let mut status = bus.status();

        loop {
            if status.wait_for(|status| status.connected).await.is_err() {
                return ended();
            }
            info!(store = %self.name, server = bus.server(), "connected to the upstream nats-server");
            self.state.send_replace(State::Connected(relays.store(self.name.clone())));

            if status.wait_for(|status| !status.connected).await.is_err() {
                return ended();
            }
            match timeout(self.options.connection_patience, status.wait_for(|status| status.connected)).await {
                Ok(Ok(_)) => {}
                Ok(Err(_)) => return ended(),
                Err(_) => self.leave(format!("no connection to nats-server at {}", bus.server())),
            }
        }
    }

    /// Lets requests fail with this reason, which is logged if it is new.
    fn leave(&self, reason: String) {
        let is_known = matches!(&*self.state.borrow(), State::Away(known) if *known == reason);
        if !is_known {
            warn!(store = %self.name, reason, "the upstream relays can't be reached: retrying");
        }
        self.state.send_replace(State::Away(reason));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_store_that_was_served_may_return() {
        let missing = || Error::NoBucket("no relay serves it".to_owned());
        assert!(!may_return(missing(), false).is_retryable());
        assert!(may_return(missing(), true).is_retryable());
        assert!(!may_return(Error::NotFound("no such key".to_owned()), true).is_retryable());
    }
}
