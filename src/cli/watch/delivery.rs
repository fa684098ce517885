//! An event that waits for its objects to be handled, and what becomes of it afterwards.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gantry_bus::{Bus, Message};

use super::notes::Notes;
use super::object::Object;
use super::wanted::Wanted;

/// One message with the objects that it announces.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) objects: Vec<Object>,
    /// How many times it has been delivered, with this one.
    pub(super) attempt: u64,
    /// The subject to acknowledge it on, with `JetStream`.
    pub(super) receipt: Option<String>,
}

/// Makes deliveries of messages.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    pub(super) subject: String,
    pub(super) wanted: Arc<Wanted>,
    pub(super) notes: Arc<Notes>,
}

impl Reader {
    /// Returns the objects that a message announces, or `None` after reporting that it is malformed.
    pub(super) fn objects(&self, message: &Message) -> Option<Vec<Object>> {
        let objects = super::event::read(&message.payload)
            .and_then(|announced| announced.into_iter().filter_map(|object| self.wanted.object(object)).collect());
        match objects {
            Ok(objects) => Some(objects),
            Err(why) => {
                self.notes.skipped(&format!("skipped a message on {}: {why}", message.subject));
                None
            }
        }
    }
}

/// What to report to `JetStream` about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ack {
    /// It is done.
    Done,
    /// Deliver it again after this time.
    Again(Duration),
    /// Never deliver it again.
    Never,
    /// It is still being worked on.
    Working,
}

impl Ack {
    fn payload(self) -> Bytes {
        match self {
            Self::Done => Bytes::from_static(b"+ACK"),
            Self::Again(Duration::ZERO) => Bytes::from_static(b"-NAK"),
            Self::Again(delay) => format!("-NAK {{\"delay\":{}}}", delay.as_nanos()).into(),
            Self::Never => Bytes::from_static(b"+TERM"),
            Self::Working => Bytes::from_static(b"+WPI"),
        }
    }

    /// Sends it. A lost one costs a repetition.
    pub(super) async fn send(self, bus: &dyn Bus, receipt: &str) {
        let message = Message { subject: receipt.to_owned(), payload: self.payload(), ..Message::default() };
        if let Err(error) = bus.publish(message).await {
            tracing::debug!(%error, receipt, "can't acknowledge a message");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_are_those_of_jetstream() {
        let delayed = Ack::Again(Duration::from_millis(1500)).payload();
        assert_eq!(delayed, &b"-NAK {\"delay\":1500000000}"[..]);
        let plain = [Ack::Done, Ack::Again(Duration::ZERO), Ack::Never, Ack::Working].map(Ack::payload);
        assert_eq!(plain, [&b"+ACK"[..], b"-NAK", b"+TERM", b"+WPI"]);
    }
}
