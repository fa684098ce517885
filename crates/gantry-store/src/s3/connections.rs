//! Makes the connections of a store available to the SDK.

use std::fmt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
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
use hyper_util::client::legacy;
use tokio::time::timeout;

use crate::connections::{self, CONNECT_TIMEOUT, Connections, is_request_invalid};
use crate::{Error, Observer};

/// Creates a pool of connections for the SDK, as [`Connections::new`] does.
///
/// # Errors
/// [`Error::Invalid`] if the file can't be read, or contains no valid certificate.
pub(super) fn pool(ca: Option<&Path>, observer: &Observer) -> Result<SharedHttpClient, Error> {
    #[cfg(feature = "fuzzing")]
    if let Some(client) = super::fuzzing::client() {
        return Ok(client);
    }

    Ok(Pools { connections: Connections::new(ca, observer)?, pools: Mutex::default() }.into_shared())
}

type Pool = connections::Pool<SdkBody>;

/// Creates connectors for the SDK.
struct Pools {
    connections: Connections,
    /// A pool for each timeout. The SDK uses very few.
    pools: Mutex<Vec<(Duration, Pool)>>,
}

impl fmt::Debug for Pools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pools").finish_non_exhaustive()
    }
}

impl Pools {
    fn pool(&self, connect_timeout: Duration) -> Pool {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, pool)) = pools.iter().find(|(timeout, _)| *timeout == connect_timeout) {
            return pool.clone();
        }

        let pool = self.connections.pool(connect_timeout);
        pools.push((connect_timeout, pool.clone()));
        pool
    }
}

impl HttpClient for Pools {
    fn http_connector(&self, settings: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(Requests {
            pool: self.pool(settings.connect_timeout().unwrap_or(CONNECT_TIMEOUT)),
            answer_timeout: settings.read_timeout(),
        })
    }
}

/// Sends the requests of one operation of the SDK.
#[derive(Debug)]
struct Requests {
    pool: Pool,
    /// Maximum time until the head of the answer.
    answer_timeout: Option<Duration>,
}

impl HttpConnector for Requests {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let request = match request.try_into_http1x() {
            Ok(request) => request,
            Err(error) => return HttpConnectorFuture::ready(Err(ConnectorError::user(error.into()))),
        };

        let answer = self.pool.send(request);
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

/// A request that hyper rejects is the SDK's fault. Everything else is the connection's.
fn failure(error: legacy::Error) -> ConnectorError {
    if is_request_invalid(&error) { ConnectorError::user(error.into()) } else { ConnectorError::io(error.into()) }
}
