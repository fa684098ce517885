//! Downloads the announced objects into a folder, by the rules of `gantry get -r`.
//!
//! A session is one download of a tree. It takes more events while it runs, so that a large object does not hold up small
//! ones, and ends once nothing is left to do. Only then are its files durable and its events done.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::stream::unfold;
use gantry_client::tree::{Event, Item, TreeOptions};
use gantry_client::{Client, Error};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::super::tree;
use super::delivery::Delivery;
use super::report::Reporter;

/// The number of objects of one session. It bounds the number of events that wait for its end.
const OBJECTS_MAX: usize = 500;

/// What became of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is in this file, relative to the folder.
    Fetched(String),
    /// Its key can't have a file.
    LeftOut,
    Failed(String),
}

/// Downloads into one folder.
#[derive(Debug)]
pub(super) struct Downloads {
    pub(super) client: Client,
    pub(super) folder: PathBuf,
    pub(super) options: TreeOptions,
    pub(super) reporter: Arc<Reporter>,
}

/// The events that are waiting.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) events: mpsc::Receiver<Delivery>,
    /// An event about an object of the current session. It is the first of the next one.
    pub(super) set_aside: Option<Delivery>,
}

impl Waiting {
    /// Returns the next event, or `None` if there will be no more.
    ///
    /// # Cancel safety
    /// Dropping the future loses no event.
    pub(super) async fn next(&mut self) -> Option<Delivery> {
        match self.set_aside.take() {
            Some(delivery) => Some(delivery),
            None => self.events.recv().await,
        }
    }
}

impl Downloads {
    /// Downloads the objects of `taken`, and adds the events that arrive meanwhile to it. Returns what became of each
    /// object by its key. The outcomes are final only if there is no error, or [`Error::Cancelled`].
    pub(super) async fn session(
        &self,
        taken: &mut Vec<Delivery>,
        waiting: &mut Waiting,
        cancel: CancellationToken,
    ) -> (HashMap<String, Outcome>, Result<(), Error>) {
        let outcomes = Outcomes::default();
        let mut intake =
            Intake { ready: VecDeque::new(), asked: HashSet::new(), taken, waiting, outcomes: outcomes.clone() };
        intake.begin();
        let items = unfold(intake, async |mut intake| Some((Ok(intake.next().await?), intake)));

        let events = {
            let (outcomes, reporter) = (outcomes.clone(), Arc::clone(&self.reporter));
            let folder = self.folder.clone();
            move |event: Event| {
                reporter.of_tree(&event, &folder);
                outcomes.record(&event);
            }
        };
        let options = self.options.clone().cancel(cancel);
        let done = Box::pin(self.client.download_tree(items, &self.folder, options, events)).await;
        (outcomes.take(), done.map(drop))
    }
}

/// What became of each object so far, by its key.
#[derive(Clone, Debug)]
struct Outcomes {
    by_key: Arc<Mutex<HashMap<String, Outcome>>>,
    count: watch::Sender<usize>,
}

impl Default for Outcomes {
    fn default() -> Self {
        Self { by_key: Arc::default(), count: watch::Sender::new(0) }
    }
}

impl Outcomes {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the other events are not the end of an object")]
    fn record(&self, event: &Event) {
        let (key, outcome) = match event {
            Event::Fetched { key, path, .. } | Event::Unchanged { key, path, .. } => {
                (key, Outcome::Fetched(path.clone()))
            }
            Event::LeftOut { key, .. } => (key, Outcome::LeftOut),
            Event::Failed { key, error, .. } => (key, Outcome::Failed(tree::message(error))),
            _ => return,
        };
        let mut by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        by_key.insert(key.to_string(), outcome);
        self.count.send_replace(by_key.len());
    }

    fn take(&self) -> HashMap<String, Outcome> {
        std::mem::take(&mut self.by_key.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until this many objects have an outcome.
    async fn reach(&self, count: usize) {
        // The sender is a member, so that the channel is open.
        drop(self.count.subscribe().wait_for(|so_far| *so_far >= count).await);
    }
}

/// The objects of a session, as its download asks for them.
struct Intake<'a> {
    ready: VecDeque<Item>,
    /// The keys of the objects so far.
    asked: HashSet<String>,
    taken: &'a mut Vec<Delivery>,
    waiting: &'a mut Waiting,
    outcomes: Outcomes,
}

impl Intake<'_> {
    /// Takes the objects with which the session begins.
    fn begin(&mut self) {
        for delivery in std::mem::take(self.taken) {
            self.take(delivery);
        }
    }

    fn take(&mut self, delivery: Delivery) {
        for object in &delivery.objects {
            if self.asked.insert(object.key.to_string()) {
                self.ready.push_back(object.item());
            }
        }
        self.taken.push(delivery);
    }

    /// Returns the next object, or `None` if the session ends: there is nothing to do, there are enough objects, or one
    /// of them was announced again, so that its newer version must be downloaded.
    async fn next(&mut self) -> Option<Item> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Some(item);
            }
            if self.asked.len() >= OBJECTS_MAX {
                return None;
            }

            let outcomes = self.outcomes.clone();
            let delivery = tokio::select! {
                biased;
                delivery = self.waiting.next() => delivery?,
                () = outcomes.reach(self.asked.len()) => return None,
            };
            if delivery.objects.iter().any(|object| self.asked.contains(object.key.as_str())) {
                self.waiting.set_aside = Some(delivery);
                return None;
            }
            self.take(delivery);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::object::Object;
    use super::*;

    fn delivery(keys: &[&str]) -> Delivery {
        let object = |key: &&str| Object {
            store: "s".parse().unwrap(),
            key: key.parse().unwrap(),
            cut: 0,
            size: None,
            etag: None,
            event: String::new(),
            file: None,
        };
        Delivery { objects: keys.iter().map(object).collect(), attempt: 1, receipt: None }
    }

    #[tokio::test]
    async fn an_object_that_is_announced_again_ends_the_session() {
        let (sender, events) = mpsc::channel(10);
        let mut waiting = Waiting { events, set_aside: None };
        let mut taken = vec![delivery(&["a", "a", "b"])];
        for keys in [&["c"][..], &["d", "b"], &["e"]] {
            sender.try_send(delivery(keys)).unwrap();
        }

        let mut intake = Intake {
            ready: VecDeque::new(),
            asked: HashSet::new(),
            taken: &mut taken,
            waiting: &mut waiting,
            outcomes: Outcomes::default(),
        };
        intake.begin();
        let mut keys = Vec::new();
        while let Some(item) = intake.next().await {
            keys.push(item.key.to_string());
        }

        assert_eq!(keys, ["a", "b", "c"]);
        assert_eq!(taken.len(), 2);
        assert_eq!(waiting.next().await.unwrap().objects.len(), 2);
        assert_eq!(waiting.next().await.unwrap().objects[0].key.as_str(), "e");
    }

    #[tokio::test]
    async fn a_session_ends_when_nothing_is_left_to_do() {
        let (_sender, events) = mpsc::channel(10);
        let mut waiting = Waiting { events, set_aside: None };
        let mut taken = vec![delivery(&["a"])];
        let outcomes = Outcomes::default();
        let mut intake = Intake {
            ready: VecDeque::new(),
            asked: HashSet::new(),
            taken: &mut taken,
            waiting: &mut waiting,
            outcomes: outcomes.clone(),
        };
        intake.begin();
        assert!(intake.next().await.is_some());

        let (store, key) = ("s".parse().unwrap(), "a".parse().unwrap());
        outcomes.record(&Event::Unchanged { store, key, path: "a".to_owned() });
        assert!(intake.next().await.is_none());
        assert_eq!(outcomes.take()["a"], Outcome::Fetched("a".to_owned()));
    }
}
