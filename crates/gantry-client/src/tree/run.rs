//! The download of a tree, from the first object to the last sync.

use std::collections::VecDeque;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::commit::{BATCH_FILES_MAX, Committer, Staged};
use super::fetch::Fetcher;
use super::folder::Folder;
use super::item::Item;
use super::name::STAGE;
use super::options::TreeOptions;
use super::plan::{Plan, Planner};
use super::prune::Prune;
use super::report::{Event, Reporter, TreeReport};
use super::stage::{Refused, Stage};
use crate::client::Client;
use crate::error::Error;
use crate::part;

/// The number of objects that are planned at once, at most as many as a page of a listing has. The next page is planned
/// while fewer are waiting, so that the listing keeps ahead of the fetches and its end is known early.
const PLANNED_MAX: usize = 1000;

/// The name of the file in the stage that lists the files to delete.
const DELETIONS: &str = "deletions";

impl Client {
    /// Downloads many objects into a folder, and returns once all files are verified and durable.
    ///
    /// The folder is created if it is missing. Objects whose files are up to date are not fetched. `events` is called for
    /// each object, from any thread, and should return soon. [`tree`](crate::tree) describes the rules.
    ///
    /// # Errors
    /// An object that can't be downloaded is reported and counted, and does not end the download. These do:
    /// - The errors of [`Self::download`] that other objects would share: [`Error::NoRelay`], [`Error::NoStore`],
    ///   [`Error::GaveUp`], [`Error::NotPermitted`], [`Error::Bus`], and [`Error::Part`] if the folder can't be written.
    ///   Retryable as there.
    /// - The first error of `items`. The objects before it are downloaded.
    /// - [`Error::Cancelled`] after [`TreeOptions::cancel`].
    ///
    /// # Cancel safety
    /// Dropping the future cancels the transfers, and keeps most of what was fetched for the next download.
    /// [`TreeOptions::cancel`] keeps all of it, and moves complete files to their places.
    pub async fn download_tree(
        &self,
        items: impl Stream<Item = Result<Item, Error>> + Send,
        folder: &Path,
        options: TreeOptions,
        events: impl Fn(Event) + Send + Sync + 'static,
    ) -> Result<TreeReport, Error> {
        run(self, items, folder, options, events).await
    }
}

async fn run(
    client: &Client,
    items: impl Stream<Item = Result<Item, Error>> + Send,
    target: &Path,
    options: TreeOptions,
    events: impl Fn(Event) + Send + Sync + 'static,
) -> Result<TreeReport, Error> {
    let reporter = Reporter::new(options.progress.clone(), events);
    let opened = open(target.to_owned(), options.clone(), reporter.clone()).await?;
    let Opened { folder, stage, planner } = opened;

    // The first failure that the other objects would share cancels this token, too.
    let cancel = options.cancel.child_token();
    let fetcher = Arc::new(Fetcher {
        client: client.clone(),
        options: options.clone(),
        reporter: reporter.clone(),
        cancel: cancel.clone(),
        folder: folder.clone(),
        stage: stage.clone(),
    });

    let (staged, to_commit) = mpsc::channel(BATCH_FILES_MAX);
    let committing = commit(folder.clone(), stage.clone(), reporter.clone(), to_commit, cancel.clone());
    let tree = Tree { fetcher, planner: Some(planner), jobs: JoinSet::new(), ready: VecDeque::new(), staged };
    let fetched = tree.fetch(items).await;

    // Fetched files are moved to their places, whatever happened to the rest.
    let committed = committing.await.unwrap_or(Err(Error::Cancelled));
    let ended = match (committed, fetched) {
        (Err(error), _) | (Ok(()), Err(error)) => Err(error),
        (Ok(()), Ok(_)) if options.cancel.is_cancelled() => Err(Error::Cancelled),
        (Ok(()), Ok(planner)) => Ok(planner),
    };
    let planner = match ended {
        Ok(planner) => planner,
        Err(error) => {
            blocking(move || Ok(leave(folder, stage))).await?;
            return Err(error);
        }
    };

    let failed = reporter.so_far().failed;
    blocking(move || finish(planner, folder, stage, failed)).await?;
    Ok(reporter.so_far())
}

struct Opened {
    folder: Option<Arc<Folder>>,
    stage: Option<Arc<Stage>>,
    planner: Planner,
}

async fn open(target: std::path::PathBuf, options: TreeOptions, reporter: Reporter) -> Result<Opened, Error> {
    blocking(move || {
        let failed = |error| Error::from(part::Error::io(&target, error));
        if options.dry_run {
            let folder = match Folder::open(&target) {
                Ok(folder) => Some(Arc::new(folder)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                Err(error) => return Err(failed(error)),
            };
            let prune = folder.clone().filter(|_| options.delete);
            let prune = prune.map(|folder| Prune::new(folder, options.names, reporter.clone(), None));
            let planner = Planner::new(folder.clone(), options, reporter, false, prune);
            return Ok(Opened { folder, stage: None, planner });
        }

        let folder = Arc::new(Folder::create(&target).map_err(failed)?);
        let stage = Stage::open(&folder, part::boot_id()).map_err(|refused| match refused {
            Refused::InUse => part::Error::InUse(target.clone()).into(),
            Refused::Foreign(uid) => {
                let why = part::Distrust::Foreign { uid };
                Error::from(part::Error::Untrusted { path: target.join(STAGE), why })
            }
            Refused::Io(error) => part::Error::io(&target.join(STAGE), error).into(),
        })?;
        if stage.syncs_each() {
            folder.sync_each();
        }

        let ignores_case = stage.ignores_case().map_err(failed)?;
        let prune = if options.delete {
            let deletions = stage.scratch(DELETIONS).map_err(failed)?;
            Some(Prune::new(Arc::clone(&folder), options.names, reporter.clone(), Some(deletions)))
        } else {
            None
        };
        let planner = Planner::new(Some(Arc::clone(&folder)), options, reporter, ignores_case, prune);
        Ok(Opened { folder: Some(folder), stage: Some(Arc::new(stage)), planner })
    })
    .await
}

/// Commits files in a task of its own. Cancels the fetches if that fails.
fn commit(
    folder: Option<Arc<Folder>>,
    stage: Option<Arc<Stage>>,
    reporter: Reporter,
    staged: mpsc::Receiver<Staged>,
    cancel: CancellationToken,
) -> JoinHandle<Result<(), Error>> {
    tokio::spawn(async move {
        let (Some(folder), Some(stage)) = (folder, stage) else { return Ok(()) };
        let committed = Committer { folder, stage, reporter }.run(staged).await;
        if committed.is_err() {
            cancel.cancel();
        }
        committed
    })
}

/// Deletes files without an object, and removes the stage. Blocks.
fn finish(planner: Planner, folder: Option<Arc<Folder>>, stage: Option<Arc<Stage>>, failed: u64) -> Result<(), Error> {
    // As in rclone: a run with failures deletes nothing.
    if let Some(prune) = planner.prune.filter(|_| failed == 0) {
        prune.finish()?;
    }
    let (Some(folder), Some(stage)) = (folder, stage) else { return Ok(()) };
    let Some(stage) = Arc::into_inner(stage) else { return Ok(()) };

    let shown = |error| Error::from(part::Error::io(&folder.path().join(STAGE), error));
    stage.sync_names().map_err(shown)?;
    stage.dispose(&folder).map_err(shown)
}

/// Removes the stage and the target folder if an unsuccessful run has made them for nothing. Blocks.
fn leave(folder: Option<Arc<Folder>>, stage: Option<Arc<Stage>>) {
    let (Some(folder), Some(stage)) = (folder, stage.and_then(Arc::into_inner)) else { return };
    match stage.dispose_if_unused(&folder, DELETIONS) {
        Ok(true) => folder.remove_new(),
        Ok(false) => {}
        Err(error) => tracing::debug!(%error, "the hidden folder stays"),
    }
}

/// The objects between their listing and their commit.
struct Tree {
    fetcher: Arc<Fetcher>,
    /// `None` while a page is being planned.
    planner: Option<Planner>,
    jobs: JoinSet<Result<(), Error>>,
    ready: VecDeque<Plan>,
    staged: mpsc::Sender<Staged>,
}

impl Tree {
    /// Plans and fetches all objects. Returns only after all running fetches have ended.
    async fn fetch(mut self, items: impl Stream<Item = Result<Item, Error>> + Send) -> Result<Planner, Error> {
        let mut outcome = self.drive(items).await;
        if outcome.is_err() {
            self.fetcher.cancel.cancel();
        }

        while let Some(done) = self.jobs.join_next().await {
            let done = done.unwrap_or(Err(Error::Cancelled));
            if let Err(error) = done
                && outcome.is_ok()
            {
                self.fetcher.cancel.cancel();
                outcome = Err(error);
            }
        }

        outcome?;
        self.planner.take().ok_or(Error::Cancelled)
    }

    async fn drive(&mut self, items: impl Stream<Item = Result<Item, Error>> + Send) -> Result<(), Error> {
        let cancel = self.fetcher.cancel.clone();
        let mut pages = pin!(items.ready_chunks(PLANNED_MAX));
        let mut listed: Result<bool, Error> = Ok(false);
        loop {
            self.start_ready();
            let is_listed = !matches!(listed, Ok(false));
            if is_listed && self.ready.is_empty() {
                // A failed listing does not stop the fetches of objects that were already listed.
                while let Some(done) = self.jobs.join_next().await {
                    done.unwrap_or(Err(Error::Cancelled))?;
                }
                return listed.map(drop);
            }

            tokio::select! {
                () = cancel.cancelled() => return Err(Error::Cancelled),
                Some(done) = self.jobs.join_next() => done.unwrap_or(Err(Error::Cancelled))?,
                page = pages.next(), if !is_listed && self.ready.len() < PLANNED_MAX => listed = match page {
                    None => {
                        self.fetcher.reporter.progress(|progress| progress.is_listed = true);
                        Ok(true)
                    }
                    Some(page) => self.plan(page).await.map(|()| false),
                },
            }
        }
    }

    /// Plans a page of objects. The first error ends the page; the objects before it are planned.
    async fn plan(&mut self, page: Vec<Result<Item, Error>>) -> Result<(), Error> {
        let Some(mut planner) = self.planner.take() else { return Err(Error::Cancelled) };
        self.fetcher.reporter.found(page.iter().filter(|item| item.is_ok()).count() as u64);

        let planning = spawn_blocking(move || {
            let mut plans = VecDeque::new();
            let mut planned = Ok(());
            for item in page {
                match item.and_then(|item| planner.plan(item)) {
                    Ok(plan) => plans.extend(plan),
                    Err(error) => {
                        planned = Err(error);
                        break;
                    }
                }
            }
            (planner, plans, planned)
        });
        let Ok((planner, plans, planned)) = planning.await else { return Err(Error::Cancelled) };

        self.planner = Some(planner);
        self.ready.extend(plans);
        planned
    }

    /// Starts as many fetches as may run at the same time.
    fn start_ready(&mut self) {
        while self.jobs.len() < self.fetcher.options.jobs.max(1)
            && let Some(plan) = self.ready.pop_front()
        {
            let fetcher = Arc::clone(&self.fetcher);
            let staged = self.staged.clone();
            self.jobs.spawn(async move {
                match Box::pin(fetcher.run(plan)).await? {
                    // If the committer is gone, its error is the one that counts.
                    Some(file) => staged.send(file).await.map_err(|_| Error::Cancelled),
                    None => Ok(()),
                }
            });
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    spawn_blocking(work).await.unwrap_or(Err(Error::Cancelled))
}
