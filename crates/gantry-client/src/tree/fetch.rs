//! Fetches one object of a tree into the stage.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use gantry_proto::{Checksum, Get, ObjectInfo, Pin};

use super::commit::Staged;
use super::folder::{Folder, Found};
use super::item::Item;
use super::name::{RelativePath, STAGE};
use super::options::{Compare, TreeOptions};
use super::plan::{Plan, is_unchanged};
use super::report::{Event, Reporter};
use super::stage::Stage;
use super::time::Modified;
use crate::client::Client;
use crate::error::Error;
use crate::file::FileOptions;
use crate::part;
use crate::progress::Progress;
use crate::verify::{Proof, Verifier};

/// The largest object that is collected in memory, in bytes. A larger one is written as it arrives, and can be resumed.
const IN_MEMORY_MAX_BYTES: u64 = 1024 * 1024;

/// The number of bytes of a file to read at a time for its checksum.
const READ_BYTES: usize = 256 * 1024;

/// The state that all fetches of a tree share.
#[derive(Debug)]
pub(super) struct Fetcher {
    pub(super) client: Client,
    pub(super) options: TreeOptions,
    pub(super) reporter: Reporter,
    pub(super) cancel: CancellationToken,
    /// `None` if nothing is written and the folder is missing.
    pub(super) folder: Option<Arc<Folder>>,
    /// `None` if nothing is written.
    pub(super) stage: Option<Arc<Stage>>,
}

/// A fetched object in the stage.
struct Arrived {
    /// The name in the stage.
    name: String,
    object: ObjectInfo,
    proof: Proof,
}

impl Fetcher {
    /// Fetches an object, and reports what happened to it.
    ///
    /// # Errors
    /// If the reason does not concern this object only, so that others would fail as well.
    pub(super) async fn run(&self, mut plan: Plan) -> Result<Option<Staged>, Error> {
        let fetched = self.fetch(&mut plan).await;
        match fetched {
            Ok(staged) => Ok(staged),
            Err(error) if is_fatal(&error) => Err(error),
            Err(error) => {
                let Item { store, key, .. } = plan.item;
                self.reporter.report(Event::Failed { store, key, error });
                Ok(None)
            }
        }
    }

    async fn fetch(&self, plan: &mut Plan) -> Result<Option<Staged>, Error> {
        if let Some(found) = plan.found.filter(|_| plan.is_uncertain) {
            let pin = Pin::default();
            let described = self.client.stat(&plan.item.store, &plan.item.key, &pin);
            let object = unless_cancelled(&self.cancel, described).await?;
            if self.is_up_to_date(plan, &found, &object).await? {
                self.report_unchanged(plan);
                return Ok(None);
            }
        }

        let (store, key) = (plan.item.store.clone(), plan.item.key.clone());
        let path = plan.path.as_str().to_owned();
        if plan.is_renamed {
            self.reporter.report(Event::Renamed { store: store.clone(), key: key.clone(), path: path.clone() });
        }
        let Some(stage) = &self.stage else {
            let replaces = plan.found.is_some();
            self.reporter.report(Event::WouldFetch { store, key, path, bytes: plan.item.size, replaces });
            return Ok(None);
        };

        if let Some(staged) = self.take_kept(plan, stage).await? {
            return Ok(Some(staged));
        }
        let arrived = match self.attempt(plan, stage).await {
            Err(Error::Changed(reason)) => {
                self.report_changed(&plan.item, reason);
                self.attempt(plan, stage).await?
            }
            arrived => arrived?,
        };
        self.stage(plan, stage, arrived).await.map(Some)
    }

    /// Returns whether a file is a copy of the object, by the object's current description.
    async fn is_up_to_date(&self, plan: &Plan, found: &Found, object: &ObjectInfo) -> Result<bool, Error> {
        if self.options.compare == Compare::Times {
            let item = Item {
                size: Some(object.size),
                last_modified: object.last_modified.clone(),
                ..Item::new(plan.item.store.clone(), plan.item.key.clone(), plan.item.cut)
            };
            return Ok(is_unchanged(&item, found, self.options.keep_times));
        }

        let (Some(checksum), Some(folder)) = (&object.checksum, &self.folder) else { return Ok(false) };
        if object.size != found.len {
            return Ok(false);
        }
        let (checksum, folder, path) = (checksum.clone(), Arc::clone(folder), plan.path.clone());
        let modified = self.modified(object, None).filter(|time| !time.matches(found.modified));
        let modified = modified.filter(|_| !self.options.dry_run);
        let size = object.size;
        let check = spawn_blocking(move || matches_checksum(&folder, &path, &checksum, size, modified));
        unless_cancelled(&self.cancel, async { check.await.unwrap_or(Err(Error::Cancelled)) }).await
    }

    /// Uses the file that an earlier process has fetched.
    async fn take_kept(&self, plan: &Plan, stage: &Arc<Stage>) -> Result<Option<Staged>, Error> {
        let (Some(name), Some(size)) = (stage.complete_name(&plan.item), plan.item.size) else { return Ok(None) };
        if !stage.has(&name, size) {
            return Ok(None);
        }

        let modified = plan.item.last_modified.as_deref().and_then(Modified::parse);
        let modified = modified.filter(|_| self.options.keep_times);
        let mode = plan.found.map(|found| found.mode);
        self.with_stage(stage, {
            let name = name.clone();
            move |stage| stage.finish(&name, modified, mode)
        })
        .await?;

        self.reporter.progress(|progress| progress.done_bytes += size);
        Ok(Some(staged(plan, name, size, None)))
    }

    /// Fetches the object without retrying.
    async fn attempt(&self, plan: &Plan, stage: &Arc<Stage>) -> Result<Arrived, Error> {
        let is_large = plan.item.size.is_some_and(|size| size > IN_MEMORY_MAX_BYTES);
        if !is_large && let Some(arrived) = self.in_memory(plan, stage).await? {
            return Ok(arrived);
        }
        self.to_file(plan, stage).await
    }

    fn get(&self, plan: &Plan) -> Get {
        let mut get = plan.item.get();
        get.context.clone_from(&self.options.correlation);
        get
    }

    /// Fetches an object into memory, and then writes it. Returns `None` if it is too large for that.
    async fn in_memory(&self, plan: &Plan, stage: &Arc<Stage>) -> Result<Option<Arrived>, Error> {
        let mut download = unless_cancelled(&self.cancel, self.client.get(self.get(plan))).await?;
        let object = download.object().clone();
        if object.size > IN_MEMORY_MAX_BYTES {
            download.stop().await;
            return Ok(None);
        }

        let mut pieces: Vec<Bytes> = Vec::new();
        while let Some(piece) = unless_cancelled(&self.cancel, download.try_next()).await? {
            self.reporter.progress(|progress| progress.done_bytes += piece.len() as u64);
            pieces.push(piece);
        }
        let proof = download.proof().unwrap_or(Proof::Transport);
        let recoveries = download.progress().borrow().recoveries;
        if recoveries > 0 {
            self.reporter.progress(|progress| progress.recoveries += recoveries);
        }

        let name = self.name_of(plan, stage, &object);
        let written = name.clone();
        self.with_stage(stage, move |stage| stage.write(&written, &pieces)).await?;
        Ok(Some(Arrived { name, object, proof }))
    }

    /// Downloads a large object to a file, or resumes it.
    async fn to_file(&self, plan: &Plan, stage: &Arc<Stage>) -> Result<Arrived, Error> {
        let unfinished = Stage::unfinished_name(&plan.item);
        let (progress, seen) = watch::channel(Progress::default());
        let options = FileOptions::default().progress(progress).cancel(self.cancel.clone());

        let path = stage.file(&unfinished);
        let download = self.client.download(self.get(plan), &path, options);
        let (report, ()) = tokio::join!(Box::pin(download), self.follow(seen));
        let shown = |error| shown(error, self.folder.as_deref(), &path, &plan.path);
        let report = report.map_err(shown)?;
        if let Some(reason) = report.restarted {
            self.report_changed(&plan.item, reason);
        }

        let mut object = ObjectInfo::new(plan.item.key.clone(), report.bytes, report.etag);
        object.version_id = report.version_id;
        object.last_modified = report.last_modified;
        let name = self.name_of(plan, stage, &object);
        if name != unfinished {
            let renamed = name.clone();
            self.with_stage(stage, move |stage| stage.rename(&unfinished, &renamed)).await?;
        }
        Ok(Arrived { name, object, proof: report.proof })
    }

    /// Adds the progress of a download to that of the tree.
    async fn follow(&self, mut seen: watch::Receiver<Progress>) {
        let mut last = Progress::default();
        while seen.changed().await.is_ok() {
            let now = seen.borrow_and_update().clone();
            let bytes = now.written.saturating_sub(last.written);
            let recoveries = now.recoveries.saturating_sub(last.recoveries);
            self.reporter.progress(|progress| {
                progress.done_bytes += bytes;
                progress.recoveries += recoveries;
            });
            last = now;
        }
    }

    /// Prepares a fetched file for its place.
    async fn stage(&self, plan: &Plan, stage: &Arc<Stage>, arrived: Arrived) -> Result<Staged, Error> {
        let Arrived { name, object, proof } = arrived;
        if is_other_version(&plan.item, &object) {
            self.report_changed(&plan.item, "it is not the version that was listed".to_owned());
        }

        let modified = self.modified(&object, Some(&plan.item));
        let mode = plan.found.map(|found| found.mode);
        let finished = name.clone();
        self.with_stage(stage, move |stage| stage.finish(&finished, modified, mode)).await?;
        Ok(staged(plan, name, object.size, Some(proof)))
    }

    /// Returns the time that the file of an object gets. For the listed version this is the listing's time, since a
    /// store may state times in different resolutions, and the next listing is compared with the file.
    fn modified(&self, object: &ObjectInfo, item: Option<&Item>) -> Option<Modified> {
        if !self.options.keep_times {
            return None;
        }
        let listed = item.filter(|item| !is_other_version(item, object)).and_then(|item| item.last_modified.as_deref());
        listed.or(object.last_modified.as_deref()).and_then(Modified::parse)
    }

    /// Returns the name of a complete file. If its version is not the listed one, another process does not use the
    /// file.
    fn name_of(&self, plan: &Plan, stage: &Stage, object: &ObjectInfo) -> String {
        let listed = stage.complete_name(&plan.item).filter(|_| !is_other_version(&plan.item, object));
        listed.unwrap_or_else(|| Stage::unfinished_name(&plan.item))
    }

    async fn with_stage(
        &self,
        stage: &Arc<Stage>,
        work: impl FnOnce(&Stage) -> std::io::Result<()> + Send + 'static,
    ) -> Result<(), Error> {
        let Some(folder) = self.folder.clone() else { return Err(Error::Cancelled) };
        let stage = Arc::clone(stage);
        let done = spawn_blocking(move || work(&stage).map_err(|error| stage.show(error, &folder)));
        Ok(done.await.unwrap_or(Err(part::Error::Stopped(PathBuf::new())))?)
    }

    fn report_unchanged(&self, plan: &Plan) {
        // It was counted as wanted before its description arrived.
        self.reporter.progress(|progress| {
            progress.wanted = progress.wanted.saturating_sub(1);
            progress.wanted_bytes = progress.wanted_bytes.saturating_sub(plan.item.size.unwrap_or(0));
        });
        let Item { store, key, .. } = plan.item.clone();
        self.reporter.report(Event::Unchanged { store, key, path: plan.path.as_str().to_owned() });
    }

    fn report_changed(&self, item: &Item, reason: String) {
        self.reporter.report(Event::Changed { store: item.store.clone(), key: item.key.clone(), reason });
    }
}

fn staged(plan: &Plan, name: String, bytes: u64, proof: Option<Proof>) -> Staged {
    let Item { store, key, .. } = plan.item.clone();
    Staged { store, key, name, path: plan.path.clone(), bytes, proof, replaced: plan.found.is_some() }
}

/// Returns whether an object is not the version that was listed. `ETag`s are compared without their quotes, which some
/// servers omit in one of the two places.
fn is_other_version(item: &Item, object: &ObjectInfo) -> bool {
    let is_other_etag =
        item.etag.as_deref().is_some_and(|etag| etag.trim_matches('"') != object.etag.trim_matches('"'));
    is_other_etag || item.size.is_some_and(|size| size != object.size)
}

/// Returns whether a file matches a checksum, and if so gives it `modified` as its time.
fn matches_checksum(
    folder: &Folder,
    path: &RelativePath,
    checksum: &Checksum,
    size: u64,
    modified: Option<Modified>,
) -> Result<bool, Error> {
    use std::io::Read as _;

    let failed = |error| folder.failed(path, error);
    let mut file = folder.open_file(path).map_err(failed)?;
    let mut verifier = Verifier::new(Some(checksum), size);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let len = file.read(&mut buffer).map_err(failed)?;
        if len == 0 {
            break;
        }
        verifier.update(&buffer[..len]);
    }

    let is_equal = matches!(verifier.finish(), Ok(Proof::FullObject { .. } | Proof::Composite { .. }));
    if is_equal && let Some(time) = modified.and_then(Modified::system_time) {
        file.set_modified(time).map_err(failed)?;
    }
    Ok(is_equal)
}

/// Returns whether the other objects would fail for the same reason.
fn is_fatal(error: &Error) -> bool {
    match error {
        Error::NoRelay { .. }
        | Error::NoStore { .. }
        | Error::StoreLeft(_)
        | Error::Unanswered { .. }
        | Error::NotPermitted { .. }
        | Error::GaveUp { .. }
        | Error::Bus(_)
        | Error::Cancelled => true,
        Error::Part(error) => !matches!(
            error,
            part::Error::InUse(_)
                | part::Error::Mismatch { .. }
                | part::Error::Removed { .. }
                | part::Error::Altered(_)
                | part::Error::Broken(_)
        ),
        Error::Address { .. } | Error::Refused(_) | Error::Changed(_) | Error::Mismatch(_) | Error::Malformed(_) => {
            false
        }
    }
}

/// Replaces the staged file in an error, whose name means nothing to the user: by the object's own place if the error
/// concerns that, and otherwise by the stage.
fn shown(mut error: Error, folder: Option<&Folder>, staged: &std::path::Path, path: &RelativePath) -> Error {
    let Error::Part(part) = &mut error else { return error };
    tracing::debug!(staged = %staged.display(), error = %part, "a download to this file failed");

    let concerns_place =
        matches!(part, part::Error::Mismatch { .. } | part::Error::InUse(_) | part::Error::TooLarge { .. });
    let place = match folder {
        Some(folder) if !concerns_place => folder.path().join(STAGE),
        _ => path.as_path().to_owned(),
    };
    for named in part.paths_mut().into_iter().filter(|named| named.parent() == staged.parent()) {
        named.clone_from(&place);
    }
    error
}

async fn unless_cancelled<T>(
    cancel: &CancellationToken,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::select! {
        done = work => done,
        () = cancel.cancelled() => Err(Error::Cancelled),
    }
}
