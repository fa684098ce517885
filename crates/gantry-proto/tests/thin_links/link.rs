//! A link that all consumers of a site share: one queue, carried at a rate, and a delay each way.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use gantry_proto::Headers;

/// The approximate size of what NATS adds to a message on a leaf link, in bytes: subjects, sizes and line ends.
pub(crate) const ENVELOPE_BYTES: u64 = 160;

/// A message on its way to the site.
pub(crate) enum Packet {
    /// A relay's message for a consumer's inbox.
    Message { consumer: usize, inbox: u64, headers: Headers, payload: Bytes },
    /// The other traffic's message that was sent at `sent`.
    Probe { sent: Duration },
}

impl Packet {
    /// Returns the number of bytes that the link carries for it.
    fn size(&self) -> u64 {
        match self {
            Self::Probe { .. } => ENVELOPE_BYTES,
            Self::Message { headers, payload, .. } => message_bytes(headers, payload),
        }
    }
}

/// Returns the number of bytes that a link carries for a message.
pub(crate) fn message_bytes(headers: &Headers, payload: &Bytes) -> u64 {
    let headers: usize = headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    ENVELOPE_BYTES + (headers + payload.len()) as u64
}

/// The link's queue, first in, first out.
pub(crate) struct Link {
    /// In bytes per second.
    rate: u64,
    /// How long each byte travels, in either direction.
    pub(crate) delay: Duration,
    queue: VecDeque<Packet>,
    pub(crate) crossed_bytes: u64,
}

impl Link {
    pub(crate) const fn new(rate: u64, delay: Duration) -> Self {
        Self { rate, delay, queue: VecDeque::new(), crossed_bytes: 0 }
    }

    /// Changes the rate, in bytes per second. The message that is being carried is not affected.
    pub(crate) const fn set_rate(&mut self, rate: u64) {
        self.rate = rate;
    }

    /// Queues a message. Returns how long it takes to carry it if the link was idle.
    pub(crate) fn push(&mut self, packet: Packet) -> Option<Duration> {
        self.queue.push_back(packet);
        if self.queue.len() == 1 { self.carrying() } else { None }
    }

    /// Returns the message that has been carried, and how long the next one takes.
    pub(crate) fn pop(&mut self) -> (Option<Packet>, Option<Duration>) {
        let carried = self.queue.pop_front();
        self.crossed_bytes += carried.as_ref().map_or(0, Packet::size);
        (carried, self.carrying())
    }

    fn carrying(&self) -> Option<Duration> {
        let size = self.queue.front()?.size();
        Some(Duration::from_nanos(size * 1_000_000_000 / self.rate))
    }
}
