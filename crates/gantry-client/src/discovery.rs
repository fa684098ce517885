//! Tells a missing relay from a missing store.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::timeout;

use gantry_bus::{Bus, Message};

/// The subject to which every relay of every prefix answers, by the NATS services API.
const PING: &str = "$SRV.PING.gantry";

/// How long to wait for a first answer. It is asked only to word an error, so it is short.
const PATIENCE: Duration = Duration::from_millis(750);

/// Returns whether any relay answers. Without the right to ask, it looks as if none did.
pub(super) async fn any_relay(bus: &dyn Bus) -> bool {
    let inbox = bus.new_inbox();
    let Ok(mut answers) = bus.subscribe(&inbox, None).await else { return false };
    let ping = Message { subject: PING.to_owned(), reply: Some(inbox), ..Message::default() };
    if bus.publish(ping).await.is_err() {
        return false;
    }
    matches!(timeout(PATIENCE, answers.next()).await, Ok(Some(answer)) if answer.status.is_none())
}
