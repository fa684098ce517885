//! One scripted transfer: carries out the steps of a script.

use std::sync::Arc;

use gantry_proto::limits::WINDOW_DEFAULT_BYTES;
use gantry_proto::{Code, Control, Headers, TransferId, WireError, chunk, message};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep, timeout_at};
use uuid::Uuid;

use super::case::{CHUNK, Draft, FIRST_CHUNK, Step};
use super::scene::{BEAT, ETAG, Heard, IDLE, Requested, Scene, VERSION_ID, WINDOW_MAX};

/// The transfer under which messages of another transfer are sent.
const ANOTHER: TransferId = TransferId(Uuid::from_u128(0x0123_4567_89ab_4def_8123_4567_89ab_cdef));

/// A transfer that answers one request.
pub(super) struct Transfer {
    scene: Arc<Scene>,
    requested: Requested,
    pub(super) id: TransferId,
    /// The transfer in the headers.
    name: String,
    start: u64,
    end: u64,
    seq: u64,
    offset: u64,
    /// Whether everything that was sent so far was correct.
    is_correct: bool,
    /// The highest credit so far.
    credit: u64,
    /// The number of control messages that were handled.
    handled_controls: usize,
    /// The number of control messages, from the first one, that count as lost.
    lost_controls: usize,
    previous: Option<Draft>,
}

impl Transfer {
    pub(super) fn new(scene: Arc<Scene>, requested: Requested) -> Self {
        let size = scene.bytes.len() as u64;
        let request = &requested.request;
        let span = request.span().resolve(size).unwrap_or(size..size);
        let window = request.window.unwrap_or(WINDOW_DEFAULT_BYTES);
        let credit = request.credit.unwrap_or_else(|| span.start.saturating_add(window));

        Self {
            id: requested.transfer,
            name: requested.transfer.to_string(),
            start: span.start,
            end: span.end,
            seq: 0,
            offset: span.start,
            credit: credit.min(span.start.saturating_add(WINDOW_MAX)).min(span.end),
            is_correct: true,
            handled_controls: 0,
            lost_controls: 0,
            previous: None,
            requested,
            scene,
        }
    }

    /// Performs the steps. Returns at the end, or never if the consumer gives no credit.
    pub(super) async fn play(&mut self, steps: &[Step]) {
        for step in steps {
            self.step(*step).await;
        }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Accept(change) => self.accept(change, self.id.to_string()).await,
            Step::AcceptAsAnother => self.accept(|_| {}, ANOTHER.to_string()).await,
            Step::AcceptOdd => self.accept_odd().await,
            Step::Chunks(count) => self.chunks(count).await,
            Step::GrantedChunks(count) => self.granted_chunks(count).await,
            Step::Rest => self.chunks(usize::MAX).await,
            Step::Chunk(change) => self.changed_chunk(change).await,
            Step::ForeignChunk => self.foreign_chunk().await,
            Step::NamelessChunk => self.nameless_chunk().await,
            Step::LongChunk => self.long_chunk().await,
            Step::EmptyChunk => self.empty_chunk().await,
            Step::Lose => drop(self.next_chunk(self.end)),
            Step::Swap => self.swap().await,
            Step::Repeat => self.repeat().await,
            Step::Flood => self.flood().await,
            Step::Beat(change) => self.beat("store", change).await,
            Step::Beats(count) => self.beats(count, |_| {}).await,
            Step::StaleBeats(count) => self.beats(count, |beat| beat.set(message::SEQ, 0)).await,
            Step::Nag(count) => self.nag(count).await,
            Step::End(change) => self.finish(change).await,
            Step::Error(code, is_retryable, after) => self.error(code, is_retryable, after, true).await,
            Step::Refusal(code, is_retryable, after) => self.error(code, is_retryable, after, false).await,
            Step::Raw(change) => self.raw(change).await,
            Step::LoseControls(count) => self.lost_controls = self.controls(&self.scene.heard.borrow()) + count,
            Step::AwaitControls(count) => self.await_controls(count).await,
            Step::Pause(ms) => sleep(Duration::from_millis(ms)).await,
            // The driver answers probes from now on.
            Step::LoseEnd => {}
            Step::Leave => {
                self.scene.leaves.notify_one();
                sleep(BEAT).await;
            }
            Step::Die => self.scene.dies.notify_one(),
            Step::Revive => self.scene.revives.notify_one(),
        }
        self.is_correct &= !step.is_fault();
    }

    async fn accept(&mut self, change: impl Fn(&mut Value), header: String) {
        let request = &self.requested.request;
        let mut body = json!({
            "transfer": self.id,
            "instance": self.scene.instance,
            "control": self.scene.control_subject(self.id),
            "key": request.key,
            "size": self.scene.bytes.len(),
            "etag": ETAG,
            "version_id": VERSION_ID,
            "metadata": {},
            "start": self.start,
            "end": self.end,
            "credit": self.credit,
            "window_max": WINDOW_MAX,
            "chunk_max": self.chunk_max(),
            "beat_ms": as_ms(BEAT),
            "idle_ms": as_ms(IDLE),
        });
        if let Some(checksum) = self.scene.checksum() {
            body["checksum"] = checksum;
        }
        let correct = body.clone();
        change(&mut body);
        // The text stands for the subject that the consumer must not publish to.
        if body["control"] == "trap" {
            body["control"] = self.scene.trap().into();
        }

        let has_own_header = header == self.id.to_string();
        if body == correct && has_own_header {
            self.scene.heard.send_modify(|heard| heard.is_pinned = true);
        }
        let is_same = |name: &&str| body[*name] == correct[*name];
        self.is_correct = has_own_header && ["instance", "control", "key", "start"].iter().all(is_same);
        let mut draft = Draft { payload: body.to_string().into_bytes(), ..Draft::default() };
        draft.set(message::TYPE, "accepted");
        self.send_as(draft, header).await;
    }

    async fn accept_odd(&mut self) {
        let odd = format!("a.{}", self.id);
        self.name.clone_from(&odd);
        let control = self.scene.control_subject(self.id).replace(&self.id.to_string(), &odd);
        let transfer = odd.clone();
        let change = move |body: &mut Value| {
            body["transfer"] = transfer.as_str().into();
            body["control"] = control.as_str().into();
        };
        self.accept(change, odd).await;
    }

    /// Sends up to `count` chunks, and waits for credit before each.
    async fn chunks(&mut self, count: usize) {
        for _ in 0..count {
            if self.offset >= self.end {
                return;
            }
            let credit = self.await_credit().await;
            let draft = self.next_chunk(credit);
            self.send(draft).await;

            self.note_delivered();
        }
    }

    /// Sends up to `count` chunks without waiting for credit.
    async fn granted_chunks(&mut self, count: usize) {
        for _ in 0..count {
            if self.credit > self.offset {
                self.chunks(1).await;
            }
        }
    }

    /// Records how many bytes a consumer may have received, unless there was a fault before.
    fn note_delivered(&self) {
        if self.is_correct {
            let offset = self.offset;
            self.scene.heard.send_modify(|heard| heard.delivered = heard.delivered.max(offset));
        }
    }

    async fn changed_chunk(&mut self, change: fn(&mut Draft)) {
        let credit = self.await_credit().await;
        let mut draft = self.next_chunk(credit);
        change(&mut draft);
        self.send(draft).await;
    }

    /// Returns what would be the next chunk if it had other bytes.
    fn false_chunk(&mut self) -> Draft {
        let (seq, offset) = (self.seq, self.offset);
        let mut draft = self.next_chunk(self.end);
        (self.seq, self.offset) = (seq, offset);

        draft.payload.iter_mut().for_each(|byte| *byte = !*byte);
        draft.set(message::CRC, format!("{:016x}", chunk::crc(&draft.payload)));
        draft
    }

    async fn foreign_chunk(&mut self) {
        let draft = self.false_chunk();
        self.send_as(draft, ANOTHER.to_string()).await;
    }

    async fn nameless_chunk(&mut self) {
        let draft = self.false_chunk();
        self.publish(draft).await;
    }

    async fn long_chunk(&mut self) {
        let draft = self.chunk_until(self.end);
        self.send(draft).await;
    }

    async fn empty_chunk(&mut self) {
        let draft = self.chunk_until(self.offset);
        self.send(draft).await;
    }

    async fn swap(&mut self) {
        self.await_credit().await;
        let first = self.next_chunk(self.end);
        let second = self.next_chunk(self.end);
        self.send(second).await;
        self.send(first).await;
    }

    async fn repeat(&mut self) {
        if let Some(previous) = self.previous.clone() {
            self.send(previous).await;
        }
    }

    async fn flood(&mut self) {
        while self.offset < self.end {
            let draft = self.next_chunk(self.end);
            self.send(draft).await;
            self.note_delivered();
        }
    }

    async fn beat(&mut self, wait: &str, change: fn(&mut Draft)) {
        let mut draft = Draft::default();
        draft.set(message::TYPE, "beat");
        draft.set(message::SEQ, self.seq);
        draft.set(message::OFFSET, self.offset);
        draft.set(message::WAIT, wait);
        change(&mut draft);
        self.send(draft).await;
    }

    async fn beats(&mut self, count: usize, change: fn(&mut Draft)) {
        for _ in 0..count {
            self.beat("store", change).await;
            sleep(BEAT).await;
        }
    }

    async fn nag(&mut self, count: usize) {
        for _ in 0..count {
            self.beat("credit", |_| {}).await;
        }
    }

    async fn finish(&mut self, change: fn(&mut Value)) {
        let mut body = json!({"chunks": self.seq, "bytes": self.offset - self.start});
        change(&mut body);
        let mut draft = Draft { payload: body.to_string().into_bytes(), ..Draft::default() };
        draft.set(message::TYPE, "end");
        self.send(draft).await;
    }

    async fn error(&mut self, code: &str, is_retryable: bool, after: Option<u64>, has_transfer: bool) {
        let mut body = json!({"code": code, "message": "as scripted", "retryable": is_retryable});
        if let Some(after) = after {
            body["retry_after_ms"] = after.into();
        }
        let mut draft = Draft { payload: body.to_string().into_bytes(), ..Draft::default() };
        draft.set(message::TYPE, "error");
        draft.set(message::SERVICE_ERROR, "as scripted");
        let number = serde_json::from_value::<Code>(code.into()).unwrap_or(Code::Internal).number();
        draft.set(message::SERVICE_ERROR_CODE, number);

        if has_transfer {
            self.send(draft).await;
        } else {
            self.publish(draft).await;
        }
    }

    async fn raw(&mut self, change: fn(&mut Draft)) {
        let mut draft = Draft::default();
        change(&mut draft);
        self.send(draft).await;
    }

    /// Answers probes for this transfer, after it has ended, until the future is dropped.
    pub(super) async fn answer_probes(&self) {
        let mut heard = self.scene.heard.subscribe();
        let mut answered = self.controls(&heard.borrow_and_update());
        loop {
            let probes = heard.wait_for(|heard| self.controls(heard) > answered).await.map(|heard| {
                let new = heard.controls.iter().filter(|control| control.transfer == Some(self.id)).skip(answered);
                answered = self.controls(&heard);
                new.filter(|control| control.control.probe)
                    .filter_map(|control| control.reply.clone())
                    .collect::<Vec<_>>()
            });
            for inbox in probes.unwrap_or_default() {
                let error = WireError::new(Code::Ended, "the transfer has ended");
                let envelope = message::Envelope { transfer: Some(self.id), context: None };
                let (headers, payload) = envelope.encode(&gantry_proto::Body::Error(error));
                self.scene.send(self.id, &inbox, headers, payload.to_vec()).await;
            }
        }
    }

    /// Waits until there is credit for a byte. Returns the credit. Sends a beat at once, and then one per interval.
    async fn await_credit(&mut self) -> u64 {
        let mut heard = self.scene.heard.subscribe();
        let mut beat_at = Instant::now();
        loop {
            self.handle_controls(&heard.borrow_and_update());
            if self.credit > self.offset {
                return self.credit;
            }

            if Instant::now() >= beat_at {
                self.beat("credit", |_| {}).await;
                beat_at = Instant::now() + BEAT;
            }
            // If this times out, the next beat is due.
            drop(timeout_at(beat_at, heard.changed()).await.map(|changed| changed.is_ok()));
        }
    }

    async fn await_controls(&mut self, count: usize) {
        let mut heard = self.scene.heard.subscribe();
        loop {
            let at = Instant::now() + BEAT;
            let enough = heard.wait_for(|heard| self.controls(heard) >= count);
            if timeout_at(at, enough).await.is_ok() {
                return;
            }
            self.beat("credit", |_| {}).await;
        }
    }

    /// Raises the credit according to the consumer's new control messages. Credit past the window is discarded, so that
    /// the consumer must give it again.
    fn handle_controls(&mut self, heard: &Heard) {
        let of_this = heard.controls.iter().filter(|control| control.transfer == Some(self.id));
        let skipped = self.handled_controls.max(self.lost_controls);
        let new: Vec<Control> = of_this.skip(skipped).map(|control| control.control).collect();
        self.handled_controls = skipped + new.len();

        for control in new {
            let credit = match self.requested.request.window {
                Some(window) => control.written.min(self.offset).saturating_add(window.min(WINDOW_MAX)),
                None => control.credit,
            };
            let credit = credit.min(self.offset.saturating_add(WINDOW_MAX)).min(self.end);
            self.credit = self.credit.max(credit);
        }
    }

    fn controls(&self, heard: &Heard) -> usize {
        heard.controls.iter().filter(|control| control.transfer == Some(self.id)).count()
    }

    fn chunk_max(&self) -> u64 {
        (CHUNK as u64).min(self.requested.request.chunk_max.unwrap_or(u64::MAX).max(1024))
    }

    /// Returns the next chunk, which ends at `credit` or earlier.
    fn next_chunk(&mut self, credit: u64) -> Draft {
        let most = if self.seq == 0 { FIRST_CHUNK as u64 } else { self.chunk_max() };
        self.chunk_until((self.offset + most.min(self.chunk_max())).min(credit).min(self.end))
    }

    /// Returns the next chunk, which ends at `end`.
    fn chunk_until(&mut self, end: u64) -> Draft {
        let payload = self.scene.bytes.slice(index(self.offset)..index(end));

        let mut draft = Draft { payload: payload.to_vec(), ..Draft::default() };
        draft.set(message::TYPE, "chunk");
        draft.set(message::SEQ, self.seq);
        draft.set(message::OFFSET, self.offset);
        draft.set(message::CRC, format!("{:016x}", chunk::crc(&payload)));
        self.seq += 1;
        self.offset = end;
        draft
    }

    async fn send(&mut self, draft: Draft) {
        self.send_as(draft, self.name.clone()).await;
    }

    async fn send_as(&mut self, mut draft: Draft, transfer: String) {
        self.previous = Some(draft.clone());
        draft.set(message::TRANSFER, transfer);
        self.publish(draft).await;
    }

    async fn publish(&self, mut draft: Draft) {
        if let Some(context) = &self.requested.request.context {
            draft.set(message::CONTEXT, context);
        }
        let mut headers = Headers::default();
        for (name, value) in draft.headers {
            headers.push(name, value);
        }
        self.scene.send(self.id, &self.requested.inbox, headers, draft.payload).await;
    }
}

impl Step {
    /// Returns whether later chunks no longer continue the bytes that the consumer has.
    const fn is_fault(self) -> bool {
        match self {
            Self::AcceptAsAnother
            | Self::AcceptOdd
            | Self::Chunk(_)
            | Self::LongChunk
            | Self::EmptyChunk
            | Self::Lose
            | Self::Swap
            | Self::Flood
            | Self::Error(..)
            | Self::Raw(_) => true,
            Self::Accept(_)
            | Self::Chunks(_)
            | Self::GrantedChunks(_)
            | Self::Rest
            | Self::ForeignChunk
            | Self::NamelessChunk
            | Self::Repeat
            | Self::Beat(_)
            | Self::Beats(_)
            | Self::StaleBeats(_)
            | Self::Nag(_)
            | Self::End(_)
            | Self::LoseEnd
            | Self::Refusal(..)
            | Self::LoseControls(_)
            | Self::AwaitControls(_)
            | Self::Pause(_)
            | Self::Leave
            | Self::Die
            | Self::Revive => false,
        }
    }
}

/// Returns an offset within the object in memory.
fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

fn as_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
