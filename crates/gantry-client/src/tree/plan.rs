//! Decides for each object, in order, whether it is fetched. All operations block, and none follows a link.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use super::folder::{Blocked, Failed, Folder, Found, Present};
use super::item::Item;
use super::name::{self, Files, Place, RelativePath, Unusable};
use super::options::{Compare, TreeOptions};
use super::prune::Prune;
use super::report::{Event, LeftOut, Reporter};
use super::time::Modified;
use crate::error::Error;

/// An object that needs requests.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) item: Item,
    pub(super) path: RelativePath,
    pub(super) is_renamed: bool,
    /// The existing file.
    pub(super) found: Option<Found>,
    /// Whether the object must be described first, since the file may be up to date.
    pub(super) is_uncertain: bool,
}

/// The state that is kept between objects.
#[derive(Debug)]
pub(super) struct Planner {
    folder: Option<Arc<Folder>>,
    options: TreeOptions,
    reporter: Reporter,
    files: Files,
    /// Finds duplicate paths, if there can be any.
    paths: Option<Paths>,
    pub(super) prune: Option<Prune>,
}

impl Planner {
    /// Plans for a folder, which may be missing if nothing is written.
    pub(super) fn new(
        folder: Option<Arc<Folder>>,
        options: TreeOptions,
        reporter: Reporter,
        ignores_case: bool,
        prune: Option<Prune>,
    ) -> Self {
        let paths = (ignores_case || !options.ordered).then(|| Paths { ignores_case, ..Paths::default() });
        Self { folder, options, reporter, files: Files::default(), paths, prune }
    }

    /// Returns the plan for an object, or `None` if there is nothing to do.
    ///
    /// # Errors
    /// If the files to delete can't be recorded.
    pub(super) fn plan(&mut self, item: Item) -> Result<Option<Plan>, Error> {
        if let Some(prune) = &mut self.prune {
            prune.keep(item.path_key())?;
        }
        // The key of the folder itself.
        if item.path_key().is_empty() {
            return Ok(None);
        }

        match self.decide(&item) {
            Ok(Decision::Done) => Ok(None),
            Ok(Decision::Unchanged(path)) => {
                let Item { store, key, .. } = item;
                self.reporter.report(Event::Unchanged { store, key, path: path.as_str().to_owned() });
                Ok(None)
            }
            Ok(Decision::Fetch(Place { path, is_renamed, .. }, found, is_uncertain)) => {
                self.reporter.progress(|progress| {
                    progress.wanted += 1;
                    progress.wanted_bytes += item.size.unwrap_or(0);
                });
                Ok(Some(Plan { item, path, is_renamed, found, is_uncertain }))
            }
            Err(Verdict::LeftOut(why)) => {
                let Item { store, key, .. } = item;
                self.reporter.report(Event::LeftOut { store, key, why });
                Ok(None)
            }
            Err(Verdict::Failed(error)) => {
                let Item { store, key, .. } = item;
                self.reporter.progress(|progress| progress.wanted += 1);
                self.reporter.report(Event::Failed { store, key, error });
                Ok(None)
            }
        }
    }

    fn decide(&mut self, item: &Item) -> Result<Decision, Verdict> {
        let key = item.path_key();
        let place = name::place(key, self.options.names)?;
        if place.is_folder {
            return self.make_folder(item, &place);
        }
        if let Some(file) = self.files.add(key) {
            return Err(Verdict::LeftOut(LeftOut::File(file.to_owned())));
        }
        if let Some(why) = self.paths.as_mut().and_then(|paths| paths.add(&place.path)) {
            return Err(Verdict::LeftOut(why));
        }

        let Some(folder) = &self.folder else { return Ok(Decision::Fetch(place, None, false)) };
        match folder.look(&place.path).map_err(|error| folder.failed(&place.path, error))? {
            Present::Nothing => Ok(Decision::Fetch(place, None, false)),
            Present::Folder => Err(Blocked::Folder(place.path.as_str().to_owned()).into()),
            Present::Blocked(blocked) => Err(blocked.into()),
            Present::File(found) if self.options.compare == Compare::Checksums => {
                let may_be_equal = item.size.is_none_or(|size| size == found.len);
                Ok(Decision::Fetch(place, Some(found), may_be_equal))
            }
            Present::File(found) if item.size.is_none() => Ok(Decision::Fetch(place, Some(found), true)),
            Present::File(found) if is_unchanged(item, &found, self.options.keep_times) => {
                Ok(Decision::Unchanged(place.path))
            }
            Present::File(found) => Ok(Decision::Fetch(place, Some(found), false)),
        }
    }

    fn make_folder(&self, item: &Item, place: &Place) -> Result<Decision, Verdict> {
        if let Some(bytes) = item.size.filter(|size| *size > 0) {
            return Err(Unusable::FolderWithBytes(bytes).into());
        }

        let Some(folder) = &self.folder else { return Ok(Decision::Done) };
        match folder.folder(place.path.as_str(), !self.options.dry_run) {
            Ok(_) | Err(Failed::Missing) => Ok(Decision::Done),
            Err(Failed::Blocked(blocked)) => Err(blocked.into()),
            Err(Failed::Io(error)) => Err(folder.failed(&place.path, error).into()),
        }
    }
}

enum Decision {
    Done,
    Unchanged(RelativePath),
    Fetch(Place, Option<Found>, bool),
}

enum Verdict {
    LeftOut(LeftOut),
    Failed(Error),
}

impl From<Unusable> for Verdict {
    fn from(why: Unusable) -> Self {
        Self::LeftOut(why.into())
    }
}

impl From<Blocked> for Verdict {
    fn from(why: Blocked) -> Self {
        Self::LeftOut(why.into())
    }
}

impl From<Error> for Verdict {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Returns whether a file is a copy of an object, by its size and time.
pub(super) fn is_unchanged(item: &Item, found: &Found, keep_times: bool) -> bool {
    let stated = item.last_modified.as_deref().and_then(Modified::parse);
    let Some(stated) = stated.filter(|_| item.size == Some(found.len)) else { return false };
    found.modified.matches(stated) || (!keep_times && found.modified > stated)
}

/// Hashes of all paths so far. Two paths with the same hash would count as one, which is unlikely with less than a
/// billion paths.
#[derive(Debug, Default)]
struct Paths {
    hashes: HashSet<u64>,
    seed: RandomState,
    ignores_case: bool,
}

impl Paths {
    /// Adds a path. If the path is a duplicate, returns why its object is left out.
    fn add(&mut self, path: &RelativePath) -> Option<LeftOut> {
        let hash = if self.ignores_case {
            self.seed.hash_one(path.as_str().to_lowercase())
        } else {
            self.seed.hash_one(path.as_str())
        };
        let why = if self.ignores_case { LeftOut::Case } else { LeftOut::Twice };
        (!self.hashes.insert(hash)).then_some(why)
    }
}
