//! An in-memory store for tests, with faults on demand.
//!
//! Faults come from a plan, one for each `open`, or are drawn from a seed: the same seed gives the same faults.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use futures_util::stream;
use tokio::time::sleep;

use gantry_proto::{
    Checksum, ChecksumAlgorithm, ChecksumKind, Key, ListEntry, ListPage, ListRequest, ObjectInfo, Pin, Span,
};
use gantry_store::{Body, Error, LIST_LIMIT_MAX, Opened, Store};

/// The fault of one `open` and its body. Byte counts are relative to the span's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// No fault.
    #[default]
    None,
    /// The store is unreachable.
    Unavailable,
    /// The store denies access.
    Denied,
    /// The body fails after this many bytes, as if the store had become unreachable.
    Break(u64),
    /// The body fails after this many bytes because the object was replaced.
    Change(u64),
    /// The body stalls after this many bytes.
    Stall(u64),
    /// The body waits this long before each piece.
    Slow(Duration),
    /// The body ends this many bytes too early, which no store may do.
    Short(u64),
    /// The body is this many bytes too long, which no store may do.
    Long(u64),
    /// The byte at this position is wrong.
    Flip(u64),
}

/// An in-memory store.
pub struct MemoryStore {
    /// The size of every piece except the last, in bytes.
    piece_bytes: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<Key, (ObjectInfo, Bytes)>,
    puts: u64,
    opens: u64,
    plan: VecDeque<Fault>,
    seeded: Option<Seeded>,
}

struct Seeded {
    state: u64,
    per_mille: u64,
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("piece_bytes", &self.piece_bytes).finish_non_exhaustive()
    }
}

impl MemoryStore {
    /// Creates a store without objects and faults. Bodies consist of pieces of `piece_bytes`, which must be at least 1.
    #[must_use]
    pub fn new(piece_bytes: u64) -> Self {
        Self { piece_bytes: piece_bytes.max(1), state: Mutex::default() }
    }

    /// Stores or replaces an object, with a new `ETag` and its CRC-64/NVME. Open bodies are not affected.
    pub fn put(&self, key: Key, bytes: impl Into<Bytes>) -> ObjectInfo {
        let bytes = bytes.into();
        let mut state = self.state();
        state.puts += 1;

        let crc = crc_fast::checksum(CrcAlgorithm::Crc64Nvme, &bytes);
        let mut object = ObjectInfo::new(key.clone(), bytes.len() as u64, format!("\"{}\"", state.puts));
        object.last_modified = Some("2025-01-01T00:00:00Z".to_owned());
        object.checksum = Some(Checksum {
            algorithm: ChecksumAlgorithm::Crc64Nvme,
            kind: ChecksumKind::FullObject,
            value: BASE64_STANDARD.encode(crc.to_be_bytes()),
            parts: Vec::new(),
        });

        state.objects.insert(key, (object.clone(), bytes));

        object
    }

    /// Removes an object.
    pub fn remove(&self, key: &Key) {
        self.state().objects.remove(key);
    }

    /// Appends faults for the next calls of `open`.
    pub fn plan(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state().plan.extend(faults);
    }

    /// Draws random faults of every kind from `seed`, for `per_mille` of 1000 calls of `open` without a planned fault.
    pub fn seed_faults(&self, seed: u64, per_mille: u64) {
        self.state().seeded = Some(Seeded { state: seed, per_mille });
    }

    /// Returns how often `open` was called.
    pub fn opens(&self) -> u64 {
        self.state().opens
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, key: &Key, pin: &Pin) -> Result<(ObjectInfo, Bytes), Error> {
        let state = self.state();
        let Some((object, bytes)) = state.objects.get(key).filter(|_| pin.version_id.is_none()) else {
            return Err(Error::NotFound(format!("key {:?}: no such object or version", key.as_str())));
        };

        if pin.if_match.as_ref().is_some_and(|etag| *etag != object.etag) {
            return Err(Error::Changed(format!("key {:?} has another ETag", key.as_str())));
        }
        Ok((object.clone(), bytes.clone()))
    }

    fn open_now(&self, key: &Key, pin: &Pin, span: Span) -> Result<Opened, Error> {
        let fault = self.state().next_fault();
        match fault {
            Fault::Unavailable => return Err(Error::unavailable(format!("key {:?}: as planned", key.as_str()))),
            Fault::Denied => return Err(Error::Denied(format!("key {:?}: as planned", key.as_str()))),
            Fault::None
            | Fault::Break(_)
            | Fault::Change(_)
            | Fault::Stall(_)
            | Fault::Slow(_)
            | Fault::Short(_)
            | Fault::Long(_)
            | Fault::Flip(_) => {}
        }

        let (object, bytes) = self.find(key, pin)?;
        let range = span.resolve(object.size).ok_or(Error::Range { start: span.start, size: object.size })?;
        let reader = Reader::new(&bytes, range, fault, self.piece_bytes);

        Ok(Opened { object, body: reader.into_body() })
    }
}

impl Store for MemoryStore {
    fn open<'a>(&'a self, key: &'a Key, pin: &'a Pin, span: Span) -> BoxFuture<'a, Result<Opened, Error>> {
        ready(self.open_now(key, pin, span)).boxed()
    }

    fn stat<'a>(&'a self, key: &'a Key, pin: &'a Pin) -> BoxFuture<'a, Result<ObjectInfo, Error>> {
        ready(self.find(key, pin).map(|(object, _)| object)).boxed()
    }

    fn list<'a>(&'a self, request: &'a ListRequest) -> BoxFuture<'a, Result<ListPage, Error>> {
        ready(Ok(self.state().page(request))).boxed()
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), Error>> {
        ready(Ok(())).boxed()
    }
}

impl State {
    fn next_fault(&mut self) -> Fault {
        self.opens += 1;
        if let Some(fault) = self.plan.pop_front() {
            return fault;
        }

        let Some(seeded) = &mut self.seeded else { return Fault::None };
        if seeded.draw() % 1000 >= seeded.per_mille {
            return Fault::None;
        }

        let after = seeded.draw() % (1 << 20);
        match seeded.draw() % 9 {
            0 => Fault::Unavailable,
            1 => Fault::Denied,
            2 => Fault::Break(after),
            3 => Fault::Change(after),
            4 => Fault::Stall(after),
            5 => Fault::Slow(Duration::from_millis(after % 1000)),
            6 => Fault::Short(after),
            7 => Fault::Long(after),
            _ => Fault::Flip(after),
        }
    }

    fn page(&self, request: &ListRequest) -> ListPage {
        let limit = request.limit.unwrap_or(LIST_LIMIT_MAX).clamp(1, LIST_LIMIT_MAX) as usize;
        let after = request.token.as_deref();
        let mut page = ListPage::default();
        let mut last: Option<String> = None;

        for (key, (object, _)) in &self.objects {
            let Some(rest) = key.as_str().strip_prefix(&request.prefix) else { continue };
            let folded = rest.find('/').filter(|_| !request.recursive);
            let item = folded.map_or(key.as_str(), |slash| &key.as_str()[..request.prefix.len() + slash + 1]);
            if after.is_some_and(|after| item <= after) || last.as_deref() == Some(item) {
                continue;
            }

            if page.entries.len() + page.prefixes.len() == limit {
                page.next = last;
                return page;
            }

            last = Some(item.to_owned());
            if folded.is_some() {
                page.prefixes.push(item.to_owned());
            } else {
                let mut entry = ListEntry::new(item.to_owned(), object.size);
                entry.etag = Some(object.etag.clone());
                entry.last_modified = object.last_modified.clone();
                page.entries.push(entry);
            }
        }

        page
    }
}

impl Seeded {
    /// `SplitMix64`, public domain.
    const fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// The rest of a span, and its fault.
struct Reader {
    rest: Bytes,
    /// The number of bytes before the fault occurs.
    before_fault: Option<u64>,
    fault: Fault,
    piece_bytes: u64,
}

impl Reader {
    fn new(bytes: &Bytes, range: Range<u64>, fault: Fault, piece_bytes: u64) -> Self {
        // The object is in memory, so its offsets fit.
        let at = |offset: u64| usize::try_from(offset).unwrap_or(bytes.len()).min(bytes.len());
        let span = bytes.slice(at(range.start)..at(range.end));

        let (rest, before_fault) = match fault {
            Fault::Short(by) => (span.slice(..span.len() - at(by).min(span.len())), None),
            Fault::Long(by) => ([span.as_ref(), &vec![0xaa; usize::try_from(by).unwrap_or(0)]].concat().into(), None),
            Fault::Flip(after) => {
                let mut span = span.to_vec();
                if let Some(byte) = usize::try_from(after).ok().and_then(|after| span.get_mut(after)) {
                    *byte ^= 1;
                }
                (span.into(), None)
            }
            Fault::Break(after) | Fault::Change(after) | Fault::Stall(after) => (span, Some(after)),
            Fault::None | Fault::Unavailable | Fault::Denied | Fault::Slow(_) => (span, None),
        };

        Self { rest, before_fault, fault, piece_bytes }
    }

    fn into_body(self) -> Body {
        Box::pin(stream::try_unfold(self, async |mut reader| Ok(reader.piece().await?.map(|piece| (piece, reader)))))
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, Error> {
        if self.before_fault == Some(0) && !self.rest.is_empty() {
            return match self.fault {
                Fault::Stall(_) => std::future::pending().await,
                Fault::Change(_) => Err(Error::Changed("replaced, as planned".to_owned())),
                Fault::None
                | Fault::Unavailable
                | Fault::Denied
                | Fault::Break(_)
                | Fault::Slow(_)
                | Fault::Short(_)
                | Fault::Long(_)
                | Fault::Flip(_) => Err(Error::unavailable("broken, as planned")),
            };
        }

        if let Fault::Slow(pause) = self.fault {
            sleep(pause).await;
        }

        let len = self.piece_bytes.min(self.before_fault.unwrap_or(u64::MAX));
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(self.rest.len());
        self.before_fault = self.before_fault.map(|before| before - len as u64);

        let piece = self.rest.split_to(len);
        Ok((!piece.is_empty()).then_some(piece))
    }
}
