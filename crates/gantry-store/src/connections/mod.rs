//! Connections to stores over HTTP: one pool for each store, which reports to the store's observer.
//!
//! The pool is hyper's, with rustls, instead of one of the vendors'. Those offer HTTP/2, where slow consumers hold the
//! window of the one connection that all transfers of a store share. They also try the addresses of a name one after
//! the other, so that a name whose first address is dead can't be reached.

mod dial;
mod failure;
mod pooled;
mod proxy;
mod tls;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Body;
use hyper::header::PROXY_AUTHORIZATION;
use hyper::http::uri::Scheme;
use hyper::{Request, Response};
use hyper_util::client::legacy;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioTimer};

pub(crate) use self::failure::{innermost, links, unreachable};
use self::pooled::Connector;
pub use self::proxy::variable as proxy_variable;
use crate::{Error, Observer};

/// How long a connection without a request is kept. As in the AWS SDK.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// Maximum time to establish a connection, if the caller sets none. As in the AWS SDK.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_millis(3100);

/// Opens connections: with which authorities, through which proxies, and for which observer.
#[derive(Clone)]
pub(crate) struct Connections(Connector);

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").finish_non_exhaustive()
    }
}

impl Connections {
    /// `observer` counts the connections. `HTTPS_PROXY` and similar variables apply. `ca` is a PEM file of the
    /// certificate authorities to trust instead of the system's.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the file can't be read, or contains no valid certificate.
    pub(crate) fn new(ca: Option<&Path>, observer: &Observer) -> Result<Self, Error> {
        Ok(Self(Connector::new(tls::config(ca)?, Arc::new(Matcher::from_env()), Observer::clone(observer))))
    }

    /// Opens connections like these, but through no proxy.
    #[cfg(feature = "cloud")]
    pub(crate) fn without_proxies(&self) -> Self {
        Self(self.0.without_proxies())
    }

    /// Creates a pool of connections. Each must be established within `connect_timeout`.
    pub(crate) fn pool<B>(&self, connect_timeout: Duration) -> Pool<B>
    where
        B: Body + Send + Unpin + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_timer(TokioTimer::new())
            .build(self.0.with_timeout(connect_timeout));
        Pool { client, proxies: Arc::clone(self.0.proxies()) }
    }
}

/// A pool of connections. Clones share it.
pub(crate) struct Pool<B> {
    client: legacy::Client<Connector, B>,
    proxies: Arc<Matcher>,
}

impl<B> Clone for Pool<B> {
    fn clone(&self) -> Self {
        Self { client: self.client.clone(), proxies: Arc::clone(&self.proxies) }
    }
}

impl<B> fmt::Debug for Pool<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl<B> Pool<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Sends a request, and returns the head of its answer.
    ///
    /// # Errors
    /// If there is no answer. [`is_request_invalid`] distinguishes the causes.
    pub(crate) fn send(
        &self,
        mut request: Request<B>,
    ) -> impl Future<Output = Result<Response<hyper::body::Incoming>, legacy::Error>> + Send + use<B> {
        self.authorize(&mut request);
        self.client.request(request)
    }

    /// Adds the credentials for a proxy to a request that the proxy reads itself. Over TLS, it reads only the `CONNECT`.
    fn authorize(&self, request: &mut Request<B>) {
        if request.uri().scheme() != Some(&Scheme::HTTP) {
            return;
        }

        let proxy = self.proxies.intercept(request.uri());
        if let Some(authorization) = proxy.as_ref().and_then(|proxy| proxy.basic_auth()) {
            request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
        }
    }
}

/// Returns whether hyper rejected a request. Every other error is the connection's.
pub(crate) fn is_request_invalid(error: &legacy::Error) -> bool {
    let links = std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| error.source());
    links.filter_map(|link| link.downcast_ref::<hyper::Error>()).any(hyper::Error::is_user)
}
