//! One simulated world: a store, a bus, relays and a consumer on a virtual clock, with faults.

use std::time::Duration;

use fastrand::Rng;

use crate::bus::{Bus, Message, Packet};
use crate::consumer::Consumer;
use crate::context::{Context, Logging, Tally};
use crate::event::{Event, Fault, Node, RelayEvent};
use crate::model::Model;
use crate::plan::Plan;
use crate::relay::Relay;

/// Maximum number of events; no world needs as many.
const STEPS_MAX: u64 = 2_000_000;

/// How long a consumer's last control message may be in flight, given latency and delays, and how long its last request
/// may remain unanswered.
const LAST_WORD_MAX: Duration = Duration::from_secs(3);

/// The budget of a connection without other downloads.
const SHARE_ALL: u64 = 1 << 40;

/// The result of a world.
pub(crate) struct Report {
    pub(crate) tally: Tally,
    pub(crate) log: String,
    /// The violated invariant, if any.
    pub(crate) violation: Option<String>,
}

struct World {
    context: Context,
    bus: Bus,
    relays: Vec<Process>,
    consumer: Consumer,
    /// When the consumer's process was frozen, and the events that have arrived since.
    frozen: Option<(Duration, Vec<Errand>)>,
}

/// A relay, and the events that have arrived while it is frozen.
struct Process {
    relay: Relay,
    backlog: Option<Vec<Work>>,
    thawed_at: Duration,
}

/// An event for a relay's process.
enum Work {
    Message { epoch: u64, message: Message },
    Own { generation: u64, event: RelayEvent },
}

/// An event for the consumer's process.
enum Errand {
    Message { epoch: u64, message: Message },
    Timer { generation: u64 },
    WriteDone { generation: u64 },
    Cut,
    Reconnect,
    Writer { is_frozen: bool },
    Share(u64),
}

/// Runs a seed's world to its end.
pub(crate) fn run(seed: u64, logging: Logging) -> Report {
    let mut rng = Rng::with_seed(seed);
    let plan = Plan::draw(&mut rng);
    let model = Model::new(seed, plan.sizes.clone());
    let mut world = World {
        bus: Bus::new(plan.relays),
        relays: (0..plan.relays).map(Process::new).collect(),
        consumer: Consumer::default(),
        frozen: None,
        context: Context::new(rng, plan, model, logging),
    };
    let violation = world.run();
    let Context { now, .. } = world.context;
    world.context.tally.virtual_time = now;

    world
        .context
        .log(|| violation.as_ref().map_or_else(|| "all holds".to_owned(), |what| format!("VIOLATION: {what}")));
    Report { log: world.context.take_log(), tally: world.context.tally, violation }
}

impl Process {
    const fn new(index: usize) -> Self {
        Self { relay: Relay::new(index), backlog: None, thawed_at: Duration::ZERO }
    }
}

impl World {
    fn run(&mut self) -> Option<String> {
        let plan = format!("{:?}", self.context.plan);
        self.context.log(|| plan);

        for process in &mut self.relays {
            process.relay.start(&mut self.context, &mut self.bus);
        }
        self.context.schedule(Duration::ZERO, Event::ConsumerStart);

        for (at, _, fault) in self.context.plan.faults.clone() {
            self.context.schedule(at, Event::Fault(fault));
        }
        self.context.schedule(self.context.plan.heal_at, Event::HealAll);

        while let Some(event) = self.context.next_event() {
            self.context.tally.steps += 1;
            self.handle(event);
            if let Some(violation) = self.context.model.take_violation().or_else(|| self.overdue()) {
                return Some(violation);
            }
        }

        self.consumer.done_at.is_none().then(|| "no events are left, but the download is not done".to_owned())
    }

    /// Returns a description of what has exceeded its time limit, if anything has.
    fn overdue(&self) -> Option<String> {
        let Context { now, plan, tally, .. } = &self.context;
        if tally.steps > STEPS_MAX {
            return Some(format!("not over after {STEPS_MAX} steps"));
        }
        if let Some((frozen_at, _)) = &self.frozen
            && self.consumer.is_running()
            && let Some(late) = self.relays.iter().find(|process| {
                let frees_at = process.thawed_at.max(*frozen_at) + plan.sender.idle_timeout + LAST_WORD_MAX;
                process.backlog.is_none() && *now > frees_at && process.relay.transfers() > 0
            })
        {
            let instance = &late.relay.instance;
            return Some(format!("{instance} keeps the transfer of a consumer that is frozen since {frozen_at:?}"));
        }

        let Some(done_at) = self.consumer.done_at else {
            return (*now > plan.deadline).then(|| format!("not done at {now:?}"));
        };
        let settled_at = done_at.max(plan.heal_at) + plan.sender.idle_timeout + LAST_WORD_MAX;
        let left: usize = self.relays.iter().map(|process| process.relay.transfers()).sum();

        (*now > settled_at && left > 0).then(|| format!("{left} transfers are left of a consumer that is gone"))
    }

    fn handle(&mut self, event: Event) {
        let Self { context, bus, consumer, .. } = self;
        match event {
            Event::AtServer { from, epoch, packet } => bus.route(context, from, epoch, packet),
            Event::AtClient { to: Node::Consumer, epoch, packet: Packet::Message(message) } => {
                self.ask(Errand::Message { epoch, message });
            }
            Event::AtClient { to: Node::Relay(index), epoch, packet: Packet::Message(message) } => {
                self.give(index, Work::Message { epoch, message });
            }
            Event::AtClient { packet: Packet::Subscribe(_), .. } => {}
            Event::Relay { index, generation, event } => self.give(index, Work::Own { generation, event }),
            Event::ConsumerTimer { generation } => self.ask(Errand::Timer { generation }),
            Event::WriteDone { generation } => self.ask(Errand::WriteDone { generation }),
            Event::ConsumerStart => consumer.start(context, bus),
            Event::Fault(fault) => self.break_something(fault),
            Event::Heal(fault) => self.heal(fault),
            Event::HealAll => self.heal_all(),
        }
    }

    /// Lets a relay handle an event, now or once it is resumed.
    fn give(&mut self, index: usize, work: Work) {
        let Self { context, bus, relays, .. } = self;
        let Process { relay, backlog, .. } = &mut relays[index];
        if let Some(backlog) = backlog {
            return backlog.push(work);
        }
        match work {
            Work::Message { epoch, message } if relay.is_up && bus.arrives(Node::Relay(index), epoch) => {
                relay.handle_message(context, bus, message);
            }
            Work::Own { generation, event } if relay.is_up && generation == relay.generation => {
                relay.handle(context, bus, event);
            }
            Work::Message { .. } | Work::Own { .. } => {}
        }
    }

    /// Lets the consumer's process handle an event, now or once it is resumed.
    fn ask(&mut self, errand: Errand) {
        let Self { context, bus, consumer, frozen, .. } = self;
        if let Some((_, backlog)) = frozen {
            return backlog.push(errand);
        }
        match errand {
            Errand::Message { epoch, message } if bus.arrives(Node::Consumer, epoch) => {
                consumer.handle_message(context, bus, message);
            }
            Errand::Timer { generation } if generation == consumer.generation => consumer.handle_timer(context, bus),
            Errand::WriteDone { generation } if generation == consumer.generation => {
                consumer.handle_write_done(context, bus);
            }
            Errand::Message { .. } | Errand::Timer { .. } | Errand::WriteDone { .. } => {}
            Errand::Cut => {
                bus.connect(Node::Consumer, false);
                consumer.handle_connection(context, bus, false);
            }
            Errand::Reconnect if bus.is_connected(Node::Consumer) => {}
            Errand::Reconnect => {
                bus.connect(Node::Consumer, true);
                consumer.handle_connection(context, bus, true);
            }
            Errand::Writer { is_frozen } => consumer.handle_writer(context, bus, is_frozen),
            Errand::Share(share) => consumer.handle_window_limit(context, bus, share),
        }
    }

    /// Lets a resumed consumer handle all events that have arrived meanwhile. Its timers come first or last, at random.
    fn thaw_consumer(&mut self) {
        let Some((_, backlog)) = self.frozen.take() else { return };
        let is_timer = |errand: &Errand| matches!(errand, Errand::Timer { .. });
        let (timers, others): (Vec<_>, Vec<_>) = backlog.into_iter().partition(is_timer);
        let (first, last) = if self.context.rng.bool() { (timers, others) } else { (others, timers) };
        for errand in first.into_iter().chain(last) {
            self.ask(errand);
        }
    }

    fn break_something(&mut self, fault: Fault) {
        let Self { context, bus, consumer, relays, frozen } = self;
        if !context.is_faulty() {
            return;
        }
        let planned = context.plan.faults.iter().find(|(at, _, planned)| *at == context.now && *planned == fault);
        let lasts = planned.map_or(Duration::ZERO, |(_, lasts, _)| *lasts);
        context.fault(fault.name());

        match fault {
            Fault::Cut(node) => {
                bus.connect(node, false);
                if node == Node::Consumer {
                    self.ask(Errand::Cut);
                }
            }
            Fault::Blackhole(node) => bus.blackhole(node, true),
            Fault::Crash(index) => {
                relays[index].backlog = None;
                relays[index].relay.kill(context, bus);
            }
            Fault::Freeze(index) => {
                relays[index].backlog.get_or_insert_default();
            }
            Fault::Drain(index) if relays[index].backlog.is_none() && relays[index].relay.is_up => {
                relays[index].relay.drain(context, bus);
            }
            Fault::Drain(_) => {}
            Fault::CrashConsumer => {
                consumer.kill(context, bus);
                context.schedule_in(lasts, Event::ConsumerStart);
                // Events outside the process continue.
                return self.thaw_consumer();
            }
            Fault::FreezeConsumer if consumer.is_running() => {
                frozen.get_or_insert((context.now, Vec::new()));
            }
            Fault::FreezeConsumer => {}
            Fault::FreezeWriter => self.ask(Errand::Writer { is_frozen: true }),
            Fault::Share(share) => self.ask(Errand::Share(share)),
            Fault::Replace => {
                context.model.replace();
            }
        }

        self.context.schedule_in(lasts, Event::Heal(fault));
    }

    fn heal(&mut self, fault: Fault) {
        self.context.log(|| format!("healed: {}", fault.name()));
        let Self { context, bus, relays, .. } = self;

        match fault {
            Fault::Cut(node) => self.reconnect(node),
            Fault::Blackhole(node) => bus.blackhole(node, false),
            Fault::Crash(index) | Fault::Drain(index) => {
                if relays[index].relay.needs_restart() {
                    relays[index].backlog = None;
                    relays[index].relay.kill(context, bus);
                    relays[index].relay.start(context, bus);
                }
            }
            Fault::Freeze(index) => self.thaw(index),
            Fault::FreezeConsumer => self.thaw_consumer(),
            Fault::FreezeWriter => self.ask(Errand::Writer { is_frozen: false }),
            Fault::Share(_) => self.ask(Errand::Share(SHARE_ALL)),
            Fault::CrashConsumer | Fault::Replace => {}
        }
    }

    fn heal_all(&mut self) {
        for index in 0..self.relays.len() {
            for fault in [
                Fault::Cut(Node::Relay(index)),
                Fault::Blackhole(Node::Relay(index)),
                Fault::Freeze(index),
                Fault::Crash(index),
            ] {
                self.heal(fault);
            }
        }

        for fault in [
            Fault::FreezeConsumer,
            Fault::Cut(Node::Consumer),
            Fault::Blackhole(Node::Consumer),
            Fault::FreezeWriter,
            Fault::Share(SHARE_ALL),
        ] {
            self.heal(fault);
        }
    }

    fn reconnect(&mut self, node: Node) {
        if node == Node::Consumer {
            self.ask(Errand::Reconnect);
        } else if !self.bus.is_connected(node) {
            self.bus.connect(node, true);
        }
    }

    /// Lets a resumed relay handle all events that have arrived meanwhile.
    fn thaw(&mut self, index: usize) {
        self.relays[index].thawed_at = self.context.now;
        for work in self.relays[index].backlog.take().unwrap_or_default() {
            self.give(index, work);
        }
    }
}
