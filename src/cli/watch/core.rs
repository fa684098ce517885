//! Events over core NATS: what is published while nobody listens is lost.

use std::sync::Arc;

use futures_util::StreamExt as _;
use gantry_bus::{Bus, Event, Subscription};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::super::exit::{Exit, Failure};
use super::delivery::{Delivery, Reader};

/// The number of events that may wait. One takes about 1 KiB.
pub(super) const WAITING_MAX: usize = 10_000;

/// Subscribes to the subject, and returns once nats-server has the subscription.
pub(super) async fn subscribe(bus: &dyn Bus, subject: &str) -> Result<Subscription, Failure> {
    let subscription = bus.subscribe(subject, None).await?;
    bus.flush().await?;
    Ok(subscription)
}

/// Passes events on until the connection is closed. Drops those for which there is no room.
pub(super) async fn listen(
    bus: Arc<dyn Bus>,
    mut messages: Subscription,
    reader: Reader,
    events: Sender<Delivery>,
) -> Result<(), Failure> {
    let mut reports = bus.events();
    loop {
        let message = tokio::select! {
            message = messages.next() => message.ok_or(gantry_bus::Error::Closed)?,
            report = reports.recv() => match report {
                Ok(Event::SubscribeDenied(subject)) if subject == reader.subject => {
                    return Err(Failure::new(
                        Exit::Denied,
                        format!("nats-server denies subscribing to {subject:?}: grant that permission to the user"),
                    ));
                }
                Ok(Event::SlowConsumer) => {
                    reader.notes.dropped("nats-server or this connection dropped messages: they arrive too fast");
                    continue;
                }
                Ok(Event::PublishDenied(_) | Event::SubscribeDenied(_) | Event::LameDuck | Event::Closed(_))
                | Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return Err(gantry_bus::Error::Closed.into()),
            },
        };

        let objects = reader.objects(&message).unwrap_or_default();
        if objects.is_empty() {
            continue;
        }
        match events.try_send(Delivery { objects, attempt: 1, receipt: None }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => reader.notes.dropped(&format!(
                "dropped an event: {WAITING_MAX} others wait; with --durable, events wait in a JetStream stream"
            )),
            Err(TrySendError::Closed(_)) => return Ok(()),
        }
    }
}
