//! Finds the largest message that nats-server accepts from a relay, before a transfer exceeds it.
//!
//! An account may have a lower limit than its server announces. The client library does not learn it, and nats-server
//! closes the connection at the first message that is larger. A message to nobody costs no transfer.

use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::config::Config;
use gantry_bus::{self as bus, Bus, Message};
use gantry_proto::HEADERS_MAX_BYTES;

/// The time limit for nats-server to answer.
const ROUND_TRIP: Duration = Duration::from_secs(3);

/// How often a connection must end at messages of one size until this is taken for the reason. nats-server states the
/// reason, but it is often lost with the connection.
const ENDS: u32 = 2;

/// The time limit for a relay's start. Without an answer, it serves and finds the limit with its transfers.
const START_LIMIT: Duration = Duration::from_secs(2);

/// Minimum interval between two probes of a running relay.
const INTERVAL: Duration = Duration::from_secs(10);

/// Where a message goes that nobody receives, and where nats-server reports that.
pub(super) struct Probe {
    subject: String,
    reply: String,
    reports: String,
    /// The largest message of a transfer, in bytes.
    wanted: usize,
}

impl Probe {
    /// Returns `None` if the relay may not deliver anything.
    pub(super) fn of(config: &Config) -> Option<Self> {
        let id = Uuid::new_v4().simple().to_string();
        let delivery = config.relay.delivery_allow.prefixes().next()?;
        let reports = config.prefix.all_gone(&id);
        Some(Self {
            subject: format!("{delivery}gantry-check.{id}"),
            reply: format!("{}.check", reports.trim_end_matches(".*")),
            reports,
            wanted: config.relay.chunk_max_bytes + HEADERS_MAX_BYTES,
        })
    }

    /// Returns the size of the largest message that the relay would send on this connection, in bytes.
    pub(super) fn wanted_on(&self, bus: &dyn Bus) -> usize {
        self.wanted.min(bus.max_payload())
    }

    /// Publishes a message of the largest size, and smaller ones as long as nats-server closes the connection. Returns the
    /// size that it accepts, or `None` if it does not answer. From then on, the bus knows the limit.
    ///
    /// # Errors
    /// Those of [`Bus::publish`].
    pub(super) async fn accepted(&self, bus: &dyn Bus) -> Result<Option<usize>, bus::Error> {
        let mut answers = bus.subscribe(&self.reports, None).await?;
        let mut status = bus.status();
        let mut len = self.wanted_on(bus);
        let mut ends = 0;

        while len > HEADERS_MAX_BYTES {
            let epoch = status.borrow().epoch;
            let payload = vec![0; len].into();
            let (subject, reply) = (self.subject.clone(), Some(self.reply.clone()));
            match bus.publish(Message { subject, reply, payload, ..Message::default() }).await {
                // The limit has become known meanwhile.
                Ok(()) | Err(bus::Error::TooLarge { .. }) => {}
                Err(error) => return Err(error),
            }

            tokio::select! {
                answer = timeout(ROUND_TRIP, answers.next()) => return Ok(answer.ok().flatten().map(|_| len)),
                reconnected = status.wait_for(|status| status.connected && status.epoch > epoch) => {
                    if reconnected.is_err() {
                        return Ok(None);
                    }
                }
            }

            ends += 1;
            if ends == ENDS && bus.max_payload() >= len {
                bus.note_refused(len);
            }
            if bus.max_payload() < len {
                (len, ends) = (bus.max_payload(), 0);
            }
        }
        Ok(None)
    }
}

/// Finds the limit of a relay's connection before the relay serves.
pub(super) async fn find_limit(config: &Config, bus: &dyn Bus) {
    let Some(probe) = Probe::of(config) else { return };
    match timeout(START_LIMIT, probe.accepted(bus)).await {
        Ok(Ok(Some(accepted))) => tracing::debug!(accepted, "nats-server accepts messages of this size"),
        Ok(Ok(None) | Err(_)) | Err(_) => tracing::debug!("it is unknown which messages nats-server accepts"),
    }
}

/// Finds the limit again after each reconnect, since the server's or the account's configuration may have changed.
pub(super) async fn follow_limit(config: &Config, bus: &dyn Bus) {
    let mut status = bus.status();
    let mut epoch = status.borrow().epoch;
    while status.wait_for(|status| status.connected && status.epoch > epoch).await.is_ok() {
        find_limit(config, bus).await;
        epoch = status.borrow().epoch;
        sleep(INTERVAL).await;
    }
}
