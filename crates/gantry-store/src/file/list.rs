//! Pages of keys, in order, from a walk that holds one directory's names a level.

use std::io;

use cap_std::fs::Dir;

use super::{Identity, failed, is_absent, is_plain};
use crate::{Error, LIST_LIMIT_MAX};
use gantry_proto::{Key, ListEntry, ListPage, ListRequest};

/// Lists one page: the keys after `request.token`, which is the last key or folded prefix of the page before.
///
/// Links to files inside are listed, links to directories are not followed: a link to its own parent has no end.
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
            // A loop of links leads nowhere, too.
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
    /// What was left out since the last item of the page. It counts for this page only if another item follows here, or
    /// nothing at all.
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
            // One folder of others, such as `lost+found`, must not hide all that stands beside it.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(self.omit(&path)),
            Err(error) => Err(failed(&format!("prefix {path:?}"), &error)),
        }
    }

    /// Counts what can't be shown. There is always room for that.
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
        // Gone since, a link that leads out or nowhere, a FIFO: no object.
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

    /// Adds one item; when the page is full, it says instead where the next one begins.
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

/// Returns the names in a directory in the order of the keys' bytes, directories with a trailing `/`, and whether each
/// can be part of a key. One that is not UTF-8 stands where it would if what can't be told of it were `\u{fffd}`.
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
        // Gone since, or of a kind that the file system does not tell: no folder, then.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            name.push('/');
        }
        names.push((name, is_key));
    }
    names.sort_unstable();
    Ok(names)
}
