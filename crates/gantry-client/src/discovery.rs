//! Tells a missing relay from a missing store.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::timeout;

use gantry_bus::{Bus, Message};
use gantry_proto::check;
use gantry_proto::subject::Prefix;

/// The subject to which every relay of every prefix answers, by the NATS services API.
const PING: &str = "$SRV.PING.gantry";

/// How long to wait for a first answer. It is asked only to word an error, so it is short.
const PATIENCE: Duration = Duration::from_millis(750);

/// How many answers are looked at. Each relay of the system sends one.
const ANSWERS_MAX: usize = 1000;

/// Returns whether any relay of this prefix answers. Without the right to ask, it looks as if none did.
pub(super) async fn any_relay(bus: &dyn Bus, prefix: &Prefix) -> bool {
    let inbox = bus.new_inbox();
    let Ok(mut answers) = bus.subscribe(&inbox, None).await else { return false };
    let ping = Message { subject: PING.to_owned(), reply: Some(inbox), ..Message::default() };
    if bus.publish(ping).await.is_err() {
        return false;
    }
    let prefix = prefix.to_string();
    let is_ours =
        |answer: &Message| answer.status.is_none() && check::service_prefix(&answer.payload).as_ref() == Some(&prefix);
    let looking = async {
        for _ in 0..ANSWERS_MAX {
            match answers.next().await {
                Some(answer) if answer.status.is_some() => return false,
                Some(answer) if is_ours(&answer) => return true,
                Some(_) => {}
                None => return false,
            }
        }
        false
    };
    timeout(PATIENCE, looking).await.unwrap_or(false)
}
