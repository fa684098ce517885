//! How long to wait for a connection to nats-server.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::time::timeout;

use gantry_client::bus::Bus;
use gantry_store::Error;

/// The connection, and the patience with it.
///
/// A client of this store waits for the first byte of its response meanwhile, and can do better than to wait: it has
/// other servers, or a user who wants to know. A response that has begun is resumed much longer.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    bus: Arc<dyn Bus>,
    patience: Duration,
}

impl Link {
    pub(crate) fn new(bus: Arc<dyn Bus>, patience: Duration) -> Self {
        Self { bus, patience }
    }

    /// Waits for an answer.
    ///
    /// # Errors
    /// Those of `asked`, and [`Error::Unavailable`] once there has been no connection for the whole patience.
    pub(crate) async fn guard<T>(&self, asked: impl Future<Output = Result<T, Error>> + Send) -> Result<T, Error> {
        tokio::select! {
            biased;
            answer = asked => answer,
            error = self.lost() => Err(error),
        }
    }

    /// Waits until there has been no connection for the whole patience, and returns the error.
    pub(crate) fn lost(&self) -> BoxFuture<'static, Error> {
        let Self { bus, patience } = self.clone();
        async move {
            let mut status = bus.status();
            // If the bus is gone, its users learn it from the bus.
            while status.wait_for(|status| !status.connected).await.is_ok() {
                if timeout(patience, status.wait_for(|status| status.connected)).await.is_err() {
                    return Error::unavailable(format!("no connection to nats-server at {}", bus.server()));
                }
            }
            std::future::pending().await
        }
        .boxed()
    }
}
