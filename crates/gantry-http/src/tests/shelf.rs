//! A store with objects that are described in full.

use std::collections::BTreeMap;
use std::sync::Mutex;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _, ready};
use futures_util::stream;

use gantry_proto::{
    Checksum, ChecksumAlgorithm, ChecksumKind, Key, ListPage, ListRequest, ObjectInfo, PartRun, Pin, Span,
};
use gantry_store::{Error, Opened, Store};

/// Objects by key. `stat` hides the sizes of upload parts, and a range hides the checksum, as S3 does. Listings are not
/// supported.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    objects: BTreeMap<Key, (ObjectInfo, Bytes)>,
    /// How often an open body was requested, and the spans.
    pub(super) opened: Mutex<Vec<Span>>,
    /// Bytes that replace each other between a description and its bytes, as often as there are.
    pub(super) replacements: Mutex<u32>,
}

impl Shelf {
    pub(super) fn put(&mut self, object: ObjectInfo, bytes: &'static [u8]) {
        self.objects.insert(object.key.clone(), (object, Bytes::from_static(bytes)));
    }

    fn find(&self, key: &Key, pin: &Pin) -> Result<(ObjectInfo, Bytes), Error> {
        let missing = || Error::NotFound("no such object".to_owned());
        let (object, bytes) = self.objects.get(key).cloned().ok_or_else(missing)?;
        if pin.version_id.is_some() && pin.version_id != object.version_id {
            return Err(missing());
        }
        if pin.if_match.as_ref().is_some_and(|etag| *etag != object.etag) {
            return Err(Error::Changed("another version".to_owned()));
        }
        Ok((object, bytes))
    }

    fn open_now(&self, key: &Key, pin: &Pin, span: Span) -> Result<Opened, Error> {
        let mut replacements = self.replacements.lock().unwrap();
        if *replacements > 0 {
            *replacements -= 1;
            return Err(Error::Changed("replaced".to_owned()));
        }

        let (mut object, bytes) = self.find(key, pin)?;
        let is_range = span.start > 0 || span.end.is_some_and(|end| end > 0);
        if is_range {
            object.checksum = None;
        }
        self.opened.lock().unwrap().push(span);
        let range = span.resolve(object.size).ok_or(Error::Range { start: span.start, size: object.size })?;
        let bytes = bytes.slice(usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap());
        let pieces = (!bytes.is_empty()).then_some(Ok(bytes));
        Ok(Opened { object, body: Box::pin(stream::iter(pieces)) })
    }
}

impl Store for Shelf {
    fn open<'a>(&'a self, key: &'a Key, pin: &'a Pin, span: Span) -> BoxFuture<'a, Result<Opened, Error>> {
        ready(self.open_now(key, pin, span)).boxed()
    }

    fn stat<'a>(&'a self, key: &'a Key, pin: &'a Pin) -> BoxFuture<'a, Result<ObjectInfo, Error>> {
        let stated = self.find(key, pin).map(|(mut object, _)| {
            if let Some(checksum) = &mut object.checksum {
                checksum.parts.clear();
            }
            object
        });
        ready(stated).boxed()
    }

    fn list<'a>(&'a self, _: &'a ListRequest) -> BoxFuture<'a, Result<ListPage, Error>> {
        ready(Err(Error::Denied("no listings".to_owned()))).boxed()
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), Error>> {
        ready(Err(Error::NotFound("no such bucket".to_owned()))).boxed()
    }
}

/// `0123456789`, uploaded in parts of 4, 4 and 2 bytes, with the composite SHA-256 that S3 computes.
pub(super) fn uploaded(key: &str) -> ObjectInfo {
    let mut object = ObjectInfo::new(key.parse().unwrap(), 10, "\"77f9b0e1b5f2-3\"".to_owned());
    object.version_id = Some("v1".to_owned());
    object.last_modified = Some("2025-01-02T03:04:05.678Z".to_owned());
    object.content_type = Some("text/x-digits".to_owned());
    object.metadata.insert("owner".to_owned(), "me".to_owned());
    object.checksum = Some(Checksum {
        algorithm: ChecksumAlgorithm::Sha256,
        kind: ChecksumKind::Composite,
        value: composite(&[b"0123", b"4567", b"89"]),
        parts: vec![PartRun { count: 2, size: 4 }, PartRun { count: 1, size: 2 }],
    });
    object
}

/// The composite SHA-256 of these parts, as S3 computes it.
pub(super) fn composite(parts: &[&[u8]]) -> String {
    use base64::Engine as _;
    use sha2::{Digest as _, Sha256};

    let digests: Vec<u8> = parts.iter().flat_map(|part| Sha256::digest(part).to_vec()).collect();
    base64::engine::general_purpose::STANDARD.encode(Sha256::digest(digests))
}
