//! Distinguishes a missing relay from a missing store.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::timeout;

use gantry_bus::{Bus, Message};
use gantry_proto::check;
use gantry_proto::subject::Prefix;

/// The subject on which every relay answers, whatever its prefix. Source: the NATS services API (ADR-32).
const PING: &str = "$SRV.PING.gantry";

/// The time limit for the first answer. It is short, since the answer only decides which error is reported.
const PATIENCE: Duration = Duration::from_millis(750);

/// The number of answers that are read. Each relay of the system sends one.
const ANSWERS_MAX: usize = 1000;

/// Returns whether any relay with this prefix answers. Returns `false` if nats-server forbids the request.
pub(crate) async fn any_relay(bus: &dyn Bus, prefix: &Prefix) -> bool {
    let inbox = bus.new_inbox();
    let Ok(mut answers) = bus.subscribe(&inbox, None).await else { return false };

    let ping = Message { subject: PING.to_owned(), reply: Some(inbox), ..Message::default() };
    if bus.publish(ping).await.is_err() {
        return false;
    }

    let prefix = prefix.to_string();
    let is_ours = |answer: &Message| check::service_prefix(&answer.payload).as_ref() == Some(&prefix);
    let search = async {
        for _ in 0..ANSWERS_MAX {
            match answers.next().await {
                // A status means that nobody is subscribed.
                Some(answer) if answer.status.is_some() => return false,
                Some(answer) if is_ours(&answer) => return true,
                Some(_) => {}
                None => return false,
            }
        }
        false
    };
    timeout(PATIENCE, search).await.unwrap_or(false)
}
