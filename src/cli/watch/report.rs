//! What `gantry watch` prints.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use gantry_client::tree::Event;
use gantry_client::verify::Proof;
use gantry_proto::printable;
use serde_json::{Value, json};

use super::super::exit::Failure;
use super::super::{output, tree};
use super::delivery::Delivery;
use super::object::Object;

/// Prints and counts events.
#[derive(Debug, Default)]
pub(super) struct Reporter {
    is_json: bool,
    is_quiet: bool,
    /// Objects that were downloaded.
    fetched: AtomicU64,
    /// Objects that were handled.
    done: AtomicU64,
    /// Objects that can't have a file.
    left_out: AtomicU64,
    /// Objects that were given up.
    given_up: AtomicU64,
    has_failed: AtomicBool,
    failure: Mutex<Option<Failure>>,
}

impl Reporter {
    pub(super) fn new(is_json: bool, is_quiet: bool) -> Self {
        Self { is_json, is_quiet, ..Self::default() }
    }

    /// Returns the failure of a write to stdout.
    pub(super) fn failure(&self) -> Option<Failure> {
        if !self.has_failed.load(Ordering::Relaxed) {
            return None;
        }
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Reports the beginning.
    pub(super) fn began(&self, what: &str) {
        if !self.is_quiet {
            output::note(what);
        }
        self.json(|| json!({"event": "watching"}));
    }

    /// Reports an event of a download. A failure is reported later, with what follows from it.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the other events have no line of their own")]
    pub(super) fn of_tree(&self, event: &Event, folder: &Path) {
        match event {
            Event::Failed { .. } => return,
            Event::LeftOut { .. } => drop(self.left_out.fetch_add(1, Ordering::Relaxed)),
            Event::Fetched { .. } => drop(self.fetched.fetch_add(1, Ordering::Relaxed)),
            _ => {}
        }

        let is_problem = matches!(event, Event::LeftOut { .. });
        if is_problem || !self.is_quiet {
            if let Event::Fetched { path, bytes, proof, .. } = event {
                output::note(&wrote(&folder.join(path), *bytes, proof.as_ref()));
            } else if let Some(note) = tree::note(event) {
                output::note(&note);
            }
        }
        self.json(|| tree::object(event));
    }

    /// Reports an event whose objects are handled.
    pub(super) fn done(&self, delivery: &Delivery, ran_command: bool) {
        self.done.fetch_add(delivery.objects.len() as u64, Ordering::Relaxed);
        if ran_command {
            for Object { store, key, .. } in &delivery.objects {
                self.json(|| json!({"event": "ran", "store": store, "key": key, "attempt": delivery.attempt}));
            }
        }
    }

    /// Reports a failure, and when it is tried again. `None` if it is not.
    pub(super) fn failed(&self, delivery: &Delivery, why: &str, again: Option<Duration>) {
        let attempt = delivery.attempt;
        if again.is_none() {
            self.given_up.fetch_add(delivery.objects.len() as u64, Ordering::Relaxed);
        }
        let then = match again {
            Some(delay) => format!("again in {} s", delay.as_secs()),
            None => format!("gave up after {attempt} attempt{}", if attempt == 1 { "" } else { "s" }),
        };
        output::note(&format!("gantry: failed {}: {why}; {then}", printable::name(&addresses(delivery))));

        let event = if again.is_some() { "failed" } else { "gave_up" };
        for Object { store, key, .. } in &delivery.objects {
            self.json(|| json!({"event": event, "store": store, "key": key, "attempt": attempt, "message": why}));
        }
    }

    /// Reports a failure that has nothing to do with an object, and is waited out.
    pub(super) fn waits(&self, why: &str, pause: Duration) {
        output::note(&format!("gantry: {why}; again in {} s", pause.as_secs()));
    }

    /// Reports the end.
    pub(super) fn ended(&self, downloads: bool, skipped: u64, dropped: u64) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (fetched, done) = (count(&self.fetched), count(&self.done));
        let (left_out, given_up) = (count(&self.left_out), count(&self.given_up));
        self.json(|| {
            json!({"event": "done", "handled": done, "fetched": fetched, "left_out": left_out, "gave_up": given_up,
                "skipped": skipped, "dropped": dropped})
        });
        if self.is_quiet {
            return;
        }

        let mut line = format!("handled {done} object{}", if done == 1 { "" } else { "s" });
        if downloads {
            line += &format!(", {fetched} downloaded");
        }
        for (number, what) in [
            (left_out, "left out"),
            (given_up, "given up"),
            (skipped, "messages skipped"),
            (dropped, "messages dropped"),
        ] {
            if number > 0 {
                line += &format!(", {number} {what}");
            }
        }
        output::note(&line);
    }

    fn json(&self, object: impl FnOnce() -> Value) {
        if !self.is_json {
            return;
        }
        if let Err(failure) = output::json(&object()) {
            self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
            self.has_failed.store(true, Ordering::Relaxed);
        }
    }
}

fn wrote(path: &Path, bytes: u64, proof: Option<&Proof>) -> String {
    let how = match proof {
        None => "before an interruption".to_owned(),
        Some(Proof::Transport | Proof::Unverified { .. } | Proof::InvalidChecksum { .. }) => {
            "in transport only".to_owned()
        }
        Some(proof @ (Proof::FullObject { .. } | Proof::Composite { .. } | Proof::Etag { .. })) => {
            format!("by {proof}")
        }
    };
    format!("wrote {}: {bytes} bytes, verified {how}", path.display())
}

/// Returns the addresses of an event's objects, or the first of many.
fn addresses(delivery: &Delivery) -> String {
    match delivery.objects.as_slice() {
        [] => String::new(),
        [one] => one.address(),
        [first, others @ ..] => format!("{} and {} more", first.address(), others.len()),
    }
}
