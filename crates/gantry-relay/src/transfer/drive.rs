//! Drives a [`Sender`] between a store's body and the bus.

use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use tokio::time::{Instant, sleep_until};

use super::delivery::Delivery;
use super::report::Report;
use crate::pacer::Pacer;
use crate::registry::{Entry, Heard};
use gantry_proto::Body;
use gantry_proto::sender::{Outcome, Sender};
use gantry_store as store;

/// How long to wait until the first chunk alone is written to the connection. Written together with its successors, it
/// would reach nobody before nats-server has read those as well.
const HEAD_START: Duration = Duration::from_millis(5);

/// A transfer in progress.
pub(super) struct Drive {
    pub(super) sender: Sender,
    pub(super) clock: Clock,
    pub(super) body: store::Body,
    pub(super) store_ended: bool,
    pub(super) entry: Entry,
    pub(super) pacer: Pacer,
    pub(super) report: Report,
}

impl Drive {
    /// Runs to the last message. Returns `None` if the relay must stop at once or the bus is closed.
    pub(super) async fn run(&mut self, delivery: &Delivery) -> Option<Outcome> {
        let lifetime = &delivery.context.lifetime;
        // Control messages that arrived while the store was being opened count as well.
        self.hear();

        loop {
            self.take_ready_pieces();
            let is_sent = self.transmit(delivery).await;
            self.report.log_start(delivery);
            if !is_sent {
                return None;
            }

            self.report.note_blocked(self.sender.is_blocked());
            if let Some(outcome) = self.sender.outcome() {
                return Some(outcome.clone());
            }

            self.pacer.ask(self.sender.held_back());
            let wakes_at = self.sender.poll_timeout().map(|at| self.clock.at(at));
            tokio::select! {
                biased;
                () = lifetime.shutdown.force.cancelled() => return None,
                () = lifetime.goaway.cancelled() => self.sender.handle_drain(),
                Ok(()) = self.entry.heard.changed() => self.hear(),
                piece = self.body.next(), if self.wants_data() => self.take(piece),
                bytes = self.pacer.turn(), if self.pacer.is_waiting() => self.sender.permit(bytes),
                () = sleep_until(wakes_at.unwrap_or_else(Instant::now)), if wakes_at.is_some() => {
                    self.sender.handle_timeout(self.clock.now());
                }
            }
        }
    }

    /// Publishes what the sender has ready. Returns `false` if the relay must stop at once or the bus is closed.
    async fn transmit(&mut self, delivery: &Delivery) -> bool {
        while let Some(message) = self.sender.poll_transmit(self.clock.now()) {
            let Body::Chunk(chunk) = message else {
                if delivery.publish(message).await {
                    continue;
                }
                return false;
            };

            let len = chunk.payload.len();
            if !delivery.publish_chunk(chunk).await {
                return false;
            }

            let is_first = self.sender.sent_chunks() == 1;
            self.report.count_chunk(len, is_first, delivery);
            if is_first && !self.sender.is_all_sent() {
                delivery.context.outbox.flush_within(HEAD_START).await;
            }
        }
        true
    }

    /// Takes the pieces that the store has ready, so that small ones can be sent together.
    pub(super) fn take_ready_pieces(&mut self) {
        while self.wants_data() {
            let Some(piece) = self.body.next().now_or_never() else { return };
            self.take(piece);
        }
    }

    fn wants_data(&self) -> bool {
        !self.store_ended && self.sender.wants_data()
    }

    fn take(&mut self, piece: Option<Result<bytes::Bytes, store::Error>>) {
        match piece {
            Some(Ok(bytes)) => self.sender.handle_data(bytes),
            Some(Err(error)) => {
                self.store_ended = true;
                self.sender.handle_failure(error.to_wire());
            }
            None => {
                self.store_ended = true;
                self.sender.handle_data_end();
            }
        }
    }

    /// Passes on the latest state that the consumer has reported.
    fn hear(&mut self) {
        let Heard { control, gone } = *self.entry.heard.borrow_and_update();
        if gone {
            self.sender.handle_consumer_gone();
        } else {
            self.sender.handle_control(control, self.clock.now());
        }
    }
}

/// Time since the start of a transfer, as the state machine counts it.
pub(super) struct Clock(Instant);

/// Later than any timeout of a transfer.
const FAR: Duration = Duration::from_secs(30 * 24 * 3600);

impl Clock {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn at(&self, since_start: Duration) -> Instant {
        // A time that can't be represented is as good as a month away.
        self.0.checked_add(since_start).unwrap_or_else(|| self.0 + FAR)
    }
}
