//! Connections to S3: one pool for each store, and what it tells about itself.

use aws_sdk_s3::config::SharedHttpClient;
use aws_smithy_http_client::pool::{Client, ConnectionEvent, ConnectionEventListener, ConnectionPool};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_runtime_api::shared::IntoShared;

use crate::{Error, Observer};

/// Makes a pool of connections that `observer` counts. As with the SDK's own, `HTTPS_PROXY` and its like are heeded,
/// and a connection is closed that was not used for 90 s.
///
/// # Errors
/// [`Error::Invalid`] when the environment names a proxy that can't be one.
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
        // A failed attempt is told by the request that wanted it.
    }
}
