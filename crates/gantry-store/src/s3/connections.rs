//! Makes the connections of a store available to the SDK.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use crate::connections::{self, CONNECT_TIMEOUT, Connections, innermost, is_request_invalid};
use crate::ranged::excerpt;
use crate::{Error, Observer};

/// Creates a pool of connections to S3 for the SDK, as [`Connections::new`] does. An answer of S3 ends the outage in
/// `outages`, since it means that a request was signed.
///
/// # Errors
/// [`Error::Unavailable`] if the file can't be read, or contains no valid certificate.
pub(super) fn pool(ca: Option<&Path>, observer: &Observer, outages: &Outages) -> Result<SharedHttpClient, Error> {
    shared(ca, observer, Role::Store, outages)
}

/// Creates a pool of connections to the services that issue credentials. If one can't be reached or does not answer, the
/// error contains an [`Outage`]. The last outage is kept in `outages`, also one that a service states itself.
///
/// # Errors
/// Those of [`pool`].
pub(super) fn pool_for_credentials(
    ca: Option<&Path>,
    observer: &Observer,
    outages: &Outages,
) -> Result<SharedHttpClient, Error> {
    shared(ca, observer, Role::Credentials, outages)
}

fn shared(ca: Option<&Path>, observer: &Observer, role: Role, outages: &Outages) -> Result<SharedHttpClient, Error> {
    #[cfg(feature = "fuzzing")]
    if let Some(client) = super::fuzzing::client() {
        return Ok(client);
    }

    let (connections, outages) = (Connections::new(ca, observer)?, outages.clone());
    Ok(Pools { connections, role, outages, pools: Mutex::default() }.into_shared())
}

/// The servers at the other end of a pool's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// S3.
    Store,
    /// The services that issue credentials.
    Credentials,
}

/// A service that issues credentials is unavailable. The text names it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Outage(String);

/// The last outage, until a service or S3 answers. The SDK waits between its attempts, so that a request for an object may
/// end before the outage is reported.
#[derive(Clone, Debug, Default)]
pub(super) struct Outages(Arc<Mutex<Option<Kept>>>);

#[derive(Clone, Debug)]
struct Kept {
    text: String,
    /// Whether the service answered that it fails.
    is_answer: bool,
}

impl Outages {
    pub(super) fn current(&self) -> Option<String> {
        self.lock().as_ref().map(|kept| kept.text.clone())
    }

    /// Returns the outage of a service that answered. The SDK also looks for services where there are none, such as the
    /// metadata service of AWS on any machine, so an outage without an answer does not show that there is a service.
    pub(super) fn answered(&self) -> Option<String> {
        self.lock().as_ref().filter(|kept| kept.is_answer).map(|kept| kept.text.clone())
    }

    fn end(&self) {
        *self.lock() = None;
    }

    /// Keeps the outage of a service that answers with this status.
    fn note(&self, service: &str, status: StatusCode) {
        let text = format!("{service} fails at the moment ({})", status.as_u16());
        *self.lock() = Some(Kept { text, is_answer: true });
    }

    /// Keeps the outage of a service that does not answer, and returns it as the cause of an error.
    fn report(&self, service: &str, problem: &str) -> Box<dyn std::error::Error + Send + Sync> {
        let text = format!("{service} {problem}");
        *self.lock() = Some(Kept { text: text.clone(), is_answer: false });
        Outage(text).into()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Pool = connections::Pool<SdkBody>;

/// Creates connectors for the SDK.
struct Pools {
    connections: Connections,
    role: Role,
    /// The outage of the services that issue credentials.
    outages: Outages,
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
            role: self.role,
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
    role: Role,
    outages: Outages,
}

impl HttpConnector for Requests {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let request = match request.try_into_http1x() {
            Ok(request) => request,
            Err(error) => return HttpConnectorFuture::ready(Err(ConnectorError::user(error.into()))),
        };

        let exchange = Exchange {
            service: request.uri().authority().map_or_else(String::new, |host| excerpt(host.as_str())),
            role: self.role,
            outages: self.outages.clone(),
        };
        let answer = self.pool.send(request);
        let answer_timeout = self.answer_timeout;

        HttpConnectorFuture::new(async move {
            let answer = match answer_timeout {
                None => answer.await,
                Some(limit) => timeout(limit, answer).await.map_err(|error| exchange.late(error))?,
            };

            let response = answer.map_err(|error| exchange.failure(error))?.map(SdkBody::from_body_1_x);
            exchange.note(response.status());
            HttpResponse::try_from(response).map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

/// A request that is in flight.
struct Exchange {
    /// The server's host and port.
    service: String,
    role: Role,
    outages: Outages,
}

impl Exchange {
    fn late(&self, error: Elapsed) -> ConnectorError {
        ConnectorError::timeout(match self.role {
            Role::Store => error.into(),
            Role::Credentials => self.outages.report(&self.service, "did not answer in time"),
        })
    }

    /// A request that hyper rejects is the SDK's fault. Everything else is the connection's.
    fn failure(&self, error: legacy::Error) -> ConnectorError {
        if is_request_invalid(&error) {
            return ConnectorError::user(error.into());
        }
        ConnectorError::io(match self.role {
            Role::Store => error.into(),
            Role::Credentials => {
                self.outages.report(&self.service, &format!("can't be reached: {}", innermost(&error)))
            }
        })
    }

    /// Records an answer. The SDK gets it in any case, since it repeats requests only after an answer.
    fn note(&self, status: StatusCode) {
        if self.role == Role::Credentials && is_outage(status) {
            self.outages.note(&self.service, status);
        } else {
            self.outages.end();
        }
    }
}

/// Returns whether a service fails for a while, or asks to slow down.
fn is_outage(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(role: Role, outages: &Outages) -> Exchange {
        Exchange { service: "sts.example".to_owned(), role, outages: outages.clone() }
    }

    #[test]
    fn an_outage_ends_with_any_answer_of_the_service_or_of_s3() {
        let outages = Outages::default();
        let (service, s3) = (exchange(Role::Credentials, &outages), exchange(Role::Store, &outages));
        for (other, status) in [(&service, 200), (&service, 404), (&s3, 200), (&s3, 403), (&s3, 503)] {
            service.note(StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(outages.current().as_deref(), Some("sts.example fails at the moment (503)"));
            other.note(StatusCode::from_u16(status).unwrap());
            assert_eq!(outages.current(), None, "{status}");
        }
    }

    #[test]
    fn only_a_service_that_answers_is_known_to_exist() {
        let outages = Outages::default();
        drop(outages.report("169.254.169.254", "can't be reached"));
        assert_eq!((outages.current().is_some(), outages.answered()), (true, None));
        for status in [429, 500, 503] {
            exchange(Role::Credentials, &outages).note(StatusCode::from_u16(status).unwrap());
            assert_eq!(outages.answered(), Some(format!("sts.example fails at the moment ({status})")));
        }
    }
}
