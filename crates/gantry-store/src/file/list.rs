//! Lists pages of keys in order. The walk holds the names of one directory on each level.

use std::io;

use cap_std::fs::Dir;

use super::failure::{failed, is_absent};
use super::identity::Identity;
use super::lookup::is_plain;
use crate::{Error, LIST_LIMIT_MAX};
use gantry_proto::{Key, ListEntry, ListPage, ListRequest};

/// Lists one page: the keys after `request.token`, which is the last key or folded prefix of the previous page.
///
/// Links to files inside are listed. Links to directories are not followed, because a link to its own parent has no end.
pub(super) fn page(root: &Dir, request: &ListRequest) -> Result<ListPage, Error> {
    let base = request.prefix.rsplit_once('/').map_or("", |(base, _)| base);
    let mut walk = Walk {
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
        for (name, is_key) in names(dir, path)? {
            let key = format!("{path}{name}");
            if !is_key {
                self.omit(&key);
                continue;
            }

            let has_room = match name.strip_suffix('/') {
                Some(folder) => self.folder(dir, folder, key)?,
                None => self.file(dir, &name, key),
            };
            if !has_room {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes a directory; `path` is its key with the trailing `/`.
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

    /// Counts a name that can't be shown. The page always has room for it.
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
        // Deleted since, a link that leads out or nowhere, or a FIFO.
        let Ok(metadata) = dir.metadata(name) else { return true };
        if !metadata.is_file() {
            return true;
        }

        let identity = Identity::of(&metadata);
        self.add(key, |page, key| {
            let (etag, last_modified) = (Some(identity.etag()), identity.last_modified());
            page.entries.push(ListEntry { key, size: identity.size, etag, last_modified });
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

/// Returns the names in a directory, and whether each can be part of a key. They are in the order of the keys' bytes,
/// directories with a trailing `/`. In a name that is not UTF-8, `\u{fffd}` replaces each invalid part.
fn names(dir: &Dir, path: &str) -> Result<Vec<(String, bool)>, Error> {
    let failed = |error: io::Error| failed(&format!("prefix {path:?}"), &error);
    let mut names = Vec::new();
    for entry in dir.entries().map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (mut name, is_text) = match entry.file_name().into_string() {
            Ok(name) => (name, true),
            Err(name) => (name.to_string_lossy().into_owned(), false),
        };

        let is_key = is_text && Key::try_from(format!("{path}{name}")).is_ok();
        // Deleted since, or of unknown type. Then it is not a folder.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            name.push('/');
        }
        names.push((name, is_key));
    }

    names.sort_unstable();
    Ok(names)
}
