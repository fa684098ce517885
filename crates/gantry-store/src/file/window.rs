//! The names of a directory, in order and in bounded memory.
//!
//! A directory returns its names unordered, so finding the first page of a listing requires reading all of it. The
//! following names are kept for a while, so that the next pages need not read the directory again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cap_std::fs::Dir;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, openat, statat};
use tokio::time::Instant;

use super::failure::failed;
use crate::Error;
use crate::budget::{Budget, Reservation};
use crate::jobs::Abandoned;

/// Maximum memory for the names of one directory: about 400,000 short ones. A larger directory is read several times.
const WINDOW_BYTES_MAX: u64 = 32 << 20;

/// Memory for names that needs no budget: a few hundred, so that listings make progress.
const WINDOW_BYTES_MIN: u64 = 64 << 10;

/// Maximum memory for the names that one store keeps for later pages.
const KEPT_BYTES_MAX: u64 = WINDOW_BYTES_MAX;

/// Maximum number of directories whose names one store keeps.
const KEPT_MAX: usize = 64;

/// How long names are kept. Later pages of a listing may be this old.
const KEPT_FOR: Duration = Duration::from_secs(10);

/// The names of a directory that a listing needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// The directory's path from the root, empty or with a trailing `/`.
    pub(super) path: &'a str,
    /// The prefix of the names.
    pub(super) prefix: &'a str,
    /// The first name, inclusive. It need not exist.
    pub(super) from: &'a str,
}

/// A name in a directory.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    /// A directory's name has a trailing `/`. In a name that is not UTF-8, `\u{fffd}` replaces each invalid part.
    pub(super) text: Box<str>,
    /// Whether the name is UTF-8.
    pub(super) is_text: bool,
}

impl Name {
    /// Returns the memory for the name, including what a growing vector wastes.
    fn bytes(&self) -> u64 {
        (2 * size_of::<Self>() + self.text.len().next_multiple_of(16)) as u64
    }
}

/// Names of one directory without gaps, in the order of the keys' bytes.
#[derive(Debug)]
pub(super) struct Window {
    from: String,
    names: Vec<Name>,
    /// Whether the last name of the directory is included.
    is_complete: bool,
    read_at: Instant,
    bytes: u64,
    _reservation: Option<Reservation>,
}

impl Window {
    /// Reads a directory.
    ///
    /// # Errors
    /// Those of the directory, and [`Error::Unavailable`] if nobody waits for the result any more.
    pub(super) fn read(dir: &Dir, wanted: Wanted<'_>, budget: &Budget, abandoned: &Abandoned) -> Result<Self, Error> {
        let (mut reservation, bytes_max) = reserve(budget);
        let read_at = Instant::now();
        let failed = |error: rustix::io::Errno| failed(&format!("prefix {:?}", wanted.path), &error.into());

        let mut first = First::new(bytes_max);
        // `dir` itself may have been opened without permission to read it.
        let opened = openat(dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        for entry in rustix::fs::Dir::new(opened.map_err(failed)?).map_err(failed)? {
            if abandoned.is_set() {
                return Err(Error::unavailable("nobody waits for the listing"));
            }

            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if !matches!(name.to_bytes(), b"." | b"..") {
                first.take(wanted, &name.to_string_lossy(), name.to_str().is_ok(), || is_folder(dir, &entry));
            }
        }

        let is_complete = first.limit.is_none();
        let (names, bytes) = first.sorted();
        if let Some(reservation) = &mut reservation {
            reservation.shrink_to(bytes);
        }
        Ok(Self { from: wanted.from.to_owned(), names, is_complete, read_at, bytes, _reservation: reservation })
    }

    /// Returns the names from `from` on, inclusive.
    pub(super) fn names_from(&self, from: &str) -> &[Name] {
        let start = self.names.partition_point(|name| *name.text < *from);
        self.names.get(start..).unwrap_or_default()
    }

    /// Returns the name at which the names beyond this window begin, or `None` if there are none.
    pub(super) fn continues_at(&self) -> Option<String> {
        let last = self.names.last().filter(|_| !self.is_complete)?;
        // No name is between these two.
        Some(format!("{}\0", last.text))
    }

    /// Returns whether the window contains the name that follows `from`, or shows that no name follows.
    fn covers(&self, from: &str) -> bool {
        *self.from <= *from && (self.is_complete || self.names.last().is_some_and(|last| *from <= *last.text))
    }
}

/// Reserves as much memory for names as is available. Returns how much may be used.
fn reserve(budget: &Budget) -> (Option<Reservation>, u64) {
    let mut bytes = WINDOW_BYTES_MAX;
    while bytes > WINDOW_BYTES_MIN {
        if let Some(reservation) = budget.try_reserve(bytes) {
            return (Some(reservation), bytes);
        }
        bytes /= 2;
    }
    (None, WINDOW_BYTES_MIN)
}

/// Returns whether an entry is a folder. A deleted entry is not.
fn is_folder(dir: &Dir, entry: &rustix::fs::DirEntry) -> bool {
    let kind = entry.file_type();
    if kind != FileType::Unknown {
        return kind == FileType::Directory;
    }

    // Some file systems don't state the type in the entry.
    let found = statat(dir, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW);
    found.is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Directory)
}

/// The first of many names, as many as fit into memory.
struct First {
    names: Vec<Name>,
    bytes: u64,
    bytes_max: u64,
    /// The last name that fits. All names up to it are kept.
    limit: Option<Box<str>>,
}

impl First {
    const fn new(bytes_max: u64) -> Self {
        Self { names: Vec::new(), bytes: 0, bytes_max, limit: None }
    }

    /// Adds a name if it is wanted and among the first.
    fn take(&mut self, wanted: Wanted<'_>, name: &str, is_text: bool, is_folder: impl FnOnce() -> bool) {
        // A folder's name comes later, because it has a trailing slash.
        if self.is_past_limit(name) {
            return;
        }

        let text = if is_folder() { format!("{name}/") } else { name.to_owned() };
        let is_wanted = *text >= *wanted.from && text.starts_with(wanted.prefix);
        if is_wanted && !self.is_past_limit(&text) {
            self.push(Name { text: text.into(), is_text });
        }
    }

    fn is_past_limit(&self, name: &str) -> bool {
        self.limit.as_ref().is_some_and(|limit| *name > **limit)
    }

    fn push(&mut self, name: Name) {
        self.bytes += name.bytes();
        self.names.push(name);
        if self.bytes > self.bytes_max && self.names.len() > 1 {
            self.drop_last_half();
        }
    }

    fn drop_last_half(&mut self) {
        let kept = self.names.len() / 2;
        let (_, last, _) = self.names.select_nth_unstable(kept - 1);
        self.limit = Some(last.text.clone());
        self.names.truncate(kept);
        self.bytes = self.names.iter().map(Name::bytes).sum();
    }

    fn sorted(mut self) -> (Vec<Name>, u64) {
        self.names.sort_unstable();
        self.names.shrink_to_fit();
        (self.names, self.bytes)
    }
}

/// The names that a store keeps for the next pages of its listings.
#[derive(Debug, Default)]
pub(super) struct Windows(Mutex<Vec<Kept>>);

#[derive(Debug)]
struct Kept {
    path: String,
    prefix: String,
    window: Arc<Window>,
}

impl Windows {
    /// Returns a window that was read for an earlier page and has the wanted names.
    pub(super) fn find(&self, wanted: Wanted<'_>) -> Option<Arc<Window>> {
        let kept = self.lock();
        let is_wanted = |kept: &&Kept| {
            (&*kept.path, &*kept.prefix) == (wanted.path, wanted.prefix)
                && kept.window.covers(wanted.from)
                && kept.window.read_at.elapsed() < KEPT_FOR
        };
        kept.iter().find(is_wanted).map(|kept| Arc::clone(&kept.window))
    }

    /// Keeps a window for later pages.
    pub(super) fn keep(&self, wanted: Wanted<'_>, window: &Arc<Window>) {
        let mut kept = self.lock();
        kept.retain(|kept| (&*kept.path, &*kept.prefix) != (wanted.path, wanted.prefix));
        let (path, prefix) = (wanted.path.to_owned(), wanted.prefix.to_owned());
        kept.insert(0, Kept { path, prefix, window: Arc::clone(window) });

        // The first one always stays.
        let mut bytes = 0;
        kept.truncate(KEPT_MAX);
        kept.retain(|kept| {
            let is_first = bytes == 0;
            bytes += kept.window.bytes.max(1);
            is_first || bytes <= KEPT_BYTES_MAX
        });
    }

    /// Removes the windows that are too old.
    pub(super) fn forget_old(&self) {
        self.lock().retain(|kept| kept.window.read_at.elapsed() < KEPT_FOR);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(number: usize) -> Name {
        Name { text: format!("{number:06}").into(), is_text: true }
    }

    #[test]
    fn the_first_names_are_found_in_bounded_memory_whatever_their_order() {
        let bytes_max = 100 * numbered(0).bytes();
        let wanted = Wanted { path: "", prefix: "", from: "" };
        for step in [1, 7_919, 9_999] {
            let mut first = First::new(bytes_max);
            for number in (0..10_000).map(|number| number * step % 10_000) {
                let Name { text, is_text } = numbered(number);
                first.take(wanted, &text, is_text, || false);
                assert!(first.bytes <= bytes_max);
            }

            assert!(first.limit.is_some());
            let (names, bytes) = first.sorted();
            assert!((50..=100).contains(&names.len()), "{}", names.len());
            assert_eq!(bytes, names.len() as u64 * numbered(0).bytes());
            assert_eq!(names, (0..names.len()).map(numbered).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_directory_that_does_not_fit_is_read_in_several_windows() {
        let root = tempfile::tempdir().unwrap();
        let names: Vec<_> = (0..3000).map(|number| format!("{number:06}{}", "x".repeat(100))).collect();
        for name in &names {
            std::fs::write(root.path().join(name), "").unwrap();
        }
        let dir = Dir::open_ambient_dir(root.path(), cap_std::ambient_authority()).unwrap();

        for (budget_bytes, windows_min) in [(0, 3), (1 << 20, 1)] {
            let budget = Budget::new(budget_bytes);
            let (mut found, mut windows, mut from) = (Vec::new(), 0, Some(String::new()));
            while let Some(start) = from {
                let wanted = Wanted { path: "", prefix: "", from: &start };
                let window = Window::read(&dir, wanted, &budget, &Abandoned::default()).unwrap();
                found.extend(window.names_from(&start).iter().map(|name| name.text.to_string()));
                assert!(window.bytes <= budget.reserved_bytes().max(WINDOW_BYTES_MIN));
                windows += 1;
                from = window.continues_at();
            }

            assert_eq!(found, names);
            assert!(windows >= windows_min && (budget_bytes == 0 || windows == 1), "{windows}");
            assert_eq!(budget.reserved_bytes(), 0);
        }
    }

    #[test]
    fn folders_have_a_slash_and_names_that_are_not_text_are_marked() {
        use std::os::unix::ffi::OsStrExt;

        let root = tempfile::tempdir().unwrap();
        for folder in ["b", "b-"] {
            std::fs::create_dir(root.path().join(folder)).unwrap();
        }
        std::fs::write(root.path().join(std::ffi::OsStr::from_bytes(b"c\xff")), "").unwrap();
        std::os::unix::fs::symlink("b", root.path().join("a")).unwrap();
        let dir = Dir::open_ambient_dir(root.path(), cap_std::ambient_authority()).unwrap();
        let read = |from, prefix| {
            let wanted = Wanted { path: "", prefix, from };
            let window = Window::read(&dir, wanted, &Budget::new(1 << 20), &Abandoned::default()).unwrap();
            window.names.into_iter().map(|name| (name.text.into_string(), name.is_text)).collect::<Vec<_>>()
        };
        let name = |text: &str, is_text| (text.to_owned(), is_text);

        let all = [name("a", true), name("b-/", true), name("b/", true), name("c\u{fffd}", false)];
        assert_eq!(read("", ""), all);
        assert_eq!(read("b/", ""), all[2..]);
        assert_eq!(read("", "b"), all[1..3]);
        std::fs::remove_dir(root.path().join("b")).unwrap();
        assert_eq!(read("", "b"), all[1..2]);
    }

    #[test]
    fn kept_windows_are_bounded_and_reused() {
        let window = |from: &str, names: std::ops::Range<usize>, is_complete, bytes| {
            let names = names.map(numbered).collect();
            let read_at = Instant::now();
            Arc::new(Window { from: from.to_owned(), names, is_complete, read_at, bytes, _reservation: None })
        };
        let wanted = |path, from| Wanted { path, prefix: "", from };
        let windows = Windows::default();

        windows.keep(wanted("a/", ""), &window("000005", 5..10, false, KEPT_BYTES_MAX / 2));
        for (path, from, is_found) in [
            ("a/", "000004", false),
            ("a/", "000005", true),
            ("a/", "000009", true),
            ("a/", "000009\0", false),
            ("b/", "000005", false),
        ] {
            assert_eq!(windows.find(wanted(path, from)).is_some(), is_found, "{path} {from:?}");
        }
        assert!(windows.find(Wanted { path: "a/", prefix: "0", from: "000005" }).is_none());

        windows.keep(wanted("b/", ""), &window("", 0..1, true, KEPT_BYTES_MAX / 2));
        windows.keep(wanted("c/", ""), &window("", 0..1, true, KEPT_BYTES_MAX / 2));
        assert!(windows.find(wanted("a/", "000005")).is_none(), "the oldest is removed");
        assert!(windows.find(wanted("b/", "9")).is_some());
    }
}
