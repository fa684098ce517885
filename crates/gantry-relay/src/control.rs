//! Control messages from consumers, and nats-server's reports that nobody receives a transfer's messages.

use std::sync::Arc;

use futures_util::StreamExt;
use tokio::sync::Semaphore;
use tracing::debug;

use crate::buses::Buses;
use crate::lifetime::Lifetime;
use crate::metrics::RelayMetrics;
use crate::outbox::Outbox;
use crate::registry::Registry;
use crate::subjects::Subjects;
use crate::throttle::{REFUSALS, Throttle};
use gantry_bus::{self as bus, Message, NO_RESPONDERS, Subscription};
use gantry_proto::message::Envelope;
use gantry_proto::subject::{DeliveryAllow, transfer_of_control};
use gantry_proto::{Body, Code, Control, TransferId, WireError};

/// Passes messages to their transfers.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    pub(crate) registry: Arc<Registry>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) lifetime: Arc<Lifetime>,
    pub(crate) metrics: Arc<RelayMetrics>,
    pub(crate) throttle: Arc<Throttle>,
    /// The delivery subjects that may be published to.
    pub(crate) delivery_allow: DeliveryAllow,
    /// The permits for answers that wait for the bus. Further probes remain unanswered.
    pub(crate) answers: Arc<Semaphore>,
}

impl Dispatcher {
    /// Subscribes, and dispatches until the last transfer of a stopped relay has ended.
    ///
    /// # Errors
    /// If a bus refuses the subscription.
    pub(crate) async fn start(self, buses: &Buses, subjects: &Subjects) -> Result<(), bus::Error> {
        let controls = buses.requests.subscribe(&subjects.controls(), None).await?;
        let reports = buses.data.subscribe(&subjects.all_gone(), None).await?;

        let own = Arc::new(self);
        let lifetime = &own.lifetime;
        lifetime.spawn_vital("control", None, Arc::clone(&own).dispatch(controls, Self::hear_control));
        lifetime.spawn_vital("gone", None, Arc::clone(&own).dispatch(reports, Self::hear_report));
        Ok(())
    }

    async fn dispatch(self: Arc<Self>, mut messages: Subscription, hear: fn(&Self, &Message)) {
        loop {
            let message = tokio::select! {
                message = messages.next() => message,
                () = self.lifetime.goaway.cancelled() => break,
            };
            let Some(message) = message else { return };
            hear(&self, &message);
        }

        while self.registry.len() > 0 {
            tokio::select! {
                message = messages.next() => {
                    let Some(message) = message else { return };
                    hear(&self, &message);
                }
                () = self.registry.emptied() => {}
            }
        }
    }

    fn hear_control(&self, message: &Message) {
        self.outbox.see_requests();
        let Some(transfer) = transfer_of_control(&message.subject) else { return };

        match Control::parse(&message.payload) {
            Ok(control) => {
                if !self.registry.hear_control(transfer, control) && control.probe {
                    self.answer_probe(transfer, message.reply.as_ref());
                }
            }
            Err(error) => {
                self.metrics.refuse("control");
                if self.throttle.admits("control", REFUSALS) {
                    debug!(%transfer, %error, "ignoring an invalid control message");
                }
            }
        }
    }

    /// Tells a consumer that its transfer has ended, so that it need not wait for its silence timeout.
    fn answer_probe(&self, transfer: TransferId, reply: Option<&String>) {
        let Some(reply) = reply.filter(|reply| self.delivery_allow.allows(reply)) else { return };
        let Ok(permit) = Arc::clone(&self.answers).try_acquire_owned() else { return };

        // On the connection of the transfers, so that the answer does not overtake a transfer's last message.
        let error = WireError::new(Code::Ended, "the relay does not know the transfer, or no longer");
        let (headers, payload) = Envelope { transfer: Some(transfer), context: None }.encode(&Body::Error(error));
        let answer = Message { subject: reply.clone(), headers, payload, ..Message::default() };
        let outbox = Arc::clone(&self.outbox);
        self.lifetime.tasks.spawn(async move {
            outbox.send(answer).await;
            drop(permit);
        });
    }

    /// Accepts only nats-server's report as the end of a consumer. Only the consumer of a transfer knows the subject,
    /// so nobody else can forge a report.
    fn hear_report(&self, message: &Message) {
        self.outbox.see_bus();
        if message.status != Some(NO_RESPONDERS) {
            return debug!("ignoring a message on a subject that is reserved for nats-server");
        }

        let Some(transfer) = transfer_of_control(&message.subject) else { return };
        self.registry.hear_gone(transfer);
    }
}
