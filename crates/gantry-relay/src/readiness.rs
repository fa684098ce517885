//! Whether the relay can serve, and why not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::subjects::Subjects;
use gantry_proto::subject::Operation;
use gantry_proto::{StoreName, printable};

/// Whether the relay can serve, and why not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Whether the connection that receives requests is up.
    pub connected: bool,
    /// Whether the connection that publishes answers is up.
    pub data_connected: bool,
    /// Whether the relay is shutting down.
    pub draining: bool,
    /// The subjects that nats-server forbids the relay to subscribe to and without which it can't deliver objects.
    pub denied: BTreeSet<String>,
    /// The problem of each store, or `None` if it answered its last probe.
    pub stores: BTreeMap<StoreName, Option<String>>,
}

impl Readiness {
    /// Returns whether requests can be served: both connections are up, the relay is not draining, no vital subject is
    /// denied, and at least one store answers.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let connected = self.connected && self.data_connected;
        connected && !self.draining && self.denied.is_empty() && self.stores.values().any(Option::is_none)
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_ready() { "ready" } else { "not ready" })?;
        f.write_str(match (self.connected, self.data_connected) {
            (true, true) => "\nnats: connected",
            (false, true) => "\nnats: not connected for requests",
            (true, false) => "\nnats: not connected for data",
            (false, false) => "\nnats: not connected",
        })?;

        if self.draining {
            f.write_str("\ndraining")?;
        }
        for subject in &self.denied {
            write!(f, "\nnats-server forbids to subscribe to {}", printable::text(subject))?;
        }
        for (store, failure) in &self.stores {
            write!(f, "\nstore {store}: {}", failure.as_deref().unwrap_or("ok"))?;
        }

        Ok(())
    }
}

/// The place where the parts of the relay report what affects its readiness.
#[derive(Debug)]
pub(crate) struct Board {
    shown: watch::Sender<Readiness>,
    /// Every subject that nats-server forbids the relay to subscribe to, vital or not.
    denied: Mutex<BTreeSet<String>>,
    subjects: Arc<Subjects>,
}

impl Board {
    pub(crate) fn new(subjects: Arc<Subjects>) -> Self {
        Self { shown: watch::Sender::default(), denied: Mutex::default(), subjects }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Readiness> {
        self.shown.subscribe()
    }

    /// Updates the readiness. `update` returns whether it changed anything.
    pub(crate) fn update(&self, update: impl FnOnce(&mut Readiness) -> bool) {
        self.shown.send_if_modified(update);
    }

    /// Returns all denied subjects, to be changed. [`Self::show_denied`] publishes the changes.
    pub(crate) fn denied(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.denied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the denied subjects after a reconnect: nats-server reports them again if it still forbids them.
    pub(crate) fn forget_denied(&self, readiness: &mut Readiness) {
        self.denied().clear();
        readiness.denied.clear();
    }

    /// Publishes the denied subjects that are vital for `stores`.
    pub(crate) fn show_denied(&self, stores: &[StoreName]) {
        self.update(|readiness| {
            let mut denied = self.denied().clone();
            denied.retain(|subject| self.is_vital(subject, stores));

            let is_changed = readiness.denied != denied;
            readiness.denied = denied;
            is_changed
        });
    }

    /// Returns whether no object can be delivered without the subject. A relay can serve without permission to list.
    fn is_vital(&self, subject: &str, stores: &[StoreName]) -> bool {
        subject == self.subjects.controls()
            || stores.iter().any(|store| subject == self.subjects.request(Operation::Get, store))
    }
}
