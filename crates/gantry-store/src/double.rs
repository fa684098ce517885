//! A store in memory that counts what is read from it, and whose answers can be held back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream;
use tokio::sync::Semaphore;

use crate::{Error, Opened, Store};
use gantry_proto::{Key, ListPage, ListRequest, ObjectInfo, Pin, Span};

#[derive(Debug)]
pub(crate) struct Double {
    piece_bytes: usize,
    objects: Mutex<BTreeMap<Key, (ObjectInfo, Bytes)>>,
    /// After how many bytes the next bodies break.
    breaks: Mutex<VecDeque<usize>>,
    /// How many bytes too many the next bodies have.
    surplus: Mutex<VecDeque<i64>>,
    /// Whether `stat` does not return the sizes of parts.
    pub(crate) forget_parts_in_stat: AtomicBool,
    /// Whether an `open` with an end does not return the checksum, as that of S3.
    pub(crate) forget_checksum_in_ranges: AtomicBool,
    /// Whether `stat` is refused, in contrast to `open`.
    pub(crate) denies_stat: AtomicBool,
    /// Whether nothing answers.
    pub(crate) is_away: AtomicBool,
    pub(crate) keeps: AtomicBool,
    /// One permit for each answer to `open` and `stat`, and for each piece.
    pub(crate) open_gate: Semaphore,
    pub(crate) stat_gate: Semaphore,
    pub(crate) piece_gate: Semaphore,
    pub(crate) opens: AtomicU64,
    pub(crate) stats: AtomicU64,
    /// The number of bytes read from all bodies.
    pub(crate) read: AtomicU64,
}

impl Double {
    pub(crate) fn new(piece_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            piece_bytes,
            objects: Mutex::default(),
            breaks: Mutex::default(),
            surplus: Mutex::default(),
            forget_parts_in_stat: AtomicBool::new(false),
            forget_checksum_in_ranges: AtomicBool::new(false),
            denies_stat: AtomicBool::new(false),
            is_away: AtomicBool::new(false),
            keeps: AtomicBool::new(false),
            open_gate: Semaphore::new(Semaphore::MAX_PERMITS),
            stat_gate: Semaphore::new(Semaphore::MAX_PERMITS),
            piece_gate: Semaphore::new(Semaphore::MAX_PERMITS),
            opens: AtomicU64::new(0),
            stats: AtomicU64::new(0),
            read: AtomicU64::new(0),
        })
    }

    /// Lets no answer through that is not allowed by later permits.
    pub(crate) fn close(gate: &Semaphore) {
        gate.forget_permits(Semaphore::MAX_PERMITS);
    }

    pub(crate) fn reopen(gate: &Semaphore) {
        gate.add_permits(Semaphore::MAX_PERMITS - gate.available_permits());
    }

    pub(crate) fn put(&self, name: &str, etag: &str, bytes: &Bytes) {
        self.put_object(ObjectInfo::new(name.parse().unwrap(), bytes.len() as u64, etag.to_owned()), bytes);
    }

    pub(crate) fn put_object(&self, object: ObjectInfo, bytes: &Bytes) {
        self.objects.lock().unwrap().insert(object.key.clone(), (object, bytes.clone()));
    }

    pub(crate) fn remove(&self, name: &str) {
        self.objects.lock().unwrap().remove(&name.parse::<Key>().unwrap());
    }

    /// Adds bytes to the next body, or takes some away, which no store may do.
    pub(crate) fn lie_about_length(&self, surplus: i64) {
        self.surplus.lock().unwrap().push_back(surplus);
    }

    pub(crate) fn break_after(&self, bytes: usize) {
        self.breaks.lock().unwrap().push_back(bytes);
    }

    pub(crate) fn forget_breaks(&self) {
        self.breaks.lock().unwrap().clear();
    }

    pub(crate) fn count(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::SeqCst)
    }

    fn find(&self, key: &Key, pin: &Pin) -> Result<(ObjectInfo, Bytes), Error> {
        if self.is_away.load(Ordering::SeqCst) {
            return Err(Error::unavailable("away, as planned"));
        }
        let objects = self.objects.lock().unwrap();
        let (object, bytes) = objects.get(key).ok_or_else(|| Error::NotFound("no such key".to_owned()))?;
        if pin.if_match.as_ref().is_some_and(|etag| *etag != object.etag) {
            return Err(Error::Changed("another ETag".to_owned()));
        }
        Ok((object.clone(), bytes.clone()))
    }

    async fn pass(gate: &Semaphore) {
        gate.acquire().await.unwrap().forget();
    }

    /// Returns the next piece, as long as the object is not replaced.
    async fn piece(&self, object: &ObjectInfo, rest: &mut Bytes, left: &mut usize) -> Result<Option<Bytes>, Error> {
        if rest.is_empty() {
            return Ok(None);
        }
        Self::pass(&self.piece_gate).await;
        self.find(&object.key, &object.pin())?;
        if *left == 0 {
            return Err(Error::unavailable("broken, as planned"));
        }

        let piece = rest.split_to(self.piece_bytes.min(rest.len()).min(*left));
        *left -= piece.len();
        self.read.fetch_add(piece.len() as u64, Ordering::SeqCst);
        Ok(Some(piece))
    }
}

/// A handle that the decorator can own.
#[derive(Clone, Debug)]
pub(crate) struct Handle(pub(super) Arc<Double>);

impl Store for Handle {
    fn open<'a>(&'a self, key: &'a Key, pin: &'a Pin, span: Span) -> BoxFuture<'a, Result<Opened, Error>> {
        async move {
            let double = Arc::clone(&self.0);
            double.opens.fetch_add(1, Ordering::SeqCst);
            let (mut object, bytes) = double.find(key, pin)?;
            if span.end.is_some() && double.forget_checksum_in_ranges.load(Ordering::SeqCst) {
                object.checksum = None;
            }
            Double::pass(&double.open_gate).await;

            let range = span.resolve(object.size).ok_or(Error::Range { start: span.start, size: object.size })?;
            let at = |offset: u64| usize::try_from(offset).unwrap();
            let mut rest = bytes.slice(at(range.start)..at(range.end));
            match double.surplus.lock().unwrap().pop_front() {
                Some(surplus @ 1..) => rest = [&rest[..], &vec![7; usize::try_from(surplus).unwrap()]].concat().into(),
                Some(surplus) => rest.truncate(rest.len() - usize::try_from(-surplus).unwrap()),
                None => {}
            }
            let left = double.breaks.lock().unwrap().pop_front().unwrap_or(usize::MAX);

            let state = (double, object.clone(), rest, left);
            let body = stream::try_unfold(state, async |(double, object, mut rest, mut left)| {
                let piece = double.piece(&object, &mut rest, &mut left).await?;
                Ok(piece.map(|piece| (piece, (double, object, rest, left))))
            });
            Ok(Opened { object, body: Box::pin(body) })
        }
        .boxed()
    }

    fn stat<'a>(&'a self, key: &'a Key, pin: &'a Pin) -> BoxFuture<'a, Result<ObjectInfo, Error>> {
        async move {
            self.0.stats.fetch_add(1, Ordering::SeqCst);
            // The answer is that of the moment when the request arrived.
            let mut found = self.0.find(key, pin);
            if self.0.denies_stat.load(Ordering::SeqCst) {
                found = Err(Error::Denied("no description, as planned".to_owned()));
            }
            if self.0.forget_parts_in_stat.load(Ordering::SeqCst)
                && let Ok((ObjectInfo { checksum: Some(checksum), .. }, _)) = &mut found
            {
                checksum.parts.clear();
            }
            Double::pass(&self.0.stat_gate).await;
            found.map(|(object, _)| object)
        }
        .boxed()
    }

    fn list<'a>(&'a self, _: &'a ListRequest) -> BoxFuture<'a, Result<ListPage, Error>> {
        async { Ok(ListPage::default()) }.boxed()
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), Error>> {
        async { Ok(()) }.boxed()
    }

    fn keeps(&self, _: &ObjectInfo) -> bool {
        self.0.keeps.load(Ordering::SeqCst)
    }
}
