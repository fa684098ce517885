//! Handles events: downloads their objects, runs the command, and acknowledges them.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gantry_bus::Bus;
use gantry_client::Error;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::super::exit::{Exit, Failure};
use super::super::tree;
use super::command::{Failed, Runner};
use super::delivery::{Ack, Delivery};
use super::fetch::{Downloads, Outcome, Waiting};
use super::report::Reporter;

/// The pause after the first failure. It doubles with each.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// The number of failed events that wait here for another attempt. Without `JetStream`, nobody else keeps them.
const RETRIES_MAX: usize = 1000;

/// The receipts of all messages that are not acknowledged yet.
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<BTreeSet<String>>);

impl Held {
    pub(super) fn add(&self, receipt: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(receipt.to_owned());
    }

    fn remove(&self, receipt: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(receipt);
    }

    /// Informs the server from time to time that the messages are still being worked on.
    pub(super) async fn keep(self: Arc<Self>, bus: Arc<dyn Bus>, interval: Duration) {
        loop {
            sleep(interval).await;
            let receipts = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            for receipt in receipts {
                Ack::Working.send(&*bus, &receipt).await;
            }
        }
    }
}

/// What an event's handling has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Done,
    Failed(String),
    /// It was interrupted.
    Unfinished,
}

/// Handles events.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) bus: Arc<dyn Bus>,
    pub(super) waiting: Waiting,
    /// Takes failed events that `JetStream` does not keep.
    pub(super) again: mpsc::Sender<Delivery>,
    pub(super) downloads: Option<Downloads>,
    pub(super) runner: Option<Runner>,
    /// How many commands run at the same time.
    pub(super) jobs: usize,
    pub(super) attempts_max: u64,
    pub(super) held: Arc<Held>,
    pub(super) reporter: Arc<Reporter>,
    pub(super) retries: Arc<Semaphore>,
    pub(super) ready: VecDeque<Delivery>,
    pub(super) running: JoinSet<(Delivery, Result<(), Failed>)>,
}

impl Worker {
    pub(super) fn retries() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(RETRIES_MAX))
    }

    /// Handles events until `drain`, and then those that are being handled.
    pub(super) async fn run(&mut self, drain: &CancellationToken) -> Result<(), Failure> {
        loop {
            if let Some(failure) = self.reporter.failure() {
                return Err(failure);
            }
            self.start_ready().await;
            let has_room = self.ready.is_empty() && self.running.len() < self.jobs;
            tokio::select! {
                biased;
                () = drain.cancelled() => return Ok(()),
                Some(done) = self.running.join_next() => self.ran(done).await?,
                delivery = self.waiting.next(), if has_room => {
                    let Some(delivery) = delivery else { return Ok(()) };
                    self.take(delivery, drain).await?;
                }
            }
        }
    }

    /// Waits for the commands that are running, and returns all other events to the server.
    pub(super) async fn finish(&mut self) -> Result<(), Failure> {
        let mut finished = Ok(());
        while let Some(done) = self.running.join_next().await {
            finished = finished.and(self.ran(done).await);
        }

        let mut left: Vec<_> = self.ready.drain(..).chain(self.waiting.set_aside.take()).collect();
        while let Ok(delivery) = self.waiting.events.try_recv() {
            left.push(delivery);
        }
        for delivery in left {
            self.settle(delivery, Verdict::Unfinished).await;
        }
        finished
    }

    /// Begins with an event: downloads its objects first, if that is wanted.
    async fn take(&mut self, delivery: Delivery, drain: &CancellationToken) -> Result<(), Failure> {
        if self.downloads.is_none() {
            self.ready.push_back(delivery);
            return Ok(());
        }

        let mut taken = vec![delivery];
        let (outcomes, ended) = self.download(&mut taken, drain).await;
        let is_interrupted = ended.is_err() || drain.is_cancelled();
        for mut delivery in taken {
            let verdict = apply(&mut delivery, &outcomes, self.folder());
            match (verdict, self.runner.is_some()) {
                (Verdict::Done, true) => self.ready.push_back(delivery),
                (Verdict::Unfinished, _) if !is_interrupted => {
                    self.settle(delivery, Verdict::Failed("the download ended without a result".to_owned())).await;
                }
                (verdict, _) => self.settle(delivery, verdict).await,
            }
        }
        ended
    }

    fn folder(&self) -> &std::path::Path {
        self.downloads.as_ref().map_or(std::path::Path::new(""), |downloads| &downloads.folder)
    }

    /// Downloads the objects of events. A failure that passes, such as that of the relay, is waited out.
    async fn download(
        &mut self,
        taken: &mut Vec<Delivery>,
        drain: &CancellationToken,
    ) -> (HashMap<String, Outcome>, Result<(), Failure>) {
        let Some(downloads) = &self.downloads else { return (HashMap::new(), Ok(())) };
        let mut pause = PAUSE_MIN;
        loop {
            let (outcomes, done) = downloads.session(taken, &mut self.waiting, drain.child_token()).await;
            match done {
                Ok(()) | Err(Error::Cancelled) => return (outcomes, Ok(())),
                Err(error) if error.is_retryable() => {
                    self.reporter.waits(&tree::message(&error), pause);
                    tokio::select! {
                        () = sleep(pause) => {}
                        () = drain.cancelled() => return (HashMap::new(), Ok(())),
                    }
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                Err(error) => return (HashMap::new(), Err(error.into())),
            }
        }
    }

    /// Starts as many commands as may run, or ends the events if there is no command.
    async fn start_ready(&mut self) {
        while self.running.len() < self.jobs
            && let Some(delivery) = self.ready.pop_front()
        {
            let Some(runner) = self.runner.clone() else {
                self.settle(delivery, Verdict::Done).await;
                continue;
            };
            self.running.spawn(async move {
                let mut ran = Ok(());
                for object in &delivery.objects {
                    ran = runner.run(object).await;
                    if ran.is_err() {
                        break;
                    }
                }
                (delivery, ran)
            });
        }
    }

    /// Handles the end of an event's commands.
    async fn ran(
        &mut self,
        done: Result<(Delivery, Result<(), Failed>), tokio::task::JoinError>,
    ) -> Result<(), Failure> {
        let (delivery, ran) =
            done.map_err(|error| Failure::new(Exit::Failed, format!("a task ended unexpectedly: {error}")))?;
        match ran {
            Ok(()) => self.settle(delivery, Verdict::Done).await,
            Err(Failed::Ended(why)) => self.settle(delivery, Verdict::Failed(why)).await,
            Err(Failed::Unusable(why)) => {
                self.settle(delivery, Verdict::Unfinished).await;
                return Err(Failure::usage(format!("{why}: correct the command")));
            }
        }
        Ok(())
    }

    /// Acknowledges an event, or arranges that it is handled again.
    async fn settle(&mut self, delivery: Delivery, verdict: Verdict) {
        if let Some(receipt) = &delivery.receipt {
            self.held.remove(receipt);
        }
        let ack = match verdict {
            Verdict::Done => {
                self.reporter.done(&delivery, self.runner.is_some());
                Ack::Done
            }
            Verdict::Unfinished => Ack::Again(Duration::ZERO),
            Verdict::Failed(why) if delivery.attempt >= self.attempts_max => {
                self.reporter.failed(&delivery, &why, None);
                Ack::Never
            }
            Verdict::Failed(why) => {
                let pause = pause_after(delivery.attempt);
                if delivery.receipt.is_none() {
                    return self.retry_here(delivery, &why, pause);
                }
                self.reporter.failed(&delivery, &why, Some(pause));
                Ack::Again(pause)
            }
        };
        if let Some(receipt) = &delivery.receipt {
            ack.send(&*self.bus, receipt).await;
        }
    }

    /// Keeps a failed event for another attempt, if there is room.
    fn retry_here(&self, delivery: Delivery, why: &str, pause: Duration) {
        let Ok(permit) = Arc::clone(&self.retries).try_acquire_owned() else {
            return self.reporter.failed(&delivery, why, None);
        };
        self.reporter.failed(&delivery, why, Some(pause));

        let again = self.again.clone();
        let due = Instant::now() + pause;
        tokio::spawn(async move {
            sleep_until(due).await;
            // If nobody receives it, the command is ending.
            drop(again.send(Delivery { attempt: delivery.attempt + 1, ..delivery }).await);
            drop(permit);
        });
    }
}

/// Applies the outcomes to an event: notes the files of its objects, and removes those that can't have one.
fn apply(delivery: &mut Delivery, outcomes: &HashMap<String, Outcome>, folder: &std::path::Path) -> Verdict {
    let mut verdict = Verdict::Done;
    delivery.objects.retain_mut(|object| {
        match outcomes.get(object.key.as_str()) {
            Some(Outcome::Fetched(path)) => object.file = Some(folder.join(path)),
            Some(Outcome::LeftOut) => return false,
            Some(Outcome::Failed(why)) if verdict == Verdict::Done => verdict = Verdict::Failed(why.clone()),
            Some(Outcome::Failed(_)) => {}
            None => verdict = Verdict::Unfinished,
        }
        true
    });
    verdict
}

/// Returns the pause after a failed attempt, counted from 1.
fn pause_after(attempt: u64) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX).min(10);
    (PAUSE_MIN * 2u32.pow(doublings)).min(PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::super::object::Object;
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute() {
        let pauses = [1, 2, 3, 6, 7, 100, u64::MAX].map(|attempt| pause_after(attempt).as_secs());
        assert_eq!(pauses, [1, 2, 4, 32, 60, 60, 60]);
    }

    #[test]
    fn an_event_is_done_once_all_of_its_objects_are() {
        let object = |key: &str| Object {
            store: "s".parse().unwrap(),
            key: key.parse().unwrap(),
            cut: 0,
            size: None,
            etag: None,
            event: String::new(),
            file: None,
        };
        let outcomes = HashMap::from([
            ("done".to_owned(), Outcome::Fetched("path".to_owned())),
            ("out".to_owned(), Outcome::LeftOut),
            ("failed".to_owned(), Outcome::Failed("why".to_owned())),
        ]);
        for (keys, expected) in [
            (&["done", "out"][..], Verdict::Done),
            (&["done", "failed"], Verdict::Failed("why".to_owned())),
            (&["failed", "missing"], Verdict::Unfinished),
        ] {
            let objects = keys.iter().map(|key| object(key)).collect();
            let mut delivery = Delivery { objects, attempt: 1, receipt: None };
            assert_eq!(apply(&mut delivery, &outcomes, "folder".as_ref()), expected, "{keys:?}");
            if expected == Verdict::Done {
                assert_eq!(delivery.objects.len(), 1, "what was left out gets no command");
                assert_eq!(delivery.objects[0].file.as_deref(), Some("folder/path".as_ref()));
            }
        }
    }
}
