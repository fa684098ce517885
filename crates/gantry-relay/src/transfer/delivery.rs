//! The way from one transfer to its consumer.

use std::sync::Arc;

use tokio::time::sleep;

use super::context::Context;
use crate::requester::Requester;
use gantry_bus::Message;
use gantry_proto::chunk::Chunk;
use gantry_proto::message::{Envelope, Wait};
use gantry_proto::sender::Settings;
use gantry_proto::{Body, GetRequest, HEADERS_MAX_BYTES, TransferId, limits};

/// The way from one transfer to its consumer.
pub(super) struct Delivery {
    pub(super) context: Arc<Context>,
    pub(super) requester: Requester,
    envelope: Envelope,
    /// Where the consumer sends credit and cancel.
    pub(super) control: String,
    /// Where nats-server reports that nobody receives a message.
    gone: String,
}

impl Delivery {
    pub(super) fn new(
        context: Arc<Context>,
        requester: Requester,
        transfer: TransferId,
        request_context: Option<String>,
    ) -> Self {
        let control = context.subjects.control(transfer);
        let gone = context.subjects.gone(transfer);
        let envelope = Envelope { transfer: Some(transfer), context: request_context };
        Self { context, requester, envelope, control, gone }
    }

    /// Returns the settings of a transfer, within the limits of the relay, its connection and the request.
    pub(super) fn settings(&self, request: &GetRequest) -> Settings {
        let options = &self.context.options;
        let payload_max = self.context.outbox.max_payload().saturating_sub(HEADERS_MAX_BYTES);
        let own_max = options.chunk_max_bytes.min(payload_max);
        let chunk_max = limits::chunk_max(request.chunk_max, u64::try_from(own_max).unwrap_or(u64::MAX));

        let settings = Settings {
            chunk_max: usize::try_from(chunk_max).unwrap_or(own_max),
            gather_min: options.gather_min_bytes,
            window_max: options.window_max_bytes,
            beat_interval: options.beat_interval,
            idle_timeout: options.idle_timeout,
            keeps_alive: request.keeps_alive,
        };
        settings.within_bounds()
    }

    /// Publishes a message with our own reply subject, where nats-server reports if nobody receives it. Returns `false` if
    /// the relay must stop or the bus is closed.
    pub(super) async fn publish(&self, body: Body) -> bool {
        tracing::trace!(kind = body.type_name(), "publishing");
        let (headers, payload) = self.envelope.encode(&body);
        let reply = Some(self.gone.clone());
        self.requester.send(Message { reply, headers, payload, ..Message::default() }).await
    }

    /// Publishes a chunk when it is this transfer's turn, and sends beats until then.
    pub(super) async fn publish_chunk(&self, chunk: Chunk) -> bool {
        let Context { options, outbox, lifetime, metrics, .. } = &*self.context;
        let queued = metrics.queue();
        let mut turn = std::pin::pin!(outbox.turn());

        let permit = loop {
            tokio::select! {
                biased;
                () = lifetime.shutdown.force.cancelled() => return false,
                permit = &mut turn => break permit,
                () = sleep(limits::beat(options.beat_interval)) => {
                    let beat = Body::Beat { seq: chunk.seq, offset: chunk.offset, wait: Wait::Store };
                    if !self.publish(beat).await {
                        return false;
                    }
                }
            }
        };
        drop(queued);

        let published = self.publish(Body::Chunk(chunk)).await;
        drop(permit);
        published
    }
}
