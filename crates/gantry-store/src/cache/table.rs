//! The bookkeeping of a cache folder: which files there are, and which one goes first. It has no I/O and no clock.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use super::Limits;
use super::format::{BLOCK_BYTES, HEAD_USUAL_BYTES};
use super::name::{BlockName, FileName, KeyName, VersionName};
use gantry_proto::{Checksum, ObjectInfo};

/// The files of a folder.
#[derive(Debug)]
pub(super) struct Table {
    limits: Limits,
    files: BTreeMap<FileName, Entry>,
    /// The files in the order of their last use.
    recency: BTreeMap<u64, FileName>,
    /// The versions of which there are blocks.
    versions: HashMap<VersionName, Version>,
    /// Blocks that are being written.
    pending: HashSet<BlockName>,
    /// The length of all files.
    bytes: u64,
    /// When the last block of some version was removed.
    gone: u64,
    /// Counts uses and removals. It is the clock of this module.
    count: u64,
}

/// A file.
#[derive(Clone, Copy, Debug)]
struct Entry {
    len: u64,
    used: u64,
    /// The file's modification time, which records its last use roughly.
    marked: SystemTime,
}

/// What is known of a version beside its blocks.
#[derive(Debug)]
struct Version {
    blocks: u64,
    /// The best description so far.
    object: Option<Arc<ObjectInfo>>,
    /// The stored checksum that the blocks match.
    proved: Option<Checksum>,
    /// When the first block was added.
    added: u64,
    /// When a block was last removed, or 0.
    removed: u64,
}

/// A moment, by the count of uses and removals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment(u64);

impl Table {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            files: BTreeMap::new(),
            recency: BTreeMap::new(),
            versions: HashMap::new(),
            pending: HashSet::new(),
            bytes: 0,
            gone: 0,
            count: 0,
        }
    }

    pub(super) const fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Forgets all files.
    pub(super) fn clear(&mut self) {
        let now = self.next_count();
        *self = Self { gone: now, count: now, ..Self::new(self.limits) };
    }

    /// Returns the length of all files, in bytes, and their number.
    pub(super) fn kept(&self) -> (u64, u64) {
        (self.bytes, self.files.len() as u64)
    }

    /// Adds a file that was used last of all. Replaces one of the same name.
    pub(super) fn insert(&mut self, name: FileName, len: u64, marked: SystemTime) {
        self.remove(name);
        let used = self.next_count();
        self.files.insert(name, Entry { len, used, marked });
        self.recency.insert(used, name);
        self.bytes += len;

        if let FileName::Block(block) = name {
            self.pending.remove(&block);
            let new = Version { blocks: 0, object: None, proved: None, added: used, removed: 0 };
            self.versions.entry(block.version).or_insert(new).blocks += 1;
        }
    }

    /// Removes a file.
    pub(super) fn remove(&mut self, name: FileName) {
        if !self.take(name) {
            return;
        }
        let FileName::Block(block) = name else { return };
        let now = self.next_count();

        if let Some(version) = self.versions.get_mut(&block.version) {
            version.proved = None;
            version.removed = now;
        } else {
            self.gone = now;
        }
    }

    fn take(&mut self, name: FileName) -> bool {
        let Some(entry) = self.files.remove(&name) else { return false };
        self.recency.remove(&entry.used);
        self.bytes -= entry.len;

        if let FileName::Block(block) = name
            && let Some(version) = self.versions.get_mut(&block.version)
        {
            version.blocks -= 1;
            if version.blocks == 0 {
                self.versions.remove(&block.version);
            }
        }
        true
    }

    /// Returns the file to remove before one of `len` bytes fits in addition. Returns an error if it fits at no time.
    pub(super) fn victim(&self, len: u64) -> Result<Option<FileName>, NoRoom> {
        let Limits { bytes_max, files_max } = self.limits;
        if len > bytes_max || files_max == 0 {
            return Err(NoRoom);
        }
        let fits = self.bytes + len <= bytes_max && (self.files.len() as u64) < files_max;
        Ok(if fits { None } else { self.recency.values().next().copied() })
    }

    /// Returns whether all blocks of an object of `size` bytes and the file that describes it fit, if others go.
    pub(super) fn may_hold(&self, size: u64) -> bool {
        let Limits { bytes_max, files_max } = self.limits;
        let files = size.div_ceil(BLOCK_BYTES) + 1;
        size + files * HEAD_USUAL_BYTES <= bytes_max && files <= files_max
    }

    /// Records that a block is about to be written. Returns `false` if it is there or being written already.
    pub(super) fn begin(&mut self, block: BlockName) -> bool {
        !self.files.contains_key(&FileName::Block(block)) && self.pending.insert(block)
    }

    /// Records that a block is not written after all.
    pub(super) fn give_up(&mut self, block: BlockName) {
        self.pending.remove(&block);
    }

    /// Returns whether there is a block of any version of the key, or its current version is known.
    pub(super) fn has_key(&self, key: KeyName) -> bool {
        let (first, last) = key.blocks();
        self.files.range(first..=last).next().is_some() || self.has(FileName::Current(key))
    }

    pub(super) fn has(&self, name: FileName) -> bool {
        self.files.contains_key(&name)
    }

    /// Records a use. Returns the file's length and modification time.
    pub(super) fn use_file(&mut self, name: FileName) -> Option<(u64, SystemTime)> {
        let used = self.next_count();
        let entry = self.files.get_mut(&name)?;
        self.recency.remove(&entry.used);
        entry.used = used;
        self.recency.insert(used, name);
        Some((entry.len, entry.marked))
    }

    /// Records a file's modification time.
    pub(super) fn mark(&mut self, name: FileName, marked: SystemTime) {
        if let Some(entry) = self.files.get_mut(&name) {
            entry.marked = marked;
        }
    }

    /// Returns a file's modification time.
    pub(super) fn marked(&self, name: FileName) -> Option<SystemTime> {
        self.files.get(&name).map(|entry| entry.marked)
    }

    /// Returns the first block of a version that has bytes of the range.
    pub(super) fn first_in(&self, version: VersionName, range: &Range<u64>) -> Option<u64> {
        if range.is_empty() {
            return None;
        }
        let first = version.block(range.start / BLOCK_BYTES);
        let last = version.block((range.end - 1) / BLOCK_BYTES);
        let found = self.files.range(FileName::Block(first)..=FileName::Block(last)).next();
        found.and_then(|(name, _)| if let FileName::Block(block) = name { Some(block.number) } else { None })
    }

    /// Returns all blocks of a version.
    pub(super) fn blocks_of(&self, version: VersionName) -> Vec<FileName> {
        let (first, last) = (version.block(0), version.block(u64::MAX));
        self.files.range(FileName::Block(first)..=FileName::Block(last)).map(|(name, _)| *name).collect()
    }

    /// Returns whether all blocks of an object of `size` bytes are there.
    pub(super) fn is_complete(&self, version: VersionName, size: u64) -> bool {
        let blocks = size.div_ceil(BLOCK_BYTES);
        let count = self.versions.get(&version).map_or(0, |version| version.blocks);
        count >= blocks && (0..blocks).all(|number| self.has(FileName::Block(version.block(number))))
    }

    pub(super) const fn now(&self) -> Moment {
        Moment(self.count)
    }

    /// Returns whether the blocks are known to match this stored checksum.
    pub(super) fn is_proved(&self, version: VersionName, checksum: &Checksum) -> bool {
        let proved = self.versions.get(&version).and_then(|version| version.proved.as_ref());
        proved.is_some_and(|proved| is_same_checksum(proved, checksum))
    }

    /// Records that the bytes that the version had, or got, since some moment match the object's stored checksum. This has
    /// no effect if a block is missing, or may have been replaced meanwhile.
    pub(super) fn prove(&mut self, version: VersionName, object: &ObjectInfo, Moment(since): Moment) {
        if !self.is_complete(version, object.size) {
            return;
        }
        let gone = self.gone;
        if let Some(version) = self.versions.get_mut(&version)
            && version.removed <= since
            && (version.added <= since || gone <= since)
        {
            version.proved = object.stated_checksum().cloned();
        }
    }

    /// Returns the best description of a version so far.
    pub(super) fn object(&self, version: VersionName) -> Option<Arc<ObjectInfo>> {
        self.versions.get(&version)?.object.clone()
    }

    pub(super) fn set_object(&mut self, version: VersionName, object: &Arc<ObjectInfo>) {
        if let Some(version) = self.versions.get_mut(&version) {
            version.object = Some(Arc::clone(object));
        }
    }

    const fn next_count(&mut self) -> u64 {
        self.count += 1;
        self.count
    }
}

/// Returns whether two checksums are equal, whatever is known about the sizes of upload parts.
pub(super) fn is_same_checksum(one: &Checksum, other: &Checksum) -> bool {
    (one.algorithm, one.kind, &one.value) == (other.algorithm, other.kind, &other.value)
}

/// A file that is larger than the whole cache may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use gantry_proto::{ChecksumAlgorithm, ChecksumKind};

    const SIZE: u64 = 2 * BLOCK_BYTES + 1;

    fn version(name: &str) -> VersionName {
        let key = name.parse().unwrap();
        VersionName::of(KeyName::of("s", &key), &ObjectInfo::new(key, SIZE, "e".to_owned()))
    }

    fn table(bytes_max: u64, files_max: u64) -> Table {
        Table::new(Limits { bytes_max, files_max })
    }

    fn add(table: &mut Table, version: VersionName, numbers: Range<u64>) {
        for number in numbers {
            table.insert(FileName::Block(version.block(number)), 10, UNIX_EPOCH);
        }
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let mut table = table(30, 9);
        let one = version("one");
        add(&mut table, one, 0..3);

        assert_eq!(table.victim(0), Ok(None));
        table.use_file(FileName::Block(one.block(0))).unwrap();
        assert_eq!(table.victim(1), Ok(Some(FileName::Block(one.block(1)))));
        assert_eq!(table.victim(31), Err(NoRoom));

        table.set_limits(Limits { bytes_max: 100, files_max: 3 });
        assert_eq!(table.victim(1), Ok(Some(FileName::Block(one.block(1)))));
    }

    #[test]
    fn blocks_are_found_by_key_and_range() {
        let mut table = table(100, 9);
        let (one, other) = (version("one"), version("other"));
        add(&mut table, one, 1..3);
        table.insert(FileName::Block(one.block(1)), 20, UNIX_EPOCH);

        assert_eq!(table.kept(), (30, 2));
        assert!(table.has_key(one.key) && !table.has_key(other.key));
        assert_eq!(table.first_in(one, &(0..BLOCK_BYTES)), None);
        assert_eq!(table.first_in(one, &(0..BLOCK_BYTES + 1)), Some(1));
        assert_eq!(table.first_in(one, &(5..5)), None);
        assert!(!table.is_complete(one, SIZE));
        assert!(!table.begin(one.block(1)) && table.begin(one.block(0)) && !table.begin(one.block(0)));
        add(&mut table, one, 0..1);
        assert!(table.is_complete(one, SIZE));
    }

    #[test]
    fn a_proof_is_void_once_a_block_was_removed() {
        let mut table = table(100, 9);
        let one = version("one");
        let checksum = Checksum {
            algorithm: ChecksumAlgorithm::Sha256,
            kind: ChecksumKind::FullObject,
            value: "one".to_owned(),
            parts: Vec::new(),
        };
        let mut object = ObjectInfo::new("k".parse().unwrap(), SIZE, "e".to_owned());
        object.checksum = Some(checksum.clone());

        // While the first blocks arrive.
        let since = table.now();
        add(&mut table, one, 0..2);
        table.prove(one, &object, since);
        assert!(!table.is_proved(one, &checksum), "a block is missing");
        add(&mut table, one, 2..3);
        table.prove(one, &object, since);
        assert!(table.is_proved(one, &checksum));

        // A block is removed and read again, then all of them.
        for numbers in [1..2, 0..3] {
            let since = table.now();
            for number in numbers.clone() {
                table.remove(FileName::Block(one.block(number)));
            }
            assert!(!table.is_proved(one, &checksum));
            add(&mut table, one, numbers);
            table.prove(one, &object, since);
            assert!(!table.is_proved(one, &checksum));
        }
        table.prove(one, &object, table.now());
        assert!(table.is_proved(one, &checksum));
        assert!(!table.is_proved(one, &Checksum { value: "other".to_owned(), ..checksum }));
    }
}
