//! The two connections of a relay.
//!
//! Any client that may send requests can end the connection that receives them, with one malformed message ("Security"
//! in `docs/PROTOCOL.md`). Requests therefore have a separate connection, and its failures do not affect running
//! transfers.

use std::sync::Arc;

use futures_util::future::try_join;

use gantry_bus::{self as bus, Bus};

/// The connections of a relay.
#[derive(Clone, Debug)]
pub struct Buses {
    /// Receives requests, control messages and questions about the service: everything that consumers may publish.
    pub requests: Arc<dyn Bus>,
    /// Publishes every answer and every message of a transfer. Receives only nats-server's reports of messages that nobody
    /// received.
    pub data: Arc<dyn Bus>,
}

/// One of the two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connection {
    Requests,
    Data,
}

impl Connection {
    /// Both connections.
    pub(crate) const ALL: [Self; 2] = [Self::Requests, Self::Data];

    /// Returns the name in metrics, logs and messages.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Data => "data",
        }
    }
}

impl Buses {
    pub(crate) fn of(&self, connection: Connection) -> &dyn Bus {
        match connection {
            Connection::Requests => &*self.requests,
            Connection::Data => &*self.data,
        }
    }

    /// Waits until everything published and subscribed before has been written.
    pub(crate) async fn flush(&self) -> Result<(), bus::Error> {
        try_join(self.requests.flush(), self.data.flush()).await.map(drop)
    }
}

/// Uses one connection for both purposes, for networks without hostile clients.
impl From<Arc<dyn Bus>> for Buses {
    fn from(bus: Arc<dyn Bus>) -> Self {
        Self { requests: Arc::clone(&bus), data: bus }
    }
}

impl<B: Bus> From<Arc<B>> for Buses {
    fn from(bus: Arc<B>) -> Self {
        Self::from(bus as Arc<dyn Bus>)
    }
}
