//! Relays at the hub: one `Sender` per transfer, and a store that is always ready.

use std::time::Duration;

use bytes::Bytes;
use gantry_proto::message::Envelope;
use gantry_proto::sender::{Identity, Sender, Settings};
use gantry_proto::subject::Prefix;
use gantry_proto::{Body, GetRequest, Key, ObjectInfo, TransferId};
use uuid::Uuid;

/// The largest chunk, and the size of a piece of the store.
const CHUNK_BYTES: usize = 508 << 10;

static BYTES: [u8; CHUNK_BYTES] = [0; CHUNK_BYTES];

/// Returns `len` of the object's bytes, at most [`CHUNK_BYTES`]. All of them are zero.
pub(crate) fn zeros(len: usize) -> Bytes {
    Bytes::from_static(&BYTES[..len])
}

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
    key: Key,
    /// The offset of the store's next byte.
    pub(crate) read: u64,
}

impl Transfer {
    /// Handles a request. The store is still opening the object.
    pub(crate) fn new(
        number: u128,
        relay: usize,
        consumer: usize,
        inbox: u64,
        request: &GetRequest,
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
        let sender = Sender::new(settings, request, identity, now);
        let envelope = Envelope { transfer: Some(transfer), context: None };
        Self { sender, envelope, relay, consumer, inbox, timer_at: None, key: request.key.clone(), read: request.start }
    }

    /// Records that the store has opened the object, which has `size` bytes.
    pub(crate) fn handle_opened(&mut self, size: u64, now: Duration) {
        self.sender.handle_opened(ObjectInfo::new(self.key.clone(), size, "\"one\"".to_owned()), now);
    }

    /// Returns the next message, if there is one. It is always this transfer's turn. The store has the bytes up to
    /// `available`, exclusive.
    pub(crate) fn next_message(&mut self, available: u64, now: Duration) -> Option<Body> {
        while self.sender.wants_data() && self.read < available {
            let into = self.read % CHUNK_BYTES as u64;
            let len = (CHUNK_BYTES as u64 - into).min(available - self.read);
            self.sender.handle_data(zeros(usize::try_from(len).expect("a piece")));
            self.read += len;
        }

        self.sender.poll_transmit(now).or_else(|| {
            self.sender.handle_turn();
            self.sender.poll_transmit(now)
        })
    }
}
