//! `gantry gateway`: an HTTP front for clients that know nothing of NATS. `gantry serve --gateway` uses the same front.

mod access_log;
mod listen;
mod metrics;
mod observer;
mod stores;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use clap::Args;
use gantry_bus::nats::Options as NatsOptions;
use gantry_bus::{self as bus, Bus, Event};
use gantry_client as consumer;
use gantry_http::{Secret, Server, Stores};
use gantry_relay::metrics::register_process;
use gantry_relay::shutdown::Shutdown;
use gantry_upstream::Relays;
use prometheus_client::registry::Registry;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tracing::{info, warn};

use self::access_log::AccessLog;
use self::listen::{Connections, Socket};
use self::metrics::{FrontMetrics, RelaysLater, UpstreamMetrics};
use self::observer::Observer;
pub(super) use self::stores::Served;
use self::stores::{Awaited, Reachable};
use super::connect::{self, REFUSED_LIMIT};
use super::exit::{Exit, Failure};
use super::key_options::GatewayKeys;
use super::pages;
use crate::config::{self, Config, ListenAddress, Sources};
use crate::http;

/// The address of `gantry gateway` if none is configured.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9000);

const ABOUT: &str = "Serve stores to HTTP and S3 clients

Every store that the connection to NATS may read is served: http://127.0.0.1:9000/STORE/KEY is an object, and S3 clients \
use http://127.0.0.1:9000 as their endpoint and the store as the bucket. The bytes of a complete response were verified \
as gantry get verifies them; if they turn out to be wrong, the connection is cut.

A socket that systemd has opened takes precedence over the configured address. After the first SIGTERM or SIGINT, the \
gateway finishes its responses and exits. After the second one, it exits immediately.";

/// Serve stores to HTTP and S3 clients
#[derive(Args, Clone, Debug)]
#[command(about = "Serve stores to HTTP and S3 clients", long_about = ABOUT)]
pub(super) struct Gateway {
    #[command(flatten)]
    keys: GatewayKeys,
}

impl Gateway {
    pub(super) fn settings(&self, sources: &mut Sources) {
        self.keys.apply(&mut sources.flags);
    }

    pub(super) async fn run(self, config: &Config, shutdown: &Shutdown) -> Result<(), Failure> {
        let mut registry = Registry::default();
        register_process(&mut registry);
        let address = config.gateway.listen.clone().unwrap_or(ListenAddress::Tcp(DEFAULT_LISTEN));
        let front = Front::open(&config.gateway, &address, &mut registry).await?;

        let options = NatsOptions { refused_limit: REFUSED_LIMIT, ..config.nats.clone() };
        let connected = watch::Sender::new(false);
        let relays = RelaysLater::default();
        registry.register_collector(Box::new(UpstreamMetrics(Arc::clone(&relays))));
        let pages = http::Pages {
            registry: Arc::new(registry),
            readiness: http::Ready::Gateway(connected.subscribe()),
            transfers: None,
        };
        let listener = pages::listen(&config.http).await?;

        let stores = Arc::new(Awaited::default());
        let connection = async {
            let bus = first_connection(&options, &stores).await?;
            let client = consumer::Options::default().prefix(config.prefix.clone());
            let upstream = Relays::new(Arc::clone(&bus), client, config.gateway.upstream.clone());
            relays.get_or_init(|| upstream.clone());
            stores.connected(Reachable { bus: Arc::clone(&bus), prefix: config.prefix.clone(), relays: upstream });

            tokio::select! {
                failure = closed(&*bus) => Err(failure),
                () = show(&*bus, &connected) => Err(Failure::new(Exit::Failed, "the connection to NATS has ended")),
            }
        };
        // Clients are answered before there is a connection, too.
        let served = async {
            tokio::select! {
                () = front.serve(Arc::clone(&stores) as _, shutdown) => Ok(()),
                ended = connection => ended,
            }
        };
        let served = pages::beside(served, listener, pages).await;
        bus::nats::expect_end();
        served
    }
}

/// The HTTP front, ready to accept connections.
pub(super) struct Front {
    connections: Connections,
    options: gantry_http::Options,
    observer: Observer,
}

impl Front {
    /// Opens the front's socket. `address` is used unless systemd has opened one.
    ///
    /// # Errors
    /// If the socket, the certificate or a key can't be used.
    pub(super) async fn open(
        config: &config::Gateway,
        address: &ListenAddress,
        registry: &mut Registry,
    ) -> Result<Self, Failure> {
        let mut options = config.front.clone();
        if let Some((id, secret)) = &config.access_key {
            options.keys.insert(read(id)?, Secret::new(read(secret)?));
        }
        let tls = match &config.tls {
            Some((certificate, key)) => {
                let acceptor = listen::acceptor(certificate, key);
                Some(acceptor.map_err(|error| Failure::usage(format!("`gateway.tls_cert_file`: {error}")))?)
            }
            None => None,
        };
        let log = match config.access_log {
            Some(format) => Some(AccessLog::start(format).map_err(|error| {
                Failure::new(Exit::Failed, format!("can't start a thread for the access log: {error}"))
            })?),
            None => None,
        };

        let sockets = sockets(address).await?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        for (address, is_local) in sockets.iter().map(Socket::describe) {
            info!(address, scheme, "serving HTTP and S3 clients");
            if !is_local && (options.keys.is_empty() || options.anonymous) {
                warn!(address, "everybody who reaches this address can read every store of this connection");
            }
        }

        let observer = Observer { metrics: FrontMetrics::register(registry), log };
        Ok(Self { connections: Connections::new(sockets, tls), options, observer })
    }

    /// Opens the front's socket if an address is configured.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub(super) async fn if_configured(
        config: &config::Gateway,
        registry: &mut Registry,
    ) -> Result<Option<Self>, Failure> {
        match &config.listen {
            Some(address) => Ok(Some(Self::open(config, address, registry).await?)),
            None => Ok(None),
        }
    }

    /// Serves until the shutdown, and then until the last response has ended.
    pub(super) async fn serve(self, stores: Arc<dyn Stores>, shutdown: &Shutdown) {
        let server = Server::observed(stores, self.options, Arc::new(self.observer));
        tokio::select! {
            () = server.serve(self.connections, shutdown.drain.clone()) => {}
            () = shutdown.force.cancelled() => {}
        }
    }
}

/// Takes over systemd's sockets, or opens one.
async fn sockets(address: &ListenAddress) -> Result<Vec<Socket>, Failure> {
    let inherited = Socket::inherited()
        .map_err(|error| Failure::new(Exit::Failed, format!("the sockets from systemd (LISTEN_FDS): {error}")))?;
    if !inherited.is_empty() {
        return Ok(inherited);
    }

    let bound = Socket::bind(address).await.map_err(|error| {
        let address = address.to_string();
        Failure::usage(format!("`gateway.listen` = {address:?} can't be bound: {error}: use another address"))
    })?;
    Ok(vec![bound])
}

fn read(path: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    Ok(text.trim().to_owned())
}

/// Connects to NATS. Retries without limit, since nats-server may start later.
///
/// # Errors
/// If a retry would fail in the same way.
async fn first_connection(options: &NatsOptions, stores: &Awaited) -> Result<Arc<dyn Bus>, Failure> {
    loop {
        match connect::try_nats(options).await {
            Ok(bus) => return Ok(bus),
            Err(bus::Error::Unreachable { servers, reason }) => {
                stores.not_yet(format!("{servers}: {reason}"));
                warn!(servers, reason, "no connection to NATS yet: retrying, requests get 503 until then");
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits until the connection is closed for good, and returns why.
async fn closed(bus: &dyn Bus) -> Failure {
    let mut events = bus.events();
    loop {
        match events.recv().await {
            Ok(Event::Closed(reason)) => return Failure::new(Exit::Denied, reason),
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return bus::Error::Closed.into(),
        }
    }
}

/// Shows the connection's state on `/readyz`, until the connection has ended.
async fn show(bus: &dyn Bus, connected: &watch::Sender<bool>) {
    let mut status = bus.status();
    loop {
        connected.send_replace(status.borrow_and_update().connected);
        if status.changed().await.is_err() {
            return;
        }
    }
}
