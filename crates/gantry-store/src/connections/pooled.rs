//! Establishes the connections of a pool: directly or through a proxy, with and without TLS.

use std::future::ready;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hyper::Uri;
use hyper::http::uri::Scheme;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use rustls::ClientConfig;
use tokio::time::timeout;
use tower_service::Service;

use super::dial::Dial;
use super::failure::Broken;
use crate::Observer;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Connects to the host of a URL.
#[derive(Clone)]
pub(super) struct Connector {
    tls: Arc<ClientConfig>,
    proxies: Arc<Matcher>,
    observer: Observer,
    /// Maximum time to establish a connection, including TLS and the proxy.
    timeout: Duration,
}

impl Connector {
    pub(super) fn new(tls: Arc<ClientConfig>, proxies: Arc<Matcher>, observer: Observer) -> Self {
        Self { tls, proxies, observer, timeout: super::CONNECT_TIMEOUT }
    }

    pub(super) fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    #[cfg(feature = "cloud")]
    pub(super) fn without_proxies(&self) -> Self {
        Self { proxies: Arc::new(Matcher::builder().build()), ..self.clone() }
    }

    pub(super) const fn proxies(&self) -> &Arc<Matcher> {
        &self.proxies
    }

    async fn connect(self, url: Uri) -> Result<Counted, BoxError> {
        let mut direct = HttpsConnector::from((Dial, Arc::clone(&self.tls)));

        let (io, is_proxied): (Box<dyn Io>, bool) = match self.proxies.intercept(&url) {
            None => (Box::new(direct.call(url).await?), false),
            Some(proxy) => {
                let is_tls = url.scheme() == Some(&Scheme::HTTPS);
                Broken::check(&proxy, is_tls)?;
                let broken = |error| Broken::blame(error, &proxy, is_tls);
                if is_tls {
                    let mut tunnelled = HttpsConnector::from((tunnel(&proxy, direct), self.tls));
                    (Box::new(tunnelled.call(url).await.map_err(broken)?), false)
                } else {
                    (Box::new(direct.call(proxy.uri().clone()).await.map_err(broken)?), true)
                }
            }
        };

        Ok(Counted { io, is_proxied, _open: Open::new(self.observer) })
    }
}

fn tunnel<C>(proxy: &Intercept, connector: C) -> Tunnel<C> {
    let tunnel = Tunnel::new(proxy.uri().clone(), connector);
    match proxy.basic_auth() {
        Some(authorization) => tunnel.with_auth(authorization.clone()),
        None => tunnel,
    }
}

impl Service<Uri> for Connector {
    type Response = Counted;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Counted, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let limit = self.timeout;
        let connected = timeout(limit, self.clone().connect(url));

        connected
            .then(move |connected| {
                let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {limit:?}"));
                ready(connected.unwrap_or_else(|_| Err(late().into())))
            })
            .boxed()
    }
}

/// A stream of bytes, of any kind.
trait Io: Read + Write + Connection + Send + Unpin {}

impl<T: Read + Write + Connection + Send + Unpin> Io for T {}

/// A connection that the observer counts until it is dropped.
pub(super) struct Counted {
    io: Box<dyn Io>,
    /// Whether a proxy reads the requests itself.
    is_proxied: bool,
    _open: Open,
}

/// Reports the end of a connection when dropped.
struct Open(Observer);

impl Open {
    fn new(observer: Observer) -> Self {
        observer.connection_opened();
        Self(observer)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connection_closed();
    }
}

impl Connection for Counted {
    fn connected(&self) -> Connected {
        self.io.connected().proxy(self.is_proxied)
    }
}

impl Read for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_read(cx, buf)
    }
}

impl Write for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_shutdown(cx)
    }
}
