//! The path from one transfer to its consumer.

use std::sync::Arc;

use super::context::Context;
use crate::outbox::Turn;
use crate::requester::Requester;
use gantry_bus::Message;
use gantry_proto::chunk::Chunk;
use gantry_proto::message::Envelope;
use gantry_proto::sender::Settings;
use gantry_proto::{Body, HEADERS_MAX_BYTES, TransferId, WireError};

/// The path from one transfer to its consumer.
pub(super) struct Delivery {
    pub(super) context: Arc<Context>,
    pub(super) requester: Requester,
    envelope: Envelope,
    /// The subject where nats-server reports that nobody receives a message.
    gone: String,
}

impl Delivery {
    pub(super) fn new(
        context: Arc<Context>,
        requester: Requester,
        transfer: TransferId,
        request_context: Option<String>,
    ) -> Self {
        let gone = context.subjects.gone(transfer);
        let envelope = Envelope { transfer: Some(transfer), context: request_context };
        Self { context, requester, envelope, gone }
    }

    /// Returns the limits of the relay and its connection.
    pub(super) fn settings(&self) -> Settings {
        let options = &self.context.options;
        let payload_max = self.context.outbox.max_payload().saturating_sub(HEADERS_MAX_BYTES);

        Settings {
            chunk_max: options.chunk_max_bytes.min(payload_max),
            gather_min: options.gather_min_bytes,
            window_max: options.window_max_bytes,
            beat_interval: options.beat_interval,
            idle_timeout: options.idle_timeout,
        }
    }

    /// Returns whether the chunk exceeds nats-server's message limit. The known limit may have decreased since the
    /// transfer started.
    pub(super) fn is_too_large(&self, chunk: &Chunk) -> bool {
        chunk.payload.len().saturating_add(HEADERS_MAX_BYTES) > self.context.outbox.max_payload()
    }

    /// Publishes a message with our own reply subject, where nats-server reports if nobody receives it. Returns `false` if
    /// the relay must stop or the bus is closed.
    pub(super) async fn publish(&self, body: Body) -> bool {
        tracing::trace!(kind = body.type_name(), "publishing");
        let (headers, payload) = self.envelope.encode(&body);
        let reply = Some(self.gone.clone());
        self.requester.send(Message { reply, headers, payload, ..Message::default() }).await
    }

    /// Refuses the request.
    pub(super) async fn refuse(&self, error: &WireError) {
        self.requester.refuse(self.envelope.context.clone(), error).await;
    }

    /// Waits for the turn of a chunk, behind the transfers that already wait.
    pub(super) async fn turn(&self) -> Turn<'_> {
        let _queued = self.context.metrics.queue();
        self.context.outbox.turn().await
    }
}
