//! The transfers under way, and the control messages that find their way to them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::StreamExt;
use tokio::sync::{Notify, watch};
use tracing::debug;

use super::throttle::REFUSALS;
use super::{Shared, supervision};
use gantry_bus::{self as bus, Message, NO_RESPONDERS, Subscription};
use gantry_proto::subject::transfer_of_control;
use gantry_proto::{Control, TransferId};

/// All that a consumer has said about its transfer. Each message carries the whole state, so only the sum is kept.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Heard {
    /// The furthest credit, and whether to stop.
    pub(super) control: Control,
    /// Whether nats-server said that nobody listens on the delivery subject.
    pub(super) gone: bool,
}

/// The transfers under way.
#[derive(Debug, Default)]
pub(super) struct Registry {
    transfers: Mutex<HashMap<TransferId, watch::Sender<Heard>>>,
    emptied: Notify,
}

impl Registry {
    /// Adds a transfer; it leaves when the entry is dropped.
    pub(super) fn enter(&self, shared: &Arc<Shared>, transfer: TransferId) -> Entry {
        let (sender, heard) = watch::channel(Heard::default());
        self.lock().insert(transfer, sender);
        shared.metrics.transfers_active.inc();
        Entry { shared: Arc::clone(shared), transfer, heard }
    }

    /// Returns how many transfers are under way.
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Waits until no transfer is under way.
    pub(super) async fn emptied(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.len() == 0 {
                return;
            }
            emptied.await;
        }
    }

    fn hear(&self, transfer: TransferId, update: impl FnOnce(&mut Heard)) {
        if let Some(sender) = self.lock().get(&transfer) {
            sender.send_modify(update);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TransferId, watch::Sender<Heard>>> {
        self.transfers.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A transfer's place in the registry.
#[derive(Debug)]
pub(super) struct Entry {
    shared: Arc<Shared>,
    pub(super) transfer: TransferId,
    pub(super) heard: watch::Receiver<Heard>,
}

impl Entry {
    /// Takes note, at the end of a transfer, if nobody ever heard of it. Of one that had time for a beat somebody may have
    /// heard, and left since.
    pub(super) fn note_unheard(&self, took: std::time::Duration) {
        let Heard { control, gone } = *self.heard.borrow();
        let is_at_once = took < self.shared.options.beat_interval;
        if gone && is_at_once && control.credit == 0 && !control.cancel {
            self.shared.caution.note_unheard(took);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let registry = &self.shared.registry;
        registry.lock().remove(&self.transfer);
        self.shared.metrics.transfers_active.dec();
        if registry.len() == 0 {
            registry.emptied.notify_waiters();
        }
    }
}

/// Begins to hear control messages, and nats-server's reports that nobody receives a transfer's messages.
///
/// # Errors
/// When a bus does not take the subscription.
pub(super) async fn start(shared: &Arc<Shared>) -> Result<(), bus::Error> {
    let controls = shared.options.prefix.controls(&shared.instance);
    let controls = shared.buses.requests.subscribe(&controls, None).await?;
    let reports = shared.options.prefix.all_gone(&shared.secret);
    let reports = shared.buses.data.subscribe(&reports, None).await?;

    supervision::spawn(shared, "control", None, dispatch(Arc::clone(shared), controls, hear_control));
    supervision::spawn(shared, "gone", None, dispatch(Arc::clone(shared), reports, hear_report));
    Ok(())
}

/// Hands messages to their transfers until the last transfer of a stopped relay has ended.
async fn dispatch(shared: Arc<Shared>, mut messages: Subscription, hear: fn(&Shared, &Message)) {
    loop {
        let message = tokio::select! {
            message = messages.next() => message,
            () = shared.goaway.cancelled() => break,
        };
        let Some(message) = message else { return };
        hear(&shared, &message);
    }
    while shared.registry.len() > 0 {
        tokio::select! {
            message = messages.next() => {
                let Some(message) = message else { return };
                hear(&shared, &message);
            }
            () = shared.registry.emptied() => {}
        }
    }
}

fn hear_control(shared: &Shared, message: &Message) {
    shared.see_requests();
    let Some(transfer) = transfer_of_control(&message.subject) else { return };
    match Control::parse(&message.payload) {
        Ok(control) => shared.registry.hear(transfer, |heard| {
            heard.control.credit = heard.control.credit.max(control.credit);
            heard.control.cancel |= control.cancel;
        }),
        Err(error) => {
            shared.metrics.refuse("control");
            if shared.throttle.admits("control", REFUSALS) {
                debug!(%transfer, %error, "ignoring a control message");
            }
        }
    }
}

/// Takes nats-server's report, and nothing else, as the end of a consumer. Only the consumer of a transfer knows the
/// subject, so that nobody else could forge one.
fn hear_report(shared: &Shared, message: &Message) {
    shared.outbox.see_bus();
    if message.status != Some(NO_RESPONDERS) {
        return debug!("ignoring a message on a subject that is for nats-server");
    }
    let Some(transfer) = transfer_of_control(&message.subject) else { return };
    shared.registry.hear(transfer, |heard| heard.gone = true);
}
