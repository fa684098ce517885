//! Makes the connections of a store available to the SDK.

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
use hyper::StatusCode;
use hyper_util::client::legacy;
use tokio::time::timeout;

use crate::connections::{self, CONNECT_TIMEOUT, Connections, innermost, is_request_invalid};
use crate::ranged::excerpt;
use crate::{Error, Observer};

/// Creates a pool of connections for the SDK, as [`Connections::new`] does.
///
/// # Errors
/// [`Error::Invalid`] if the file can't be read, or contains no valid certificate.
pub(super) fn pool(ca: Option<&Path>, observer: &Observer) -> Result<SharedHttpClient, Error> {
    shared(ca, observer, None)
}

/// Creates a pool of connections to the services that issue credentials. Its errors contain an [`Outage`], and the last
/// one is kept in `outages`.
///
/// # Errors
/// Those of [`pool`].
pub(super) fn pool_for_credentials(
    ca: Option<&Path>,
    observer: &Observer,
    outages: &Outages,
) -> Result<SharedHttpClient, Error> {
    shared(ca, observer, Some(outages.clone()))
}

fn shared(ca: Option<&Path>, observer: &Observer, outages: Option<Outages>) -> Result<SharedHttpClient, Error> {
    #[cfg(feature = "fuzzing")]
    if let Some(client) = super::fuzzing::client() {
        return Ok(client);
    }

    Ok(Pools { connections: Connections::new(ca, observer)?, outages, pools: Mutex::default() }.into_shared())
}

/// A service that issues credentials is unavailable. The text names it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Outage(String);

/// The last outage, until a service answers. The SDK waits between its attempts, so that a request for an object may end
/// before the outage is reported.
#[derive(Clone, Debug, Default)]
pub(super) struct Outages(Arc<Mutex<Option<String>>>);

impl Outages {
    pub(super) fn current(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, outage: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = outage;
    }

    /// Keeps an outage, and returns it as the cause of an error.
    fn report(&self, service: &str, problem: &str) -> Box<dyn std::error::Error + Send + Sync> {
        let outage = format!("{service} {problem}");
        self.set(Some(outage.clone()));
        Outage(outage).into()
    }
}

type Pool = connections::Pool<SdkBody>;

/// Creates connectors for the SDK.
struct Pools {
    connections: Connections,
    /// Where outages of services are kept. Without it, they are not told from other failures.
    outages: Option<Outages>,
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
            outages: self.outages.clone(),
        })
    }
}

/// Sends the requests of one operation of the SDK.
#[derive(Debug)]
struct Requests {
    pool: Pool,
    /// Maximum time until the head of the answer.
    answer_timeout: Option<Duration>,
    outages: Option<Outages>,
}

impl HttpConnector for Requests {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let request = match request.try_into_http1x() {
            Ok(request) => request,
            Err(error) => return HttpConnectorFuture::ready(Err(ConnectorError::user(error.into()))),
        };

        let service = request.uri().authority().map_or_else(String::new, |host| excerpt(host.as_str()));
        let outages = self.outages.clone();
        let answer = self.pool.send(request);
        let answer_timeout = self.answer_timeout;

        HttpConnectorFuture::new(async move {
            let answer = match answer_timeout {
                None => answer.await,
                Some(limit) => timeout(limit, answer).await.map_err(|error| match &outages {
                    Some(outages) => ConnectorError::timeout(outages.report(&service, "did not answer in time")),
                    None => ConnectorError::timeout(error.into()),
                })?,
            };

            if let Some(outages) = &outages {
                let problem = match &answer {
                    Err(error) if is_request_invalid(error) => None,
                    Err(error) => Some(format!("can't be reached: {}", innermost(error))),
                    Ok(response) if is_outage(response.status()) => {
                        Some(format!("fails at the moment ({})", response.status().as_u16()))
                    }
                    Ok(_) => None,
                };
                match problem {
                    Some(problem) => return Err(ConnectorError::io(outages.report(&service, &problem))),
                    None => outages.set(None),
                }
            }
            let response = answer.map_err(failure)?.map(SdkBody::from_body_1_x);
            HttpResponse::try_from(response).map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

/// Returns whether a service fails for a while, or asks to slow down.
fn is_outage(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

/// A request that hyper rejects is the SDK's fault. Everything else is the connection's.
fn failure(error: legacy::Error) -> ConnectorError {
    if is_request_invalid(&error) { ConnectorError::user(error.into()) } else { ConnectorError::io(error.into()) }
}
