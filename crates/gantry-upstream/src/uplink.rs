//! A store of relays behind a connection of its own, which is made and restored in the background.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
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
/// serves the store, since one may return.
pub struct Uplink {
    state: watch::Receiver<State>,
    patience: Duration,
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
        let patience = options.connection_patience;
        let keeper = Keeper { name, connect, client, options, state: sender };
        Self { state, patience, task: tokio::spawn(keeper.run()) }
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
        async move { self.reach().await?.open(key, pin, span).await.map_err(may_return) }.boxed()
    }

    fn stat<'a>(&'a self, key: &'a Key, pin: &'a Pin) -> BoxFuture<'a, Result<ObjectInfo, Error>> {
        async move { self.reach().await?.stat(key, pin).await.map_err(may_return) }.boxed()
    }

    fn list<'a>(&'a self, request: &'a ListRequest) -> BoxFuture<'a, Result<ListPage, Error>> {
        async move { self.reach().await?.list(request).await.map_err(may_return) }.boxed()
    }

    /// Checks only whether there is a connection. A question to the relays would cost a request to their store, for each
    /// site and probe.
    fn probe(&self) -> BoxFuture<'_, Result<(), Error>> {
        async move { self.reach().await.map(|_| ()) }.boxed()
    }
}

/// Relays that serve the store may return.
fn may_return(error: Error) -> Error {
    if let Error::NoBucket(reason) = error { Error::unavailable(reason) } else { error }
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
