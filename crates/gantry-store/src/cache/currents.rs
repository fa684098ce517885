//! Which version of each object was current last. This matters only while the store is unreachable, and outlives the
//! process.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::format::About;
use super::name::{KeyName, VersionName};
use gantry_proto::{Checksum, ChecksumKind, ObjectInfo};

/// How often the time is written down at which a version is known to be current.
const CONFIRM_INTERVAL: Duration = Duration::from_secs(60);

/// Maximum number of objects whose current version is not yet written down. Without a disk, others are forgotten.
const CHANGES_MAX: usize = 10_000;

/// What is to be written down for an object.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// Its current version, and when that was known.
    Write(Arc<About>, SystemTime),
    /// When its version was known to be current.
    Mark(SystemTime),
    /// There is no such object.
    Remove,
}

/// The current versions of objects.
#[derive(Debug, Default)]
pub(super) struct Currents {
    seen: HashMap<KeyName, Seen>,
    changes: HashMap<KeyName, Change>,
    /// The change that is being written.
    writing: Option<KeyName>,
}

#[derive(Clone, Debug)]
struct Seen {
    version: VersionName,
    checksum: Option<Checksum>,
    detail: Detail,
    confirmed: SystemTime,
    /// The time that was written down.
    written: SystemTime,
}

/// How much a description says about the stored checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Detail {
    NoChecksum,
    WithoutParts,
    Full,
}

impl Currents {
    /// Records that a version is current. Returns whether there is something to write down.
    pub(super) fn confirm(&mut self, key: KeyName, version: VersionName, about: &Arc<About>, now: SystemTime) -> bool {
        let detail = Detail::of(&about.object);
        let checksum = about.object.stated_checksum();
        let is_known = |seen: &&mut Seen| {
            let contradicts = checksum.zip(seen.checksum.as_ref()).is_some_and(|(one, other)| one.contradicts(other));
            seen.version == version && seen.detail >= detail && !contradicts
        };
        let Some(seen) = self.seen.get_mut(&key).filter(is_known) else {
            self.seen.insert(key, Seen { version, checksum: checksum.cloned(), detail, confirmed: now, written: now });
            self.change(key, Change::Write(Arc::clone(about), now));
            return true;
        };

        seen.confirmed = now;
        if now.duration_since(seen.written).is_ok_and(|age| age < CONFIRM_INTERVAL) {
            return false;
        }
        seen.written = now;
        // A description that waits to be written is as recent.
        if !self.changes.contains_key(&key) {
            self.change(key, Change::Mark(now));
        }
        true
    }

    /// Records that there is no such object.
    pub(super) fn remove(&mut self, key: KeyName) {
        self.seen.remove(&key);
        self.change(key, Change::Remove);
    }

    fn change(&mut self, key: KeyName, change: Change) {
        if self.writing == Some(key) {
            self.writing = None;
        }
        if self.changes.len() < CHANGES_MAX || self.changes.contains_key(&key) {
            self.changes.insert(key, change);
        } else {
            self.seen.remove(&key);
        }
    }

    /// Forgets an object whose description was evicted.
    pub(super) fn forget(&mut self, key: KeyName) {
        self.seen.remove(&key);
    }

    /// Forgets what the folder contains, but not what is to be written.
    pub(super) fn forget_all(&mut self) {
        self.seen.clear();
    }

    /// Returns what is to be written for an object, or `None` if that has been done.
    pub(super) fn change_of(&self, key: KeyName) -> Option<&Change> {
        self.changes.get(&key)
    }

    /// Returns the version that was found to be current since the start.
    pub(super) fn version(&self, key: KeyName) -> Option<VersionName> {
        self.seen.get(&key).map(|seen| seen.version)
    }

    /// Returns when the version that is written down was known to be current, if that was since the start.
    pub(super) fn confirmed(&self, key: KeyName) -> Option<SystemTime> {
        self.seen.get(&key).map(|seen| seen.confirmed)
    }

    /// Returns the next change to write. It is kept until [`Self::end_change`].
    pub(super) fn next_change(&mut self) -> Option<(KeyName, Change)> {
        let (key, change) = self.changes.iter().next()?;
        self.writing = Some(*key);
        Some((*key, change.clone()))
    }

    /// Records that a change has been written, unless there is a newer one.
    pub(super) fn end_change(&mut self, key: KeyName) {
        if self.writing.take() == Some(key) {
            self.changes.remove(&key);
        }
    }
}

impl Detail {
    fn of(object: &ObjectInfo) -> Self {
        match object.stated_checksum() {
            None => Self::NoChecksum,
            Some(checksum) if checksum.kind == ChecksumKind::Composite && checksum.parts.is_empty() => {
                Self::WithoutParts
            }
            Some(_) => Self::Full,
        }
    }
}

/// Returns whether a description says all about the stored checksum that the store knows. Only a request up to the object's
/// end returns the sizes of its upload parts.
pub(super) fn has_parts(object: &ObjectInfo) -> bool {
    Detail::of(object) != Detail::WithoutParts
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn object(etag: &str) -> (KeyName, VersionName, Arc<About>) {
        let key = "k".parse().unwrap();
        let object = ObjectInfo::new(key, 1, etag.to_owned());
        let key = KeyName::of("s", &object.key);
        (key, VersionName::of(key, &object), Arc::new(About { store: "s".to_owned(), object }))
    }

    #[test]
    fn a_version_is_written_once_and_its_time_now_and_then() {
        let mut currents = Currents::default();
        let (key, version, about) = object("e");
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);

        assert!(currents.confirm(key, version, &about, at(0)));
        assert!(matches!(currents.next_change(), Some((_, Change::Write(..)))));
        currents.end_change(key);
        assert!(!currents.confirm(key, version, &about, at(59)));
        assert!(currents.next_change().is_none());
        assert_eq!(currents.confirmed(key), Some(at(59)));
        assert!(currents.confirm(key, version, &about, at(60)));
        assert!(matches!(currents.next_change(), Some((_, Change::Mark(time))) if time == at(60)));
    }

    #[test]
    fn a_change_that_arrives_while_another_is_written_is_written_too() {
        let mut currents = Currents::default();
        let (key, version, about) = object("e");
        currents.confirm(key, version, &about, UNIX_EPOCH);

        currents.next_change().unwrap();
        currents.remove(key);
        currents.end_change(key);
        assert!(matches!(currents.change_of(key), Some(Change::Remove)));

        currents.next_change().unwrap();
        currents.end_change(key);
        assert!(currents.change_of(key).is_none());
    }
}
