//! Connections to S3: one pool for each store, which reports to the store's observer.

use aws_sdk_s3::config::SharedHttpClient;
use aws_smithy_http_client::pool::{Client, ConnectionEvent, ConnectionEventListener, ConnectionPool};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_runtime_api::shared::IntoShared;

use crate::{Error, Observer};

/// Makes a pool of connections that `observer` counts. As in the SDK's default pool, `HTTPS_PROXY` and similar variables
/// apply, and a connection is closed after 90 s without a request.
///
/// # Errors
/// [`Error::Invalid`] if the environment names an invalid proxy.
pub(super) fn pool(observer: &Observer) -> Result<SharedHttpClient, Error> {
    #[cfg(feature = "fuzzing")]
    if let Some(client) = super::fuzzing::client() {
        return Ok(client);
    }

    let invalid = |error: &dyn std::error::Error| Error::Invalid(format!("no connections to S3: {error}"));
    let pool = ConnectionPool::builder()
        .proxy_config(ProxyConfig::from_env())
        .event_listener(Counted(Observer::clone(observer)))
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .build_https()
        .map_err(|error| invalid(&error))?;
    Ok(Client::new(&pool).map_err(|error| invalid(&error))?.into_shared())
}

struct Counted(Observer);

impl ConnectionEventListener for Counted {
    fn on_event(&self, event: &ConnectionEvent<'_>) {
        if matches!(event, ConnectionEvent::Opened(_)) {
            self.0.connection_opened();
        } else if matches!(event, ConnectionEvent::PhysicalClose(_)) {
            self.0.connection_closed();
        }
        // A failed attempt is reported by its request.
    }
}
