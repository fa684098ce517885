//! The bookkeeping of shared reads: which bytes of which version are in memory, who reads them, and what may go.
//!
//! It has no I/O and no clock. The bytes of a version are kept in blocks on a fixed grid. A block is reserved from the
//! budget before its first byte is kept, and is evicted as a whole.

mod version;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use self::version::{BLOCK_BYTES, Block, Rank, Running, Version};
use super::limits::Limits;
use crate::Budget;
use crate::budget::Reservation;
use crate::descriptions::is_same;
use gantry_proto::{Key, ObjectInfo, Span};

pub(super) use self::version::ReaderId;

/// Identifies a version of an object, for as long as anything of it is kept or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct VersionId(u64);

/// What a reader does next.
#[derive(Debug)]
pub(super) enum Step<S> {
    /// It takes these bytes, which are kept.
    Take(Bytes),
    /// It follows this source, whose next byte is the reader's.
    Follow(S),
    /// It needs a source of its own, which ends here (exclusive), because others have the bytes that follow.
    Open {
        /// The exclusive end, as an absolute offset.
        end: u64,
    },
}

/// Everything that is kept and read of one store. `S` is a source of bytes, of which clones are equal.
#[derive(Debug)]
pub(super) struct Kept<S> {
    limits: Limits,
    budget: Budget,
    versions: HashMap<VersionId, Version<S>>,
    /// The versions of each key.
    of_key: HashMap<Key, Vec<VersionId>>,
    /// How many requests for each key are about to learn which version they want.
    expected: HashMap<Key, usize>,
    /// The blocks in the order of their last use, first those that only one reader has requested.
    recency: BTreeMap<Rank, (VersionId, u64)>,
    /// How many bytes are reserved for all blocks.
    reserved: u64,
    /// How many of them are for versions with only one reader so far.
    reserved_alone: u64,
    /// Counts uses, versions and readers.
    count: u64,
    evicted: u64,
}

impl<S: Clone + PartialEq> Kept<S> {
    pub(super) fn new(limits: Limits, budget: Budget) -> Self {
        Self {
            limits,
            budget,
            versions: HashMap::new(),
            of_key: HashMap::new(),
            expected: HashMap::new(),
            recency: BTreeMap::new(),
            reserved: 0,
            reserved_alone: 0,
            count: 0,
            evicted: 0,
        }
    }

    /// Returns whether a request may find something of some version of the object.
    pub(super) fn may_serve(&self, key: &Key, span: Span) -> bool {
        self.versions_of(key).any(|(_, version)| version.serves(span))
    }

    /// Returns the version that `object` describes, if it has something for the request.
    pub(super) fn find(&self, object: &ObjectInfo, span: Span) -> Option<(VersionId, Arc<ObjectInfo>)> {
        let (id, version) = self.versions_of(&object.key).find(|(_, version)| is_same(&version.object, object))?;
        version.serves(span).then(|| (id, Arc::clone(&version.object)))
    }

    /// Returns whether the byte at `offset` is kept.
    pub(super) fn has(&self, id: VersionId, offset: u64) -> bool {
        self.versions.get(&id).is_some_and(|version| version.piece_at(offset).is_some())
    }

    /// Returns the version that `object` describes, and adds it if nothing of it is known.
    pub(super) fn enter(&mut self, object: &Arc<ObjectInfo>, is_complete: bool, now: Instant) -> VersionId {
        let known = self.versions_of(&object.key).find(|(_, version)| is_same(&version.object, object));
        let known = known.map(|(id, _)| id);

        if let Some((id, version)) = known.and_then(|id| Some((id, self.versions.get_mut(&id)?))) {
            if is_complete && !version.is_complete {
                version.object = Arc::clone(object);
                version.is_complete = true;
            }
            return id;
        }

        let id = VersionId(self.next_count());
        let version = Version {
            object: Arc::clone(object),
            is_complete,
            is_shared: self.expected.contains_key(&object.key),
            read_at: now,
            read_alone: 0,
            readers: BTreeMap::new(),
            sources: Vec::new(),
            blocks: BTreeMap::new(),
        };
        self.versions.insert(id, version);
        self.of_key.entry(object.key.clone()).or_default().push(id);
        id
    }

    /// Returns whether the caller should read the version that `object` describes from the store, because nothing of it has
    /// been read for a while. Only one caller in that time gets `true`.
    pub(super) fn claim_read(&mut self, object: &ObjectInfo, now: Instant) -> bool {
        let known = self.versions_of(&object.key).find(|(_, version)| is_same(&version.object, object));
        let Some(id) = known.map(|(id, _)| id) else { return false };
        let Some(version) = self.versions.get_mut(&id) else { return false };

        let is_due = version.sources.is_empty()
            && now.saturating_duration_since(version.read_at) >= self.limits.read_again_after;
        if is_due {
            version.read_at = now;
        }
        is_due
    }

    /// Adds a reader of `range`.
    pub(super) fn join(&mut self, id: VersionId, range: Range<u64>) -> ReaderId {
        let reader = ReaderId(self.next_count());
        if let Some(version) = self.versions.get_mut(&id) {
            version.readers.insert(reader, range);
        }
        reader
    }

    /// Returns whether more than one reader wants, or wanted, the version.
    pub(super) fn is_shared(&self, id: VersionId) -> bool {
        self.versions.get(&id).is_some_and(|version| version.is_shared)
    }

    /// Records that more than one reader wants the version, so that its bytes are worth keeping.
    pub(super) fn share(&mut self, id: VersionId) {
        let Some(version) = self.versions.get_mut(&id).filter(|version| !version.is_shared) else { return };
        version.is_shared = true;

        for (number, block) in &mut version.blocks {
            self.recency.remove(&block.rank);
            block.rank.is_shared = true;
            self.recency.insert(block.rank, (id, *number));
            self.reserved_alone -= block.bytes;
        }
    }

    /// Records that a request for this key is about to learn which version it wants. It counts as a second reader of all
    /// versions, since the first one may read much in this time.
    pub(super) fn expect(&mut self, key: &Key) {
        *self.expected.entry(key.clone()).or_default() += 1;
        let versions: Vec<_> = self.versions_of(key).map(|(id, _)| id).collect();
        versions.into_iter().for_each(|id| self.share(id));
    }

    /// Records that a request for this key has learnt it.
    pub(super) fn expect_no_more(&mut self, key: &Key) {
        let Some(count) = self.expected.get_mut(key) else { return };
        *count -= 1;
        if *count == 0 {
            self.expected.remove(key);
        }
    }

    /// Adds a source of the bytes of `range`.
    pub(super) fn add_source(&mut self, id: VersionId, range: Range<u64>, source: S) {
        let Some(version) = self.versions.get_mut(&id).filter(|_| !range.is_empty()) else { return };
        version.sources.push(Running { source, rest: range });
    }

    /// Removes a source that has failed or ended.
    pub(super) fn remove_source(&mut self, id: VersionId, source: &S) {
        let Some(version) = self.versions.get_mut(&id) else { return };
        version.sources.retain(|running| running.source != *source);
    }

    /// Records that the byte at `offset` is the next one that a reader wants.
    pub(super) fn advance(&mut self, id: VersionId, reader: ReaderId, offset: u64) {
        let rest = self.versions.get_mut(&id).and_then(|version| version.readers.get_mut(&reader));
        if let Some(rest) = rest {
            rest.start = offset;
        }
    }

    /// Decides how a reader gets the byte at `offset`, which is the next one of its range.
    pub(super) fn step(&mut self, id: VersionId, reader: ReaderId, offset: u64, now: Instant) -> Option<Step<S>> {
        let version = self.versions.get_mut(&id)?;
        let rest = version.readers.get_mut(&reader)?;
        rest.start = offset;
        let end = rest.end;

        if let Some(piece) = version.piece_at(offset) {
            self.use_block(id, offset / BLOCK_BYTES, now);
            return Some(Step::Take(piece));
        }
        if let Some(running) = version.sources.iter().find(|running| running.rest.start == offset) {
            return Some(Step::Follow(running.source.clone()));
        }
        Some(Step::Open { end: version.next_after(offset).map_or(end, |next| next.min(end)) })
    }

    /// Accounts for the next bytes of a source, and keeps them if there is reason and room to do so. Those of a shared version
    /// should be copies, since a piece keeps the whole buffer into which it was read.
    pub(super) fn push(&mut self, id: VersionId, source: &S, mut piece: Bytes, now: Instant) {
        let Some(version) = self.versions.get_mut(&id) else { return };
        let Some(running) = version.sources.iter_mut().find(|running| running.source == *source) else { return };

        let mut offset = running.rest.start;
        running.rest.start += piece.len() as u64;
        version.read_at = now;
        if running.rest.is_empty() {
            version.sources.retain(|running| running.source != *source);
        }

        if !version.is_shared {
            version.read_alone += piece.len() as u64;
            if version.read_alone > self.limits.first_bytes {
                return self.discard(id);
            }
        }

        while !piece.is_empty() {
            let block_end = (offset / BLOCK_BYTES + 1) * BLOCK_BYTES;
            let part =
                piece.split_to(usize::try_from(block_end - offset).map_or(piece.len(), |len| len.min(piece.len())));
            let len = part.len() as u64;
            self.keep(id, offset, part, now);
            offset += len;
        }
    }

    /// Removes a reader. Returns the sources that nobody wants any more, to be dropped outside of any lock.
    pub(super) fn leave(&mut self, id: VersionId, reader: ReaderId) -> Vec<S> {
        let Some(version) = self.versions.get_mut(&id) else { return Vec::new() };
        version.readers.remove(&reader);

        let Version { sources, readers, .. } = version;
        let is_wanted =
            |rest: &Range<u64>| readers.values().any(|reader| reader.start <= rest.start && rest.start < reader.end);
        let unwanted = sources.extract_if(.., |running| !is_wanted(&running.rest));
        let unwanted = unwanted.map(|running| running.source).collect();

        self.forget_if_unused(id);
        unwanted
    }

    /// Evicts the blocks that no reader wants, and that have not been used for the time that they linger.
    pub(super) fn expire(&mut self, now: Instant) {
        let linger = self.limits.linger;
        let expired: Vec<_> = self
            .versions
            .iter()
            .flat_map(|(id, version)| {
                version.blocks.iter().filter_map(move |(number, block)| {
                    let is_old = now.saturating_duration_since(block.used_at) >= linger;
                    (is_old && version.readers_of(*number) == 0).then_some((*id, *number))
                })
            })
            .collect();

        for (id, number) in expired {
            self.remove_block(id, number);
        }
    }

    /// Evicts blocks of at least `bytes` that were last used before `idle`, as far as there are any.
    pub(super) fn evict(&mut self, bytes: u64, idle: Duration, now: Instant) {
        let goal = self.reserved.saturating_sub(bytes);
        let is_idle = |block: &Block| now.saturating_duration_since(block.used_at) >= idle;

        while self.reserved > goal {
            let mut ranked = self.recency.values().copied();
            let found = ranked.find(|(id, number)| {
                self.versions.get(id).and_then(|version| version.blocks.get(number)).is_some_and(is_idle)
            });
            let Some((id, number)) = found else { return };

            self.evicted += 1;
            self.remove_block(id, number);
        }
    }

    /// Returns how many bytes are reserved for kept blocks.
    pub(super) const fn reserved(&self) -> u64 {
        self.reserved
    }

    /// Returns the number of blocks that were evicted for others since the last call.
    pub(super) const fn take_evicted(&mut self) -> u64 {
        std::mem::replace(&mut self.evicted, 0)
    }

    fn versions_of(&self, key: &Key) -> impl Iterator<Item = (VersionId, &Version<S>)> {
        let ids = self.of_key.get(key).into_iter().flatten();
        ids.filter_map(|id| Some((*id, self.versions.get(id)?)))
    }

    fn next_count(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    /// Keeps bytes within one block, as far as they are not kept already.
    fn keep(&mut self, id: VersionId, mut offset: u64, mut part: Bytes, now: Instant) {
        let number = offset / BLOCK_BYTES;
        if !self.has_block(id, number) && !self.add_block(id, number, now) {
            return;
        }
        self.use_block(id, number, now);

        let Some(version) = self.versions.get_mut(&id) else { return };
        while !part.is_empty() {
            let covered = version.piece_at(offset).map(|piece| piece.len());
            let len = covered.unwrap_or_else(|| {
                let next = version.blocks.get(&number).and_then(|block| block.pieces.range(offset..).next());
                next.map_or(part.len(), |(next, _)| usize::try_from(next - offset).unwrap_or(usize::MAX))
            });

            let piece = part.split_to(len.min(part.len()));
            let piece_at = offset;
            offset += piece.len() as u64;
            if let Some(block) = version.blocks.get_mut(&number).filter(|_| covered.is_none()) {
                block.pieces.insert(piece_at, piece);
            }
        }
    }

    fn has_block(&self, id: VersionId, number: u64) -> bool {
        self.versions.get(&id).is_some_and(|version| version.blocks.contains_key(&number))
    }

    /// Reserves memory for a block. Returns whether it has got any.
    fn add_block(&mut self, id: VersionId, number: u64, now: Instant) -> bool {
        let Some(version) = self.versions.get(&id) else { return false };
        let is_shared = version.is_shared;
        let start = number * BLOCK_BYTES;
        let len = version.object.size.min(start + BLOCK_BYTES) - start;
        let bytes = if is_shared { copied_bytes(len) } else { len * 3 / 2 };

        let is_wanted = version.readers_of(number) > 1;
        let Some(reservation) = self.make_room(bytes, is_shared, is_wanted) else { return false };
        let rank = Rank { is_shared, used: self.next_count() };
        let block = Block::new(rank, bytes, reservation, now);
        let Some(version) = self.versions.get_mut(&id) else { return false };

        version.blocks.insert(number, block);
        self.recency.insert(rank, (id, number));
        self.reserved += bytes;
        self.reserved_alone += if is_shared { 0 } else { bytes };
        true
    }

    /// Reserves memory, and evicts for it what was used least recently. What only one reader has requested never
    /// displaces what several have, and what nobody else wants now never displaces what somebody wants.
    fn make_room(&mut self, bytes: u64, is_shared: bool, is_wanted: bool) -> Option<Reservation> {
        let alone_max = self.limits.first_bytes.saturating_mul(3) / 2;

        loop {
            let fits = self.reserved + bytes <= self.limits.bytes_max.unwrap_or(u64::MAX)
                && (is_shared || self.reserved_alone + bytes <= alone_max);
            if fits && let Some(reservation) = self.budget.try_keep(bytes) {
                return Some(reservation);
            }

            let mut candidates = self.recency.iter().filter(|(rank, _)| is_shared || !rank.is_shared);
            let is_victim = |(id, number): (VersionId, u64)| {
                is_wanted || self.versions.get(&id).is_none_or(|version| version.readers_of(number) == 0)
            };
            let (rank, (id, number)) = candidates.find(|(_, block)| is_victim(**block))?;
            let (was_shared, id, number) = (rank.is_shared, *id, *number);

            self.evicted += u64::from(was_shared);
            self.remove_block(id, number);
        }
    }

    /// Records that a block was used.
    fn use_block(&mut self, id: VersionId, number: u64, now: Instant) {
        let used = self.next_count();
        let Some(block) = self.versions.get_mut(&id).and_then(|version| version.blocks.get_mut(&number)) else {
            return;
        };

        self.recency.remove(&block.rank);
        block.rank.used = used;
        block.used_at = now;
        self.recency.insert(block.rank, (id, number));
    }

    /// Discards all that is kept of a version.
    fn discard(&mut self, id: VersionId) {
        let Some(version) = self.versions.get(&id) else { return };
        let numbers: Vec<_> = version.blocks.keys().copied().collect();
        for number in numbers {
            self.remove_block(id, number);
        }
    }

    fn remove_block(&mut self, id: VersionId, number: u64) {
        let Some(version) = self.versions.get_mut(&id) else { return };
        let Some(block) = version.blocks.remove(&number) else { return };

        self.recency.remove(&block.rank);
        self.reserved -= block.bytes;
        self.reserved_alone -= if block.rank.is_shared { 0 } else { block.bytes };
        self.forget_if_unused(id);
    }

    /// Forgets a version of which nothing is kept or read.
    fn forget_if_unused(&mut self, id: VersionId) {
        let Some(version) = self.versions.get(&id) else { return };
        if !version.readers.is_empty() || !version.blocks.is_empty() {
            return;
        }

        let key = version.object.key.clone();
        self.versions.remove(&id);
        if let Some(ids) = self.of_key.get_mut(&key) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.of_key.remove(&key);
            }
        }
    }
}

/// Returns the memory for copies of `len` bytes. The allocator's sizes are up to a quarter apart, and half of that on average.
const fn copied_bytes(len: u64) -> u64 {
    len * 9 / 8
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = BLOCK_BYTES;
    const WHOLE: Span = Span { start: 0, end: None };

    /// What is kept of objects of ten blocks, with room for `blocks`.
    fn kept(blocks: u64) -> Kept<&'static str> {
        let bytes_max = Some(blocks * copied_bytes(BLOCK));
        Kept::new(Limits { bytes_max, ..Limits::default() }, Budget::new(1 << 30))
    }

    fn object(name: &str, etag: &str) -> Arc<ObjectInfo> {
        Arc::new(ObjectInfo::new(name.parse().unwrap(), 10 * BLOCK, etag.to_owned()))
    }

    /// Starts to read a version with this source.
    fn start(kept: &mut Kept<&'static str>, etag: &str, source: &'static str) -> (VersionId, ReaderId) {
        let id = kept.enter(&object("k", etag), true, Instant::now());
        let reader = kept.join(id, 0..10 * BLOCK);
        kept.add_source(id, 0..10 * BLOCK, source);
        (id, reader)
    }

    fn blocks(count: u64) -> Bytes {
        Bytes::from(vec![7; usize::try_from(count * BLOCK).unwrap()])
    }

    #[tokio::test]
    async fn a_reader_takes_kept_bytes_then_follows_and_else_reads_up_to_the_next_ones() {
        let (mut kept, now) = (kept(100), Instant::now());
        let (id, first) = start(&mut kept, "1", "a");
        kept.share(id);
        let second = kept.join(id, 0..10 * BLOCK);
        kept.push(id, &"a", blocks(2), now);

        assert!(matches!(kept.step(id, first, 2 * BLOCK, now), Some(Step::Follow("a"))));
        let Some(Step::Take(piece)) = kept.step(id, second, BLOCK + 5, now) else { panic!("nothing is kept") };
        assert_eq!(piece.len() as u64, BLOCK - 5);

        kept.evict(1, Duration::ZERO, now);
        assert!(matches!(kept.step(id, second, 5, now), Some(Step::Open { end }) if end == BLOCK));
        assert!(kept.leave(id, first).is_empty(), "the second reader wants the source");
        assert_eq!(kept.leave(id, second), ["a"]);
        assert_eq!(kept.reserved(), copied_bytes(BLOCK));
    }

    #[tokio::test]
    async fn the_block_that_was_not_used_for_the_longest_time_goes_first() {
        let (mut kept, now) = (kept(3), Instant::now());
        let (id, first) = start(&mut kept, "1", "a");
        kept.share(id);
        let second = kept.join(id, 0..10 * BLOCK);
        kept.push(id, &"a", blocks(3), now);
        kept.step(id, first, 3 * BLOCK, now);
        kept.step(id, second, 0, now);

        kept.push(id, &"a", blocks(1), now);
        let has = |kept: &Kept<_>| [0, 1, 2, 3].map(|number| kept.has(id, number * BLOCK));
        assert_eq!(has(&kept), [true, false, true, true]);
        assert_eq!(kept.take_evicted(), 1);

        // What only the first reader wants does not displace what another one still needs.
        kept.leave(id, second);
        let third = kept.join(id, 2 * BLOCK..4 * BLOCK);
        kept.push(id, &"a", blocks(2), now);
        assert_eq!(has(&kept), [false, false, true, true]);
        kept.leave(id, third);
    }

    #[tokio::test]
    async fn versions_are_kept_apart_and_one_reader_alone_displaces_nothing_that_is_shared() {
        let (mut kept, now) = (kept(4), Instant::now());
        let (old, _) = start(&mut kept, "1", "a");
        kept.share(old);
        kept.push(old, &"a", blocks(2), now);
        let (new, _) = start(&mut kept, "2", "b");
        assert!(old != new);

        kept.push(new, &"b", blocks(2), now);
        assert_eq!((kept.has(old, 0), kept.has(old, BLOCK)), (true, true));
        assert_eq!(kept.reserved(), 2 * copied_bytes(BLOCK) + BLOCK * 3 / 2);
        let found = kept.find(&object("k", "2"), WHOLE).map(|(id, _)| id);
        assert_eq!(found, Some(new));
        assert!(kept.find(&object("k", "3"), WHOLE).is_none());
    }

    #[tokio::test]
    async fn nothing_is_kept_of_what_one_reader_alone_has_read_much_of() {
        let mut kept = Kept::new(Limits { first_bytes: 2 * BLOCK, ..Limits::default() }, Budget::new(1 << 30));
        let (id, reader) = start(&mut kept, "1", "a");
        let now = Instant::now();

        kept.push(id, &"a", blocks(2), now);
        assert_eq!(kept.reserved(), 2 * BLOCK * 3 / 2);
        kept.push(id, &"a", blocks(1), now);
        assert_eq!(kept.reserved(), 0);

        kept.share(id);
        kept.push(id, &"a", blocks(1), now);
        assert_eq!(kept.reserved(), copied_bytes(BLOCK));
        kept.leave(id, reader);
        kept.expire(now + Duration::from_secs(60));
        assert!(kept.reserved() == 0 && kept.versions.is_empty() && kept.of_key.is_empty() && kept.recency.is_empty());
    }
}
