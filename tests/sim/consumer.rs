//! A model of the consumer: a user who starts downloads, the driver of one `Receiver`, a writer, and a disk.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use gantry_client::verify::{Mismatch, Proof, Verifier};
use gantry_proto::chunk::Chunk;
use gantry_proto::message::json;
use gantry_proto::receiver::{Cause, Failure, Output, Receiver};
use gantry_proto::{Checksum, Code, Get, Pin, Span};

use crate::bus::{Bus, GET, Message, Packet};
use crate::context::Context;
use crate::event::{Event, Node};
use crate::store::{etag, version_of};

/// How long the user waits before a retry.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The consumer's process, and the state that outlives it.
#[derive(Default)]
pub(crate) struct Consumer {
    /// The download in progress.
    run: Option<Run>,
    /// Counts the downloads, so that events of an earlier one are ignored.
    pub(crate) generation: u64,
    inboxes: u64,
    disk: Vec<u8>,
    /// The version of the bytes on the disk.
    disk_version: Option<usize>,
    writer_is_frozen: bool,
    share: Option<u64>,
    /// When the whole range had been written to the disk.
    pub(crate) done_at: Option<Duration>,
}

struct Run {
    receiver: Receiver,
    started_at: Duration,
    /// When bytes last arrived.
    progress_at: Duration,
    inbox: String,
    queue: VecDeque<Bytes>,
    writing: Option<Bytes>,
    /// Whether the disk finished a chunk while the process was frozen.
    write_done: bool,
    /// The next offset that the receiver should return.
    next: u64,
    /// The highest credit that the consumer has given to the current transfer.
    granted: u64,
    /// The relay that sent the latest `accepted`.
    instance: Option<String>,
    timer_at: Option<Duration>,
}

impl Consumer {
    /// Starts a download that resumes from the bytes on the disk.
    pub(crate) fn start(&mut self, context: &mut Context, bus: &mut Bus) {
        if self.run.is_some() || self.done_at.is_some() {
            return;
        }
        let base = context.plan.span.start;
        let start = base + self.disk.len() as u64;
        let if_match = (start > base).then(|| self.disk_version.map(etag)).flatten();
        context.tally.runs += 1;
        context.tally.resumes += u64::from(start > base);
        context.log(|| format!("consumer starts at {start}, pinned to {if_match:?}"));

        let mut get = Get::at("store/object")
            .expect("an address")
            .range(Span { start, end: context.plan.span.end })
            .pin(Pin { if_match, version_id: None });
        get.context = context.rng.bool().then(|| "correlation".to_owned());
        self.generation += 1;
        let mut receiver = Receiver::new(context.plan.receiver.clone(), get, context.now);

        if let Some(share) = self.share {
            receiver.handle_window_limit(share);
        }
        if !bus.is_connected(Node::Consumer) {
            receiver.handle_disconnected();
        }
        self.run = Some(Run {
            receiver,
            started_at: context.now,
            progress_at: context.now,
            inbox: String::new(),
            queue: VecDeque::new(),
            writing: None,
            write_done: false,
            next: start,
            granted: 0,
            instance: None,
            timer_at: None,
        });
        self.pump(context, bus);
    }

    /// Returns whether a download is in progress.
    pub(crate) const fn is_running(&self) -> bool {
        self.run.is_some()
    }

    /// Kills the process. Bytes that were not written are lost, and sometimes those that were not synced.
    pub(crate) fn kill(&mut self, context: &mut Context, bus: &mut Bus) {
        self.run = None;
        self.generation += 1;
        bus.set_inbox(None);
        if context.rng.u8(..4) == 0 {
            self.disk.truncate(context.rng.usize(..=self.disk.len()));
        }
        let kept = self.disk.len();
        context.log(|| format!("consumer killed, {kept} bytes are on the disk"));
    }

    /// Reports the number of written bytes to the receiver, as the driver does at each step.
    fn note_written(&mut self, context: &mut Context) {
        let written = context.plan.span.start + self.disk.len() as u64;
        if let Some(run) = &mut self.run {
            run.receiver.handle_written(written, context.now);
            let due = run.receiver.awaited_written();
            let is_over = run.receiver.outcome().is_some();
            context.model.check(is_over || due > written, || format!("{written} is written, and {due} still due"));
        }
    }

    pub(crate) fn handle_connection(&mut self, context: &mut Context, bus: &mut Bus, connected: bool) {
        self.note_written(context);
        let Some(run) = &mut self.run else { return };
        if connected {
            bus.set_inbox(Some(run.inbox.clone()));
            run.receiver.handle_connected(context.now);
        } else {
            run.receiver.handle_disconnected();
        }
        self.pump(context, bus);
    }

    pub(crate) fn handle_message(&mut self, context: &mut Context, bus: &mut Bus, message: Message) {
        self.note_written(context);
        let Some(run) = self.run.as_mut().filter(|run| run.inbox == message.subject) else { return };
        let before = run.receiver.next_offset();
        if message.nobody {
            run.receiver.handle_no_responders(context.now);
        } else {
            run.receiver.handle_message(&message.headers, message.payload, context.now);
        }
        let after = run.receiver.next_offset();
        if after > before {
            run.progress_at = context.now;
            let granted = run.granted;
            context.model.check(after <= granted, || format!("received bytes up to {after}, past credit {granted}"));
        }
        self.pump(context, bus);
    }

    pub(crate) fn handle_timer(&mut self, context: &mut Context, bus: &mut Bus) {
        self.note_written(context);
        let Some(run) = &mut self.run else { return };
        run.timer_at = None;
        run.receiver.handle_timeout(context.now);
        self.pump(context, bus);
    }

    pub(crate) fn handle_window_limit(&mut self, context: &mut Context, bus: &mut Bus, share: u64) {
        self.share = Some(share);
        if let Some(run) = &mut self.run {
            run.receiver.handle_window_limit(share);
            self.pump(context, bus);
        }
    }

    pub(crate) fn handle_writer(&mut self, context: &mut Context, bus: &mut Bus, is_frozen: bool) {
        self.writer_is_frozen = is_frozen;
        if !is_frozen && self.run.as_ref().is_some_and(|run| run.write_done) {
            self.handle_write_done(context, bus);
        }
    }

    /// Records that the disk has finished the current chunk.
    pub(crate) fn handle_write_done(&mut self, context: &mut Context, bus: &mut Bus) {
        let Some(run) = &mut self.run else { return };
        if self.writer_is_frozen {
            run.write_done = true;
            return;
        }
        run.write_done = false;
        let Some(chunk) = run.writing.take() else { return };
        self.disk.extend_from_slice(&chunk);
        let written = context.plan.span.start + self.disk.len() as u64;
        // Fewer bytes do not wake the driver; it handles them at the next event.
        if written >= run.receiver.awaited_written() {
            run.receiver.handle_written(written, context.now);
        }
        self.pump(context, bus);
    }

    /// Carries out all outputs of the receiver.
    fn pump(&mut self, context: &mut Context, bus: &mut Bus) {
        self.act(context, bus);
        self.deliver(context);
        let Some(run) = &mut self.run else { return };

        match run.receiver.outcome().map(|outcome| outcome.map_err(Clone::clone)) {
            Some(Ok(())) => self.finish(context, bus),
            Some(Err(failure)) => self.fail(context, bus, &failure),
            None => {
                let generation = self.generation;
                if let Some(at) = run.receiver.poll_timeout()
                    && run.timer_at.is_none_or(|set| at < set)
                {
                    run.timer_at = Some(at);
                    context.schedule(at, Event::ConsumerTimer { generation });
                }
            }
        }
    }

    fn act(&mut self, context: &mut Context, bus: &mut Bus) {
        let Some(run) = &mut self.run else { return };
        let window_max = context.plan.receiver.window_max;
        let written = context.plan.span.start + self.disk.len() as u64;

        while let Some(output) = run.receiver.poll_output() {
            match output {
                Output::Request(request) => {
                    self.inboxes += 1;
                    run.inbox = format!("_INBOX.{}", self.inboxes);
                    let near = request.near.as_ref().map(|near| near.credit);
                    run.granted = near.max(request.credit).unwrap_or(u64::MAX);
                    context.model.consumer_grants(run.granted, written, window_max);
                    let arrived = run.receiver.next_offset();
                    context
                        .model
                        .check(request.start == arrived, || format!("asks from {}, not {arrived}", request.start));
                    context.log(|| format!("consumer asks from {} with credit {:?}", request.start, request.credit));
                    bus.publish(context, Node::Consumer, Packet::Subscribe(run.inbox.clone()));
                    run.publish(context, bus, GET.to_owned(), json(&request));
                }
                Output::Control { subject, control } => {
                    context.model.consumer_says(&subject, control, written, window_max);
                    context.log(|| format!("consumer says {control:?}"));
                    if !control.cancel {
                        run.granted = run.granted.max(control.credit);
                    }
                    run.publish(context, bus, subject, json(&control));
                }
                Output::Accepted(accepted) => {
                    context.tally.transfers += 1;
                    let other = run.instance.as_ref().is_some_and(|instance| *instance != accepted.instance);
                    context.tally.failovers += u64::from(other);
                    run.instance = Some(accepted.instance.clone());
                    context.log(|| format!("consumer is accepted: {}..{}", accepted.start, accepted.end));
                }
                Output::Recovering(cause) => {
                    *context.tally.recoveries.entry(cause.name()).or_default() += 1;
                    context.log(|| format!("consumer recovers from {cause:?}"));
                    context
                        .model
                        .check(!matches!(cause, Cause::Violation(_)) || context.plan.rates.corrupt > 0.0, || {
                            format!("an honest relay is blamed: {cause}")
                        });
                }
            }
        }
    }

    /// Moves chunks to the writer's queue while it has room.
    fn deliver(&mut self, context: &mut Context) {
        let Some(run) = &mut self.run else { return };
        let version = run.receiver.object().and_then(|object| version_of(&object.etag));

        loop {
            if run.writing.is_none()
                && let Some(chunk) = run.queue.pop_front()
            {
                let event = Event::WriteDone { generation: self.generation };
                context.schedule_in(context.plan.write_time(chunk.len()), event);
                run.writing = Some(chunk);
            }
            if run.queue.len() >= context.plan.queue_chunks {
                return;
            }
            let Some(Chunk { payload: chunk, .. }) = run.receiver.poll_deliver() else { return };
            let known = version.expect("bytes come after a relay accepted");
            let right = context.model.is_as_stored(known, run.next, &chunk);
            let at = run.next;
            context.model.check(right, || format!("handed out wrong bytes at {at}"));
            let mixed = !self.disk.is_empty() && self.disk_version != version;
            context.model.check(!mixed, || format!("bytes of version {known} follow those of {:?}", self.disk_version));
            self.disk_version = version;
            run.next += chunk.len() as u64;
            run.queue.push_back(chunk);
        }
    }

    fn finish(&mut self, context: &mut Context, bus: &mut Bus) {
        let Some(run) = self.run.take() else { return };
        bus.set_inbox(None);
        self.generation += 1;

        let Some(object) = run.receiver.object() else {
            return context.model.check(false, || "done without an object".to_owned());
        };
        let version = version_of(&object.etag).expect("the store's own etag");
        let range = context.plan.span.resolve(context.plan.sizes[version]).expect("the span starts within every size");
        let len = usize::try_from(range.end - range.start).expect("objects are small");
        let covered = object.checksum.as_ref().filter(|_| range == (0..object.size));

        if let Err(mismatch) = prove(covered, &self.disk, len) {
            return self.throw_away(context, version, &mismatch);
        }
        self.done_at = Some(context.now);
        let right = context.model.bytes_of(version, range.start, len) == self.disk;
        let on_disk = self.disk.len();
        context.model.check(right, || format!("done with {on_disk} bytes that are not the {len} of version {version}"));
        context.tally.bytes += range.end - range.start;
        context.log(|| format!("consumer is done: {len} bytes, {:?}", run.receiver.stats()));
    }

    /// Starts from the beginning because the bytes do not match the store's checksum.
    fn throw_away(&mut self, context: &mut Context, version: usize, mismatch: &Mismatch) {
        context.log(|| format!("consumer throws version {version} away: {mismatch}"));
        *context.tally.failures.entry("integrity").or_default() += 1;
        let lied = context.model.has_lied(version);
        context.model.check(lied, || format!("an honest store's bytes are thrown away: {mismatch}"));
        self.disk.clear();
        self.disk_version = None;
        context.schedule_in(RETRY_PAUSE, Event::ConsumerStart);
    }

    /// Checks whether a failure was justified, and schedules the user's retry.
    fn fail(&mut self, context: &mut Context, bus: &mut Bus, failure: &Failure) {
        let Some(run) = self.run.take() else { return };
        bus.set_inbox(None);
        self.generation += 1;
        context.log(|| format!("consumer fails: {failure:?}"));

        let settings = &context.plan.receiver;
        let replaced = context.model.current_version() > 0;
        let faulty = run.started_at < context.plan.heal_at;
        let waited = context.now + settings.backoff_max;
        let (name, legitimate) = match failure {
            Failure::Changed { .. } => ("changed", replaced),
            Failure::Refused(error) if error.code == Code::Changed => ("changed", replaced),
            Failure::GaveUp { cause: Cause::NoResponders, accepted: false, .. } => {
                ("no relay", faulty && waited >= run.started_at + settings.no_relay_patience)
            }
            Failure::GaveUp { cause: Cause::Refused(error), accepted: false, .. }
                if error.code == Code::StoreUnavailable || error.code == Code::Internal =>
            {
                // An error with a damaged body is recognised by its headers only, and counts as internal.
                let cause = if error.code == Code::Internal { "corrupt" } else { "open fails" };
                ("store unavailable", faulty && context.tally.faults.contains_key(cause))
            }
            Failure::GaveUp { .. } => ("patience", faulty && waited >= run.progress_at + settings.patience),
            Failure::Refused(_) | Failure::Cancelled => ("refused", false),
        };
        *context.tally.failures.entry(name).or_default() += 1;
        context.model.check(legitimate, || format!("failed without a cause: {failure:?}"));

        if name == "changed" {
            self.disk.clear();
            self.disk_version = None;
        }

        context.schedule_in(RETRY_PAUSE, Event::ConsumerStart);
    }
}

/// Verifies the bytes against the store's checksum.
fn prove(checksum: Option<&Checksum>, bytes: &[u8], len: usize) -> Result<Proof, Mismatch> {
    let mut verifier = Verifier::new(checksum, len as u64);
    verifier.update(bytes);
    verifier.finish()
}

impl Run {
    fn publish(&self, context: &mut Context, bus: &mut Bus, subject: String, payload: Bytes) {
        let message = Message { subject, reply: Some(self.inbox.clone()), payload, ..Message::default() };
        bus.publish(context, Node::Consumer, Packet::Message(message));
    }
}
