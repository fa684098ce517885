//! The operator's HTTP pages beside a server.

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::exit::{Exit, Failure};
use crate::config;
use crate::http::{self, Pages};

/// Binds the address of the HTTP pages. Failing to bind an address that was set is an error. The default may be in use
/// by another relay.
pub(super) async fn listen(config: &config::Http) -> Result<Option<TcpListener>, Failure> {
    let Some(address) = config.listen else { return Ok(None) };
    match http::bind(address).await {
        Ok(listener) => {
            let address = listener.local_addr().unwrap_or(address);
            info!(%address, "answering /livez, /readyz and /metrics");
            Ok(Some(listener))
        }
        Err(error) if config.is_chosen => Err(Failure::usage(format!(
            "`http.listen` = {:?} can't be bound: {error}: use another address, or off",
            address.to_string()
        ))),
        Err(error) => {
            warn!(%address, %error, "/livez, /readyz and /metrics are not available: choose another address with --http (`http.listen`)");
            Ok(None)
        }
    }
}

/// Serves the pages until `served` is ready, and returns its result.
///
/// # Errors
/// Those of `served`, and if the pages end first.
pub(super) async fn beside(
    served: impl Future<Output = Result<(), Failure>>,
    listener: Option<TcpListener>,
    pages: Pages,
) -> Result<(), Failure> {
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let mut pages_served = tokio::spawn(async move {
        match listener {
            Some(listener) => http::serve(listener, pages, stopped).await,
            None => stopped.cancelled().await,
        }
    });

    let served = async {
        let _stop = stop.drop_guard();
        served.await
    };
    tokio::select! {
        served = served => {
            // The server has ended. The result of the pages does not matter.
            drop(pages_served.await);
            served
        }
        _ = &mut pages_served => Err(Failure::new(Exit::Failed, "the task that serves /livez, /readyz and /metrics ended: see the log, and please report this")),
    }
}
