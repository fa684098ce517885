//! The state that all parts of the simulated world share: time, randomness, the event queue, the log, and the counts.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt::Write as _;
use std::time::Duration;

use fastrand::Rng;

use crate::event::Event;
use crate::model::Model;
use crate::plan::Plan;

/// Which lines of a world's log to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logging {
    /// None.
    Off,
    /// All.
    On,
}

/// Counts of what happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) worlds: u64,
    pub(crate) steps: u64,
    pub(crate) virtual_time: Duration,
    pub(crate) bytes: u64,
    /// Accepted `get`s.
    pub(crate) transfers: u64,
    /// Downloads that the user started.
    pub(crate) runs: u64,
    /// Downloads that resumed from the bytes of an earlier one.
    pub(crate) resumes: u64,
    /// Transfers accepted by a different relay than the previous transfer.
    pub(crate) failovers: u64,
    pub(crate) recoveries: BTreeMap<&'static str, u64>,
    pub(crate) failures: BTreeMap<&'static str, u64>,
    pub(crate) faults: BTreeMap<&'static str, u64>,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.worlds += other.worlds;
        self.steps += other.steps;
        self.virtual_time += other.virtual_time;
        self.bytes += other.bytes;
        self.transfers += other.transfers;
        self.runs += other.runs;
        self.resumes += other.resumes;
        self.failovers += other.failovers;

        for (own, theirs) in [
            (&mut self.recoveries, &other.recoveries),
            (&mut self.failures, &other.failures),
            (&mut self.faults, &other.faults),
        ] {
            for (name, count) in theirs {
                *own.entry(name).or_default() += count;
            }
        }
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "worlds      {:>12}", self.worlds)?;
        writeln!(f, "steps       {:>12}", self.steps)?;
        writeln!(f, "virtual time{:>12} s", self.virtual_time.as_secs())?;
        writeln!(f, "bytes       {:>12}", self.bytes)?;
        writeln!(f, "downloads   {:>12}", self.runs)?;
        writeln!(f, "transfers   {:>12}", self.transfers)?;
        writeln!(f, "failovers   {:>12}", self.failovers)?;
        writeln!(f, "resumes     {:>12}", self.resumes)?;

        for (title, counts) in
            [("fault", &self.faults), ("recovery from", &self.recoveries), ("download ended by", &self.failures)]
        {
            for (name, count) in counts {
                writeln!(f, "{:<32}{count:>12}", format!("{title} {name}"))?;
            }
        }

        write!(f, "faults in all {:>10}", self.faults.values().sum::<u64>())
    }
}

/// The state that all parts share.
pub(crate) struct Context {
    pub(crate) now: Duration,
    pub(crate) rng: Rng,
    pub(crate) plan: Plan,
    pub(crate) model: Model,
    pub(crate) tally: Tally,
    queue: BinaryHeap<Reverse<Scheduled>>,
    serial: u64,
    log: Option<String>,
}

struct Scheduled {
    at: Duration,
    serial: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.serial == other.serial
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.serial).cmp(&(other.at, other.serial))
    }
}

impl Context {
    pub(crate) fn new(rng: Rng, plan: Plan, model: Model, logging: Logging) -> Self {
        Self {
            now: Duration::ZERO,
            rng,
            plan,
            model,
            tally: Tally { worlds: 1, ..Tally::default() },
            queue: BinaryHeap::new(),
            serial: 0,
            log: (logging == Logging::On).then(String::new),
        }
    }

    /// Schedules `event` for `at`, after all events already scheduled for that time.
    pub(crate) fn schedule(&mut self, at: Duration, event: Event) {
        self.serial += 1;
        self.queue.push(Reverse(Scheduled { at: at.max(self.now), serial: self.serial, event }));
    }

    pub(crate) fn schedule_in(&mut self, pause: Duration, event: Event) {
        self.schedule(self.now + pause, event);
    }

    /// Advances the time to the next event.
    pub(crate) fn next_event(&mut self) -> Option<Event> {
        let Reverse(next) = self.queue.pop()?;
        self.now = next.at;
        Some(next.event)
    }

    /// Returns whether faults may still be injected.
    pub(crate) fn is_faulty(&self) -> bool {
        self.now < self.plan.heal_at
    }

    /// Returns `true` with the given probability while faults may be injected, and then counts the fault.
    pub(crate) fn inject(&mut self, rate: f64, name: &'static str) -> bool {
        let injected = self.is_faulty() && rate > 0.0 && self.rng.f64() < rate;
        if injected {
            self.fault(name);
        }
        injected
    }

    pub(crate) fn fault(&mut self, name: &'static str) {
        *self.tally.faults.entry(name).or_default() += 1;
        self.log(|| format!("fault {name}"));
    }

    pub(crate) fn log(&mut self, line: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            let seconds = self.now.as_secs();
            let micros = self.now.subsec_micros();
            writeln!(log, "{seconds:>4}.{micros:06} {}", line()).expect("a String takes every line");
        }
    }

    pub(crate) fn take_log(&mut self) -> String {
        self.log.take().unwrap_or_default()
    }

    /// Draws a duration between the two bounds, both inclusive.
    pub(crate) fn between(&mut self, least: Duration, most: Duration) -> Duration {
        between(&mut self.rng, least, most)
    }
}

/// Draws a duration between the two bounds, both inclusive, in whole microseconds.
pub(crate) fn between(rng: &mut Rng, least: Duration, most: Duration) -> Duration {
    Duration::from_micros(rng.u64(micros(least)..=micros(most).max(micros(least))))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).expect("virtual time is short")
}
