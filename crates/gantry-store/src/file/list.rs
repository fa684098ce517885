//! Lists pages of keys in order. The walk holds a window of names on each level.

use std::io;
use std::sync::Arc;

use cap_std::fs::Dir;
use rustix::fs::{AtFlags, FileType, StatxFlags, statx};

use super::failure::{failed, is_absent};
use super::identity::Identity;
use super::lookup::is_plain;
use super::window::{Name, Wanted, Window, Windows};
use crate::jobs::Abandoned;
use crate::{Budget, Error, LIST_LIMIT_MAX};
use gantry_proto::{Key, ListEntry, ListPage, ListRequest};

/// The requirements for listing a page.
#[derive(Debug)]
pub(super) struct Listing<'a> {
    pub(super) root: &'a Dir,
    /// The names that earlier pages have read.
    pub(super) windows: &'a Windows,
    pub(super) budget: &'a Budget,
    pub(super) abandoned: &'a Abandoned,
}

/// Lists one page: the keys after `request.token`, which is the last key or folded prefix of the previous page.
///
/// Links to files inside are listed. Links to directories are not followed, because a link to its own parent has no end.
pub(super) fn page(listing: &Listing<'_>, request: &ListRequest) -> Result<ListPage, Error> {
    let root = listing.root;
    let base = request.prefix.rsplit_once('/').map_or("", |(base, _)| base);
    let mut walk = Walk {
        listing,
        prefix: &request.prefix,
        recursive: request.recursive,
        after: request.token.as_deref(),
        limit: request.limit.unwrap_or(LIST_LIMIT_MAX).clamp(1, LIST_LIMIT_MAX) as usize,
        page: ListPage::default(),
        omitted: 0,
        last: None,
    };

    if base.is_empty() {
        if !request.prefix.starts_with('/') {
            walk.visit(root, "")?;
        }
    } else if is_plain(base) {
        match root.open_dir(base) {
            Ok(dir) => {
                walk.visit(&dir, &format!("{base}/"))?;
            }
            // A loop of links does not lead to a directory.
            Err(error) if is_absent(&error) || error.raw_os_error() == Some(libc::ELOOP) => {}
            Err(error) => return Err(failed(&format!("prefix {:?}", request.prefix), &error)),
        }
    }

    if walk.page.next.is_none() {
        walk.page.omitted += walk.omitted;
    }
    Ok(walk.page)
}

struct Walk<'a> {
    listing: &'a Listing<'a>,
    prefix: &'a str,
    recursive: bool,
    after: Option<&'a str>,
    limit: usize,
    page: ListPage,
    /// The number of names that were omitted since the last item of the page. They belong to this page only if another
    /// item of it follows, or nothing at all.
    omitted: u64,
    /// The last key or folded prefix of the page.
    last: Option<String>,
}

impl Walk<'_> {
    /// Walks one directory in the order of keys; `path` is empty or ends in `/`. Returns whether the page has room.
    fn visit(&mut self, dir: &Dir, path: &str) -> Result<bool, Error> {
        let mut from = Some(self.first_name(path).to_owned());
        // A folder whose names do not fit into memory has several windows.
        while let Some(start) = from {
            let wanted = Wanted { path, prefix: self.prefix.strip_prefix(path).unwrap_or_default(), from: &start };
            let window = self.window(dir, wanted)?;

            for name in window.names_from(&start) {
                if !self.take(dir, path, name)? {
                    self.listing.windows.keep(wanted, &window);
                    return Ok(false);
                }
            }
            from = window.continues_at();
        }
        Ok(true)
    }

    /// Returns the first name in a directory that the listing may need.
    fn first_name(&self, path: &str) -> &str {
        let after = self.after.and_then(|after| after.strip_prefix(path)).unwrap_or_default();
        // Below a folder of this name, some keys may follow.
        after.split_inclusive('/').next().unwrap_or_default()
    }

    /// Returns a window with the wanted names. Only later pages of a listing reuse the windows of earlier ones.
    fn window(&self, dir: &Dir, wanted: Wanted<'_>) -> Result<Arc<Window>, Error> {
        let Listing { windows, budget, abandoned, .. } = self.listing;
        if abandoned.is_set() {
            return Err(Error::unavailable("nobody waits for the listing"));
        }
        let known = if wanted.from.is_empty() { None } else { windows.find(wanted) };

        match known {
            Some(window) => Ok(window),
            None => Window::read(dir, wanted, budget, abandoned).map(Arc::new),
        }
    }

    /// Adds one name. Returns whether the page has room.
    fn take(&mut self, dir: &Dir, path: &str, name: &Name) -> Result<bool, Error> {
        let key = format!("{path}{}", name.text);
        let folder = name.text.strip_suffix('/');
        let is_key = Key::try_from(format!("{path}{}", folder.unwrap_or(&name.text))).is_ok();
        if !name.is_text || !is_key {
            return Ok(self.omit(&key));
        }

        match folder {
            Some(folder) => self.folder(dir, folder, key),
            None => Ok(self.file(dir, &name.text, key)),
        }
    }

    /// Adds a directory; `path` is its key with the trailing `/`.
    fn folder(&mut self, parent: &Dir, name: &str, path: String) -> Result<bool, Error> {
        let is_wanted = path.starts_with(self.prefix);
        let is_done = self.after.is_some_and(|after| path.as_str() <= after && !after.starts_with(&path));
        if !is_wanted || is_done {
            return Ok(true);
        }

        if !self.recursive {
            if self.after.is_some_and(|after| after.starts_with(&path)) {
                return Ok(true);
            }
            return Ok(self.add(path, |page, path| page.prefixes.push(path)));
        }

        match parent.open_dir(name) {
            Ok(dir) => match self.visit(&dir, &path) {
                Err(Error::Denied(_)) => Ok(self.omit(&path)),
                visited => visited,
            },
            Err(error) if is_absent(&error) => Ok(true),
            // A folder of another user, such as `lost+found`, must not hide its siblings.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(self.omit(&path)),
            Err(error) => Err(failed(&format!("prefix {path:?}"), &error)),
        }
    }

    /// Counts a name that can't be listed. The page always has room for it.
    fn omit(&mut self, path: &str) -> bool {
        let is_done = self.after.is_some_and(|after| path <= after);
        if path.starts_with(self.prefix) && !is_done {
            self.omitted += 1;
        }
        true
    }

    fn file(&mut self, dir: &Dir, name: &str, key: String) -> bool {
        let is_done = self.after.is_some_and(|after| key.as_str() <= after);
        if is_done || !key.starts_with(self.prefix) {
            return true;
        }
        // Deleted meanwhile, a dangling link, a link that leads out, or a FIFO.
        let Some(identity) = identity(dir, name) else { return true };

        self.add(key, |page, key| {
            let mut entry = ListEntry::new(key, identity.size);
            entry.etag = Some(identity.etag());
            entry.last_modified = identity.last_modified();
            page.entries.push(entry);
        })
    }

    /// Adds one item. If the page is full, sets the token of the next page instead. Returns whether it was added.
    fn add(&mut self, item: String, push: impl FnOnce(&mut ListPage, String)) -> bool {
        if self.page.entries.len() + self.page.prefixes.len() == self.limit {
            self.page.next = self.last.take();
            return false;
        }

        self.last = Some(item.clone());
        self.page.omitted += std::mem::take(&mut self.omitted);
        push(&mut self.page, item);
        true
    }
}

/// Returns the identity of a regular file, or of one that a link inside leads to.
fn identity(dir: &Dir, name: &str) -> Option<Identity> {
    // One system call suffices for a file. Following a link safely takes several.
    if let Ok(found) = statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)
        && FileType::from_raw_mode(found.stx_mode.into()) == FileType::RegularFile
    {
        return Some(Identity::of_found(&found));
    }

    let metadata = dir.metadata(name).ok()?;
    metadata.is_file().then(|| Identity::of(&metadata))
}
