//! `gantry watch`: downloads each new object that a store announces, or runs a command for it.

mod command;
mod core;
mod delivery;
mod event;
mod fetch;
mod jetstream;
mod notes;
mod object;
mod report;
mod wanted;
mod work;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::command::Runner;
use self::delivery::Reader;
use self::fetch::{Downloads, Waiting};
use self::jetstream::Consumer;
use self::notes::Notes;
use self::report::Reporter;
use self::wanted::Wanted;
use self::work::{Held, Worker};
use super::address::Rate;
use super::exit::{Exit, Failure};
use super::output::Form;
use super::select::{Address, Selection};
use gantry_bus::Bus;
use gantry_bus::rate::RateLimit;
use gantry_client::tree::{Names, TreeOptions};
use gantry_client::{self as consumer, Client, part};
use gantry_proto::StoreName;
use gantry_relay::shutdown::Shutdown;

const ABOUT: &str = "Download each new object that a store announces, or run a command for it

The store's server publishes an event message for each object to a NATS subject: MinIO by itself, others through a small \
program. Messages in the form of S3 (also in that of SNS and EventBridge) and of SeaweedFS's webhooks are understood.

With -o, objects are downloaded into the folder, by the rules of gantry get -r. With a command after --, it is run for each \
object once that is downloaded. An argument {} of the command is replaced by the address, and the environment has \
OBJECT_ADDRESS, OBJECT_STORE, OBJECT_KEY, OBJECT_FILE (with -o), OBJECT_SIZE, OBJECT_ETAG and OBJECT_EVENT.

Events that are published while nobody listens are lost, unless a JetStream stream stores the subject. With --durable, \
events are read from that stream, and acknowledged after the download and the command have succeeded. The next run with \
the same name continues there. An event can be handled more than once.

A failed download or command is repeated after 1, 2, 4 seconds and so on, up to --attempts times. The first Ctrl-C lets \
running commands end, and the second one kills them.";

/// Download each new object that a store announces, or run a command for it
#[derive(Args, Clone, Debug)]
#[command(about = "Download each new object that a store announces, or run a command for it", long_about = ABOUT)]
pub(super) struct Watch {
    #[arg(value_name = "SUBJECT", help = "NATS subject of the event messages; * and > match as in NATS")]
    subject: String,
    #[arg(
        value_name = "STORE[/PREFIX]",
        help = "The store, and which of its keys: their beginning, or a pattern such as 'files/**/*.bin'"
    )]
    address: Address,
    #[arg(short, long, value_name = "DIR", help = "Download the objects into this folder")]
    output: Option<PathBuf>,
    #[arg(last = true, value_name = "COMMAND", help = "Command to run for each object; an argument {} is its address")]
    command: Vec<OsString>,
    #[arg(long, value_name = "NAME", help = "Handle the events of this bucket only")]
    bucket: Option<String>,
    #[arg(
        long,
        value_name = "PREFIX",
        default_value = "",
        hide_default_value = true,
        help = "Beginning of the keys in the bucket that the store's keys do not have: FOLDER/ for a store at s3://BUCKET/FOLDER"
    )]
    strip: String,
    #[arg(long, value_name = "NAME", value_parser = token, help = "Continue where the consumer of this name stopped, with JetStream")]
    durable: Option<String>,
    #[arg(
        long,
        value_name = "NAME",
        value_parser = token,
        requires = "durable",
        help = "Stream with the events [default: the one that stores SUBJECT]"
    )]
    stream: Option<String>,
    #[arg(
        long,
        requires = "durable",
        help = "Begin with the next event instead of the oldest in the stream, if the consumer is new"
    )]
    new: bool,
    #[arg(
        long,
        value_name = "COUNT",
        help = "Number of downloads, or of commands, that run at the same time [default: 32 downloads, 1 command]",
        value_parser = clap::value_parser!(u16).range(1..=1000)
    )]
    jobs: Option<u16>,
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 5,
        help = "How often a download or command is tried",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    attempts: u64,
    #[arg(long, help = "Take the characters * ? [ { in the address literally")]
    no_glob: bool,
    #[arg(long, help = "Do not give files the times of their objects")]
    no_times: bool,
    #[arg(
        long,
        help = "Keep names that only other systems can't hold, such as a:b, instead of spelling them differently"
    )]
    native_names: bool,
    #[arg(long, value_name = "RATE", help = "Maximum bytes per second, such as 500K, 10M or 1.5MiB")]
    limit_rate: Option<Rate>,
    #[arg(long, help = "Print one JSON object per event on stdout")]
    json: bool,
    #[arg(short, long, help = "Print nothing but failures")]
    quiet: bool,
}

/// Parses the name of a stream or consumer, which is one token of the subjects of its requests.
fn token(text: &str) -> Result<String, String> {
    let is_valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if text.is_empty() || text.len() > 255 || !text.chars().all(is_valid) {
        return Err("must consist of letters, digits, - and _".to_owned());
    }
    Ok(text.to_owned())
}

/// How long to wait for messages that are to be returned to the server.
const RETURN_WITHIN: Duration = Duration::from_secs(2);

/// Passes events on.
struct Feed {
    task: JoinHandle<Result<(), Failure>>,
    cancel: CancellationToken,
    /// Where the events come from, for people.
    source: String,
}

impl Watch {
    pub(super) const fn form(&self) -> Form {
        if self.json { Form::Json } else { Form::Text }
    }

    pub(super) fn rate_limit(&self) -> Option<RateLimit> {
        self.limit_rate.map(|Rate(bytes_per_s)| RateLimit::new(bytes_per_s))
    }

    pub(super) fn store(&self) -> StoreName {
        self.address.store().clone()
    }

    /// Checks that there is something to do, before anything is connected.
    pub(super) fn check(&self) -> Result<(), Failure> {
        if self.output.is_none() && self.command.is_empty() {
            return Err(Failure::usage("nothing to do: add -o with a folder, or a command after --"));
        }
        Selection::of(&self.address, true, self.no_glob).map(drop)
    }

    pub(super) async fn run(self, client: Client, bus: Arc<dyn Bus>, shutdown: &Shutdown) -> Result<(), Failure> {
        if let Some(Err(error @ part::Error::ForeignLink { .. })) = self.output.as_deref().map(part::destination) {
            return Err(consumer::Error::from(error).into());
        }

        let held = Arc::new(Held::default());
        let notes = Arc::new(Notes::default());
        let reporter = Arc::new(Reporter::new(self.json, self.quiet));
        let room = if self.durable.is_some() { jetstream::WAITING_MAX } else { core::WAITING_MAX };
        let (sender, events) = mpsc::channel(room);

        let feed = tokio::select! {
            feed = self.feed(&bus, sender.clone(), &held, &notes) => feed?,
            () = shutdown.drain.cancelled() => return Err(Failure::interrupted()),
        };
        reporter.began(&format!("watching {} for new objects of {}", feed.source, self.address));
        let keep = tokio::spawn(Arc::clone(&held).keep(Arc::clone(&bus), jetstream::WORKING_INTERVAL));

        let mut worker = Worker {
            bus: Arc::clone(&bus),
            waiting: Waiting { events, set_aside: None },
            again: sender,
            downloads: self.downloads(&client, &reporter),
            runner: Runner::new(self.command.clone()),
            jobs: usize::from(self.jobs.unwrap_or(1)),
            attempts_max: self.attempts,
            held,
            reporter: Arc::clone(&reporter),
            retries: Worker::retries(),
            ready: VecDeque::new(),
            running: JoinSet::new(),
        };
        let done = drive(feed, &mut worker, &shutdown.drain).await;
        // A task that outlived the connection would make its end look like a loss.
        keep.abort();
        drop(keep.await);

        let (skipped, dropped) = notes.counts();
        reporter.ended(self.output.is_some(), skipped, dropped);
        done
    }

    /// Starts to receive events.
    async fn feed(
        &self,
        bus: &Arc<dyn Bus>,
        sender: mpsc::Sender<delivery::Delivery>,
        held: &Arc<Held>,
        notes: &Arc<Notes>,
    ) -> Result<Feed, Failure> {
        let wanted = Arc::new(Wanted {
            store: self.store(),
            selection: Selection::of(&self.address, true, self.no_glob)?,
            bucket: self.bucket.clone(),
            strip: self.strip.clone(),
            skips_folders: self.output.is_some(),
        });
        let reader = Reader { subject: self.subject.clone(), wanted, notes: Arc::clone(notes) };
        let cancel = CancellationToken::new();

        let Some(durable) = self.durable.clone() else {
            let messages = core::subscribe(&**bus, &self.subject).await?;
            let listening = core::listen(Arc::clone(bus), messages, reader, sender);
            let stopped = cancel.clone();
            let task = tokio::spawn(async move {
                tokio::select! {
                    ended = listening => ended,
                    () = stopped.cancelled() => Ok(()),
                }
            });
            return Ok(Feed { task, cancel, source: self.subject.clone() });
        };
        let consumer =
            Consumer::open(bus, &self.subject, self.stream.clone(), durable, self.new, Arc::clone(held)).await?;
        let source = format!("{} with {consumer}", self.subject);
        let task = tokio::spawn(consumer.pull(reader, sender, cancel.clone()));
        Ok(Feed { task, cancel, source })
    }

    fn downloads(&self, client: &Client, reporter: &Arc<Reporter>) -> Option<Downloads> {
        let folder = self.output.clone()?;
        let mut options = TreeOptions::default().keep_times(!self.no_times).names(if self.native_names {
            Names::Native
        } else {
            Names::Portable
        });
        if let Some(jobs) = self.jobs {
            options = options.jobs(usize::from(jobs));
        }
        Some(Downloads { client: client.clone(), folder, options, reporter: Arc::clone(reporter) })
    }
}

/// Handles events until a signal or a failure, and returns to the server what is not handled.
async fn drive(mut feed: Feed, worker: &mut Worker, drain: &CancellationToken) -> Result<(), Failure> {
    // A failure of the feed interrupts downloads as a signal does.
    let stop = drain.child_token();
    let mut fed = None;
    let worked = {
        let mut working = std::pin::pin!(worker.run(&stop));
        tokio::select! {
            worked = &mut working => worked,
            ended = &mut feed.task => {
                fed = Some(ended);
                stop.cancel();
                working.await
            }
        }
    };

    feed.cancel.cancel();
    if fed.is_none() {
        fed = timeout(RETURN_WITHIN, &mut feed.task).await.ok();
        feed.task.abort();
    }
    let finished = worker.finish().await;
    // What can't be sent any more is delivered again later.
    drop(timeout(RETURN_WITHIN, worker.bus.flush()).await);

    let fed = match fed {
        Some(Ok(fed)) => fed,
        Some(Err(error)) => Err(Failure::new(Exit::Failed, format!("a task ended unexpectedly: {error}"))),
        None => Ok(()),
    };
    worked.and(finished).and(fed)?;
    Err(Failure::interrupted())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_streams_and_consumers_are_single_tokens() {
        for name in ["EVENTS", "edge-7", "a_b"] {
            assert_eq!(token(name).as_deref(), Ok(name));
        }
        for name in ["", "a.b", "a b", "*", ">", "a/b"] {
            assert!(token(name).is_err(), "{name:?}");
        }
    }
}
