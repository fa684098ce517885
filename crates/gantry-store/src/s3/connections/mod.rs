//! Connections to S3: one pool for each store, which reports to the store's observer.
//!
//! The pool is hyper's, with rustls, instead of one of the SDK's. The SDK's pools offer HTTP/2, where slow consumers
//! hold the window of the one connection that all transfers of a store share. They also try the addresses of a name one
//! after the other, so that a name whose first address is dead can't be reached.

mod dial;
mod pooled;
mod tls;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_s3::config::SharedHttpClient;
use aws_sdk_s3::config::http::{HttpRequest, HttpResponse};
use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_runtime_api::shared::IntoShared as _;
use hyper::header::PROXY_AUTHORIZATION;
use hyper::http::uri::Scheme;
use hyper_util::client::legacy;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::timeout;

use self::pooled::Connector;
use crate::{Error, Observer};

/// How long a connection without a request is kept. As in the SDK.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// Maximum time to establish a connection, if the SDK sets none. As in the SDK.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(3100);

/// Creates a pool of connections that `observer` counts. `HTTPS_PROXY` and similar variables apply. `ca` is a PEM file
/// of the certificate authorities to trust instead of the system's.
///
/// # Errors
/// [`Error::Invalid`] if the file can't be read, or contains no valid certificate.
pub(super) fn pool(ca: Option<&Path>, observer: &Observer) -> Result<SharedHttpClient, Error> {
    #[cfg(feature = "fuzzing")]
    if let Some(client) = super::fuzzing::client() {
        return Ok(client);
    }

    let connector = Connector::new(tls::config(ca)?, Arc::new(Matcher::from_env()), Observer::clone(observer));
    Ok(Connections { connector, pools: Mutex::default() }.into_shared())
}

type Pool = legacy::Client<Connector, SdkBody>;

/// Creates connectors for the SDK.
struct Connections {
    connector: Connector,
    /// A pool for each timeout. The SDK uses very few.
    pools: Mutex<Vec<(Duration, Pool)>>,
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").finish_non_exhaustive()
    }
}

impl Connections {
    fn pool(&self, connect_timeout: Duration) -> Pool {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, pool)) = pools.iter().find(|(timeout, _)| *timeout == connect_timeout) {
            return pool.clone();
        }

        let pool = legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_timer(TokioTimer::new())
            .build(self.connector.with_timeout(connect_timeout));
        pools.push((connect_timeout, pool.clone()));
        pool
    }
}

impl HttpClient for Connections {
    fn http_connector(&self, settings: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(Requests {
            pool: self.pool(settings.connect_timeout().unwrap_or(CONNECT_TIMEOUT)),
            proxies: Arc::clone(self.connector.proxies()),
            answer_timeout: settings.read_timeout(),
        })
    }
}

/// Sends the requests of one operation of the SDK.
struct Requests {
    pool: Pool,
    proxies: Arc<Matcher>,
    /// Maximum time until the head of the answer.
    answer_timeout: Option<Duration>,
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests").finish_non_exhaustive()
    }
}

impl HttpConnector for Requests {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let mut request = match request.try_into_http1x() {
            Ok(request) => request,
            Err(error) => return HttpConnectorFuture::ready(Err(ConnectorError::user(error.into()))),
        };
        authorize(&self.proxies, &mut request);

        let answer = self.pool.request(request);
        let answer_timeout = self.answer_timeout;

        HttpConnectorFuture::new(async move {
            let answer = match answer_timeout {
                None => answer.await,
                Some(limit) => timeout(limit, answer).await.map_err(|error| ConnectorError::timeout(error.into()))?,
            };

            let response = answer.map_err(failure)?.map(SdkBody::from_body_1_x);
            HttpResponse::try_from(response).map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

/// Adds the credentials for a proxy to a request that the proxy reads itself. Over TLS, it reads only the `CONNECT`.
fn authorize(proxies: &Matcher, request: &mut hyper::Request<SdkBody>) {
    if request.uri().scheme() != Some(&Scheme::HTTP) {
        return;
    }

    let proxy = proxies.intercept(request.uri());
    if let Some(authorization) = proxy.as_ref().and_then(|proxy| proxy.basic_auth()) {
        request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
    }
}

/// A request that hyper rejects is the SDK's fault. Everything else is the connection's.
fn failure(error: legacy::Error) -> ConnectorError {
    let links = std::iter::successors(Some(&error as &(dyn std::error::Error + 'static)), |error| error.source());
    let is_user = links.filter_map(|link| link.downcast_ref::<hyper::Error>()).any(hyper::Error::is_user);

    if is_user { ConnectorError::user(error.into()) } else { ConnectorError::io(error.into()) }
}
