//! Relays at the hub: one `Sender` per transfer, and a store that is always ready.

use std::time::Duration;

use bytes::Bytes;
use gantry_proto::message::Envelope;
use gantry_proto::sender::{Identity, Sender, Settings};
use gantry_proto::subject::Prefix;
use gantry_proto::{Body, GetRequest, ObjectInfo, TransferId};
use uuid::Uuid;

/// The largest chunk, and the size of a piece of the store.
const CHUNK_BYTES: usize = 508 << 10;

static BYTES: [u8; CHUNK_BYTES] = [0; CHUNK_BYTES];

/// What a relay does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Up,
    /// nats-server reports that nobody listens.
    Dead,
    /// It keeps its subscriptions, and does nothing.
    Frozen,
}

/// A transfer at a relay.
pub(crate) struct Transfer {
    pub(crate) sender: Sender,
    pub(crate) envelope: Envelope,
    pub(crate) relay: usize,
    pub(crate) consumer: usize,
    /// The number of the inbox to which it publishes.
    pub(crate) inbox: u64,
    pub(crate) timer_at: Option<Duration>,
    /// The offset of the store's next byte.
    read: u64,
    size: u64,
}

impl Transfer {
    /// Accepts a request for an object of `size` bytes.
    pub(crate) fn open(
        number: u128,
        relay: usize,
        consumer: usize,
        inbox: u64,
        request: &GetRequest,
        size: u64,
        now: Duration,
    ) -> Self {
        let settings = Settings {
            chunk_max: CHUNK_BYTES,
            gather_min: 64 << 10,
            window_max: 32 << 20,
            beat_interval: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(15),
        };
        let transfer = TransferId(Uuid::from_u128(number));
        let instance = format!("relay{relay}");
        let control = Prefix::default().control(&instance, transfer);

        let identity = Identity { transfer, instance, control, host: None };
        let mut sender = Sender::new(settings, request, identity, now);
        sender.handle_opened(ObjectInfo::new(request.key.clone(), size, "\"one\"".to_owned()), now);
        let envelope = Envelope { transfer: Some(transfer), context: None };
        Self { sender, envelope, relay, consumer, inbox, timer_at: None, read: request.start, size }
    }

    /// Returns the next message, if there is one. It is always this transfer's turn.
    pub(crate) fn next_message(&mut self, now: Duration) -> Option<Body> {
        while self.sender.wants_data() {
            let into = self.read % CHUNK_BYTES as u64;
            let len = (CHUNK_BYTES as u64 - into).min(self.size - self.read);
            self.sender.handle_data(Bytes::from_static(&BYTES[..usize::try_from(len).expect("a piece")]));
            self.read += len;
        }

        self.sender.poll_transmit(now).or_else(|| {
            self.sender.handle_turn();
            self.sender.poll_transmit(now)
        })
    }
}
