//! From a request to the opened store.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::delivery::Delivery;
use super::report::outcome_name;
use crate::registry::{Entry, Heard};
use gantry_proto::message::Wait;
use gantry_proto::sender::Outcome;
use gantry_proto::{Body, GetRequest, limits};
use gantry_store::{self as store, Opened, Store};

/// How long opening a store may take before the consumer gets a first beat. If nobody listens, nats-server's answer to
/// the beat arrives before a distant S3's response, whose body is then not read. A store nearby is sooner: for it the beat
/// would only cost a message.
const FIRST_BEAT: Duration = Duration::from_millis(10);

/// The result of opening a store without an error.
pub(super) enum Opening {
    Done(Box<Opened>),
    /// The transfer ended before it started, with this outcome.
    Ended(&'static str),
}

/// Opens the store and sends beats meanwhile, unless the consumer leaves or the relay must stop.
///
/// # Errors
/// If the store fails.
pub(super) async fn open(
    delivery: &Delivery,
    store: &dyn Store,
    request: &GetRequest,
    entry: &mut Entry,
) -> Result<Opening, store::Error> {
    if is_unheard(delivery, request, entry).await {
        return Ok(Opening::Ended(outcome_name(&Outcome::ConsumerGone)));
    }

    let lifetime = &delivery.context.lifetime;
    let mut opening = store.open(&request.key, &request.pin, request.span());
    let period = limits::beat(delivery.context.options.beat_interval);
    // The first beat comes early. It shows the consumer that its request did not reach a frozen relay.
    let mut beats = tokio::time::interval_at(Instant::now() + FIRST_BEAT.min(period), period);

    let ended = loop {
        tokio::select! {
            biased;
            Ok(()) = entry.heard.changed() => match *entry.heard.borrow() {
                Heard { gone: true, .. } => break outcome_name(&Outcome::ConsumerGone),
                Heard { control, .. } if control.cancel => break outcome_name(&Outcome::Cancelled),
                Heard { .. } => {}
            },
            opened = &mut opening => return opened.map(|opened| Opening::Done(Box::new(opened))),
            _ = beats.tick() => {
                if !delivery.publish(beat(request)).await {
                    break "aborted";
                }
            }
            () = lifetime.goaway.cancelled() => {
                let is_sent = delivery.publish(Body::Goaway).await;
                break if is_sent { outcome_name(&Outcome::Drained) } else { "aborted" };
            }
            () = lifetime.shutdown.force.cancelled() => break "aborted",
        }
    };
    Ok(Opening::Ended(ended))
}

/// Returns whether nobody receives the answer, as far as that is known in time. It is checked only if there is a reason.
async fn is_unheard(delivery: &Delivery, request: &GetRequest, entry: &mut Entry) -> bool {
    let Some(wait) = delivery.context.caution.wait() else { return false };
    if !delivery.publish(beat(request)).await {
        return false;
    }

    let gone = entry.heard.wait_for(|heard| heard.gone || heard.control.cancel);
    timeout(wait, gone).await.is_ok_and(|heard| heard.is_ok_and(|heard| heard.gone))
}

const fn beat(request: &GetRequest) -> Body {
    Body::Beat { seq: 0, offset: request.start, wait: Wait::Store }
}
