//! A model of a relay's process: admission, and the loop that drives one `Sender` per transfer.

use std::collections::BTreeMap;
use std::time::Duration;

use gantry_proto::message::Envelope;
use gantry_proto::sender::{Identity, Outcome, Sender, Settings};
use gantry_proto::subject::{Prefix, transfer_of_control};
use gantry_proto::{Accepted, Body, Code, Control, GetRequest, TransferId, WireError};
use uuid::Uuid;

use crate::bus::{Bus, Message, Packet};
use crate::context::Context;
use crate::event::{Event, Node, RelayEvent};
use crate::plan;
use crate::store::{self, Read};

/// The retry time that a busy relay sends.
const BUSY_RETRY_MS: u64 = 500;

/// A relay's process.
pub(crate) struct Relay {
    index: usize,
    /// Counts the process's starts, so that events of an earlier process are ignored.
    pub(crate) generation: u64,
    pub(crate) instance: String,
    pub(crate) is_up: bool,
    is_draining: bool,
    transfers: BTreeMap<TransferId, Task>,
}

struct Task {
    envelope: Envelope,
    /// The delivery subject.
    inbox: String,
    control: String,
    request: GetRequest,
    settings: Settings,
    sender: Sender,
    /// The object's body, once the object is open.
    body: Option<store::Body>,
    /// The store's next result, until it is delivered.
    reading: Option<Read>,
    /// The delay of that result, until its delivery is scheduled.
    latency: Option<Duration>,
    store_ended: bool,
    /// When the scheduled timer expires.
    timer_at: Option<Duration>,
}

impl Relay {
    pub(crate) const fn new(index: usize) -> Self {
        Self {
            index,
            generation: 0,
            instance: String::new(),
            is_up: false,
            is_draining: false,
            transfers: BTreeMap::new(),
        }
    }

    /// Starts a new process.
    pub(crate) fn start(&mut self, context: &mut Context, bus: &mut Bus) {
        self.generation += 1;
        self.instance = format!("relay{}x{}", self.index, self.generation);
        self.is_up = true;
        self.is_draining = false;
        bus.subscribe_relay(self.index, true, Some(self.instance.clone()));
        context.log(|| format!("{} is up", self.instance));
    }

    /// Kills the process at once.
    pub(crate) fn kill(&mut self, context: &mut Context, bus: &mut Bus) {
        self.is_up = false;
        self.transfers.clear();
        bus.subscribe_relay(self.index, false, None);
        context.log(|| format!("{} is down", self.instance));
    }

    /// Stops accepting requests. Running transfers continue for the grace period.
    pub(crate) fn drain(&mut self, context: &mut Context, bus: &mut Bus) {
        self.is_draining = true;
        bus.subscribe_relay(self.index, false, Some(self.instance.clone()));
        let event = Event::Relay { index: self.index, generation: self.generation, event: RelayEvent::GraceOver };
        context.schedule_in(context.plan.drain_grace, event);
    }

    /// Returns whether the process is down or draining.
    pub(crate) const fn needs_restart(&self) -> bool {
        self.is_draining || !self.is_up
    }

    /// Returns the number of active transfers.
    pub(crate) fn transfers(&self) -> usize {
        self.transfers.len()
    }

    pub(crate) fn handle(&mut self, context: &mut Context, bus: &mut Bus, event: RelayEvent) {
        match event {
            RelayEvent::Store(id) => self.handle_store(context, bus, id),
            RelayEvent::Timer(id) => self.handle_timer(context, bus, id),
            RelayEvent::GraceOver => self.handle_grace_over(context, bus),
        }
    }

    pub(crate) fn handle_message(&mut self, context: &mut Context, bus: &mut Bus, message: Message) {
        let Some(id) = transfer_of_control(&message.subject) else {
            return self.handle_get(context, bus, message);
        };
        let Some(task) = self.transfers.get_mut(&id) else { return };
        if message.nobody {
            task.sender.handle_consumer_gone();
        } else {
            // A damaged control message is ignored: the next one repeats everything.
            let Ok(control) = Control::parse(&message.payload) else { return };
            context.model.relay_hears(id, control);
            task.sender.handle_control(control, context.now);
        }
        self.pump(context, bus, id);
    }

    fn handle_get(&mut self, context: &mut Context, bus: &mut Bus, message: Message) {
        let Some(inbox) = message.reply else { return };
        let mut request = match GetRequest::parse(&message.payload) {
            Ok(request) => request,
            Err(error) => return self.refuse(context, bus, inbox, None, error),
        };
        request.apply_location(&plan::location(self.index));
        if self.transfers.len() >= context.plan.transfers_max {
            let busy = WireError::new(Code::Busy, "all transfers are taken").with_retry_after_ms(BUSY_RETRY_MS);
            return self.refuse(context, bus, inbox, request.context, busy);
        }
        let id = TransferId(Uuid::from_u128(context.rng.u128(..)));
        context.log(|| format!("{} opens at {} for {inbox} as {id}", self.instance, request.start));

        let control = Prefix::default().control(&self.instance, id);
        let settings = settings(context, &request);
        let identity = Identity { transfer: id, instance: self.instance.clone(), control: control.clone(), host: None };
        let task = Task {
            envelope: Envelope { transfer: Some(id), context: request.context.clone() },
            inbox,
            control,
            sender: Sender::new(settings, &request, identity, context.now),
            request,
            settings,
            body: None,
            reading: None,
            latency: None,
            store_ended: false,
            timer_at: None,
        };
        self.transfers.insert(id, task);

        let latency = context.between(Duration::ZERO, context.plan.store_latency * 4);
        self.schedule(context, latency, RelayEvent::Store(id));
        self.pump(context, bus, id);
    }

    fn handle_store(&mut self, context: &mut Context, bus: &mut Bus, id: TransferId) {
        let Some(task) = self.transfers.get_mut(&id) else { return };
        if task.sender.is_opening() {
            task.open(context);
        } else {
            task.take();
        }
        self.pump(context, bus, id);
    }

    fn handle_timer(&mut self, context: &mut Context, bus: &mut Bus, id: TransferId) {
        let Some(task) = self.transfers.get_mut(&id) else { return };
        task.timer_at = None;
        task.sender.handle_timeout(context.now);
        self.pump(context, bus, id);
    }

    fn handle_grace_over(&mut self, context: &mut Context, bus: &mut Bus) {
        for id in self.transfers.keys().copied().collect::<Vec<_>>() {
            if let Some(task) = self.transfers.get_mut(&id) {
                task.sender.handle_drain();
            }
            self.pump(context, bus, id);
        }
        self.end_drain(context, bus);
    }

    /// Carries out everything that a transfer can do now.
    fn pump(&mut self, context: &mut Context, bus: &mut Bus, id: TransferId) {
        let Some(task) = self.transfers.get_mut(&id) else { return self.end_drain(context, bus) };
        while let Some(body) = task.next_body(context) {
            task.check(context, id, &body);
            task.publish(context, bus, self.index, &body);
        }

        if let Some(outcome) = task.sender.outcome() {
            let name = outcome_name(outcome);
            context.log(|| format!("{} ends {id}: {name}", self.instance));
            self.transfers.remove(&id);
            return self.end_drain(context, bus);
        }

        let timeout = task.sender.poll_timeout();
        if let Some(latency) = task.latency.take() {
            self.schedule(context, latency, RelayEvent::Store(id));
        }
        self.set_timer(context, id, timeout);
    }

    fn set_timer(&mut self, context: &mut Context, id: TransferId, timeout: Option<Duration>) {
        let (Some(at), Some(task)) = (timeout, self.transfers.get_mut(&id)) else { return };
        if task.timer_at.is_none_or(|set| at < set) {
            task.timer_at = Some(at);
            self.schedule(context, at.saturating_sub(context.now), RelayEvent::Timer(id));
        }
    }

    fn end_drain(&mut self, context: &mut Context, bus: &mut Bus) {
        if self.is_draining && self.is_up && self.transfers.is_empty() {
            self.kill(context, bus);
        }
    }

    fn refuse(&self, context: &mut Context, bus: &mut Bus, inbox: String, echo: Option<String>, error: WireError) {
        context.log(|| format!("{} refuses {inbox}: {}", self.instance, error.code));
        let (headers, payload) = Envelope { transfer: None, context: echo }.encode(&Body::Error(error));
        let message = Message { subject: inbox, headers, payload, ..Message::default() };
        bus.publish(context, Node::Relay(self.index), Packet::Message(message));
    }

    fn schedule(&self, context: &mut Context, pause: Duration, event: RelayEvent) {
        context.schedule_in(pause, Event::Relay { index: self.index, generation: self.generation, event });
    }
}

impl Task {
    /// Passes the store's answer to the sender.
    fn open(&mut self, context: &mut Context) {
        match store::open(context, &self.request) {
            Ok((object, body)) => {
                self.body = Some(body);
                self.sender.handle_opened(object, context.now);
            }
            Err(error) => self.sender.handle_failure(error),
        }
    }

    /// Returns the next message, after passing on what the store has ready. It is always this transfer's turn.
    fn next_body(&mut self, context: &mut Context) -> Option<Body> {
        while self.reading.is_none() && !self.store_ended && self.sender.wants_data() {
            let (latency, read) = self.body.as_mut()?.read(context);
            self.reading = Some(read);
            if latency > Duration::ZERO {
                self.latency = Some(latency);
            } else {
                self.take();
            }
        }

        self.sender.poll_transmit(context.now).or_else(|| {
            self.sender.handle_turn();
            self.sender.poll_transmit(context.now)
        })
    }

    /// Passes the store's result to the sender.
    fn take(&mut self) {
        match self.reading.take() {
            Some(Read::Frame(frame)) => self.sender.handle_data(frame),
            Some(Read::End) => {
                self.store_ended = true;
                self.sender.handle_data_end();
            }
            Some(Read::Failed(error)) => {
                self.store_ended = true;
                self.sender.handle_failure(error);
            }
            None => {}
        }
    }

    /// Checks a message against the model.
    fn check(&self, context: &mut Context, id: TransferId, body: &Body) {
        let Body::Accepted(accepted) = body else {
            return context.model.relay_sends(id, self.request.start, body);
        };

        let range = self.request.span().resolve(accepted.object.size).expect("the store has checked the range");
        let credit = self.request.credit.unwrap_or(gantry_proto::OFFSET_MAX);
        let expected = Accepted {
            control: self.control.clone(),
            start: range.start,
            end: range.end,
            chunk_max: self.settings.chunk_max as u64,
            ..(**accepted).clone()
        };
        context.model.check(**accepted == expected, || format!("{id} accepts with {accepted:?}"));
        context.model.relay_accepts(id, &accepted.object.etag, range, credit, self.settings);
    }

    fn publish(&self, context: &mut Context, bus: &mut Bus, index: usize, body: &Body) {
        let is_refusal = matches!(self.sender.outcome(), Some(Outcome::Refused(_)));
        let envelope = Envelope {
            transfer: self.envelope.transfer.filter(|_| !is_refusal),
            context: self.envelope.context.clone(),
        };

        let (headers, payload) = envelope.encode(body);
        let reply = (!is_refusal).then(|| self.control.clone());
        let message = Message { subject: self.inbox.clone(), reply, headers, payload, nobody: false };
        bus.publish(context, Node::Relay(index), Packet::Message(message));
    }
}

/// Returns a relay's settings for a request. They allow smaller chunks than the protocol does, so that more events
/// occur.
fn settings(context: &Context, request: &GetRequest) -> Settings {
    let asked = request.chunk_max.and_then(|max| usize::try_from(max).ok()).unwrap_or(usize::MAX);
    let chunk_max = asked.min(context.plan.sender.chunk_max);
    let gather_min = context.plan.sender.gather_min.min(chunk_max);
    Settings { chunk_max, gather_min, ..context.plan.sender }
}

const fn outcome_name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Completed => "completed",
        Outcome::Drained => "drained",
        Outcome::Cancelled => "cancelled",
        Outcome::ConsumerGone => "consumer gone",
        Outcome::Refused(WireError { code, .. }) | Outcome::Failed(WireError { code, .. }) => code.name(),
    }
}
