//! GET and HEAD of an object.

use std::ops::Range;
use std::sync::Arc;

use hyper::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RANGE,
};
use hyper::{StatusCode, header};
use tracing::warn;
use uuid::Uuid;

use gantry_proto::{ChecksumKind, Key, ObjectInfo, Pin, Span};
use gantry_store::{Error, Opened, Store};
use gantry_verify::Verifier;

use crate::condition::{self, Verdict};
use crate::content::{Content, Piecewise};
use crate::date;
use crate::describe;
use crate::fault::Fault;
use crate::multipart;
use crate::proof;
use crate::range::{self, Ranges};
use crate::reply::Reply;
use crate::target::Query;
use crate::version;

/// How often a request is answered anew because the object was replaced between its description and its bytes.
const ATTEMPTS_MAX: u32 = 3;

/// A GET or HEAD of an object.
#[derive(Debug)]
pub(crate) struct Read<'a> {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) key: &'a Key,
    pub(crate) is_head: bool,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) query: &'a Query,
    /// Whether the client accepts trailers.
    pub(crate) has_trailer: bool,
    /// Whether the length can be announced beside a trailer, as in HTTP/2.
    pub(crate) has_length: bool,
}

impl Read<'_> {
    /// Answers the request. All bytes of the response are of one version.
    pub(crate) async fn answer(&self) -> Result<Reply, Fault> {
        let part = self.part()?;

        let mut attempt = 1;
        loop {
            match self.answer_once(part).await {
                Err(fault) if fault.is_change && attempt < ATTEMPTS_MAX => attempt += 1,
                answered => return answered,
            }
        }
    }

    async fn answer_once(&self, part: Option<u64>) -> Result<Reply, Fault> {
        if !self.is_head && part.is_none() && !condition::has_any(self.headers) {
            match self.range_header() {
                None => return self.whole(self.open(&version::pin(self.query), Span::default()).await?).await,
                Some(header) if !self.headers.contains_key(header::IF_RANGE) => {
                    if let Some((start, end)) = range::plain(header) {
                        return self.plain(start, end).await;
                    }
                }
                Some(_) => {}
            }
        }

        let object = self.described(part.is_some()).await?;
        match condition::evaluate(self.headers, &describe::validators(&object)) {
            Verdict::Proceed => {}
            Verdict::NotModified => return Ok(self.not_modified(&object)),
            Verdict::Failed(condition) => return Err(Fault::precondition(condition)),
        }

        if let Some(number) = part {
            return self.part_of(&object, number).await;
        }
        match self.ranges(&object) {
            Ranges::Whole if self.is_head => Ok(self.whole_head(&object)),
            Ranges::Whole => self.whole(self.open(&object.pin(), Span::default()).await?).await,
            Ranges::Unsatisfiable => Err(Fault::range(object.size)),
            Ranges::One(range) => self.range(&object, range).await,
            Ranges::Several(ranges) => Ok(self.several(&object, &ranges)),
        }
    }

    /// Answers a request for one range that can be opened without a description.
    async fn plain(&self, start: u64, end: Option<u64>) -> Result<Reply, Fault> {
        let mut opened = self.open(&version::pin(self.query), Span { start, end }).await?;
        let size = opened.object.size;
        if start >= size {
            return Err(Fault::range(size));
        }

        let range = start..end.unwrap_or(size).min(size);
        if range == (0..size) && end.is_some() && lacks_checksum(&opened.object) {
            // It turns out to be the whole object, whose checksum stores state only if they know that it is read as such.
            let pin = opened.object.pin();
            drop(opened);
            opened = self.open(&pin, Span::default()).await?;
        }
        self.opened_range(opened, range).await
    }

    /// Returns the description of the object. With `needs_parts`, or for HEAD, it states everything that opening the
    /// object would.
    async fn described(&self, needs_parts: bool) -> Result<ObjectInfo, Fault> {
        let object = self.stat(&version::pin(self.query)).await?;

        let lacks_parts = object.stated_checksum().map_or_else(
            || describe::etag_parts(&object).is_some(),
            |checksum| checksum.kind == ChecksumKind::Composite && checksum.parts.is_empty(),
        );
        if !lacks_parts || !(needs_parts || self.is_head) {
            return Ok(object);
        }

        let nothing = Span { start: 0, end: Some(0) };
        Ok(self.open(&object.pin(), nothing).await?.object)
    }

    fn ranges(&self, object: &ObjectInfo) -> Ranges {
        // Range is defined for GET only: RFC 9110, section 14.2.
        if self.is_head || !condition::applies_to_range(self.headers, &describe::validators(object), date::now()) {
            return Ranges::Whole;
        }
        self.range_header().map_or(Ranges::Whole, |header| range::resolve(header, object.size))
    }

    /// Returns the `Range` header, unless it is repeated or not text, which makes it invalid.
    fn range_header(&self) -> Option<&str> {
        let mut values = self.headers.get_all(RANGE).iter();
        let value = values.next()?.to_str().ok()?;
        if values.next().is_some() { None } else { Some(value) }
    }

    async fn whole(&self, opened: Opened) -> Result<Reply, Fault> {
        let Opened { object, body } = opened;
        let verifier = Verifier::new(object.stated_checksum(), object.size);
        let content = begin(Piecewise::new(body, object.size, Some(verifier))).await?;
        Ok(self.whole_with(&object, content))
    }

    fn whole_head(&self, object: &ObjectInfo) -> Reply {
        self.whole_with(object, Content::Head { len: object.size })
    }

    fn whole_with(&self, object: &ObjectInfo, content: Content) -> Reply {
        let mut reply = Reply::new(StatusCode::OK, content);
        reply.headers = describe::object(object, self.query);
        self.add_checksum(object, &mut reply.headers);

        let expected = Verifier::new(object.stated_checksum(), object.size).expected();
        reply.headers.insert(HeaderName::from_static(proof::NAME), proof::value(expected));
        if self.has_trailer {
            reply.headers.insert(header::TRAILER, HeaderValue::from_static("Gantry-Proof"));
        }
        if self.has_length || !self.has_trailer {
            reply.headers.insert(CONTENT_LENGTH, HeaderValue::from(object.size));
        }
        reply
    }

    /// Adds the stored checksum if the client asks for it, as S3 does.
    fn add_checksum(&self, object: &ObjectInfo, headers: &mut HeaderMap) {
        let mode = self.headers.get("x-amz-checksum-mode");
        if mode.is_some_and(|mode| mode.as_bytes().eq_ignore_ascii_case(b"enabled")) {
            describe::checksum(object, headers);
        }
    }

    async fn range(&self, object: &ObjectInfo, range: Range<u64>) -> Result<Reply, Fault> {
        // Of the whole object, stores state the checksum only if they know that it is read as such.
        let end = if range == (0..object.size) { None } else { Some(range.end) };
        let span = Span { start: range.start, end };
        self.opened_range(self.open(&object.pin(), span).await?, range).await
    }

    async fn opened_range(&self, opened: Opened, range: Range<u64>) -> Result<Reply, Fault> {
        let Opened { object, body } = opened;
        // The whole object can be verified, however it is requested.
        let is_whole = range == (0..object.size);
        let verifier = is_whole.then(|| Verifier::new(object.stated_checksum(), object.size));
        let expected = verifier.as_ref().map_or(proof::TRANSPORT, |verifier| proof::value(verifier.expected()));

        let content = begin(Piecewise::new(body, range.end - range.start, verifier)).await?;
        Ok(self.partial(&object, &range, content, expected))
    }

    fn partial(&self, object: &ObjectInfo, range: &Range<u64>, content: Content, proof: HeaderValue) -> Reply {
        let mut reply = Reply::new(StatusCode::PARTIAL_CONTENT, content);
        reply.headers = describe::object(object, self.query);
        reply.headers.insert(HeaderName::from_static(proof::NAME), proof);
        reply.headers.insert(CONTENT_LENGTH, HeaderValue::from(range.end - range.start));

        let content_range = format!("bytes {}-{}/{}", range.start, range.end - 1, object.size);
        if let Ok(value) = HeaderValue::try_from(content_range) {
            reply.headers.insert(CONTENT_RANGE, value);
        }
        reply
    }

    fn several(&self, object: &ObjectInfo, ranges: &[Range<u64>]) -> Reply {
        let mut headers = describe::object(object, self.query);
        let part_head = part_head(&mut headers);

        // Unpredictable, so that no object can contain it.
        let boundary = Uuid::new_v4().simple().to_string();
        let (content, content_type) =
            multipart::content(Arc::clone(&self.store), object, ranges, &part_head, &boundary);

        headers.insert(HeaderName::from_static(proof::NAME), proof::TRANSPORT);
        headers.insert(CONTENT_LENGTH, HeaderValue::from(content.left()));
        if let Ok(value) = HeaderValue::try_from(content_type) {
            headers.insert(CONTENT_TYPE, value);
        }
        Reply { status: StatusCode::PARTIAL_CONTENT, headers, content }
    }

    /// Returns the number of the requested part of an upload.
    fn part(&self) -> Result<Option<u64>, Fault> {
        let Some(number) = self.query.number("partNumber")? else { return Ok(None) };
        if !(1..=10_000).contains(&number) {
            return Err(Fault::invalid_argument("`partNumber` must be 1 to 10000"));
        }
        if self.headers.contains_key(RANGE) {
            return Err(Fault::invalid_argument("`partNumber` and `Range` exclude each other"));
        }
        Ok(Some(number))
    }

    async fn part_of(&self, object: &ObjectInfo, number: u64) -> Result<Reply, Fault> {
        let (range, count) = part_range(object, number)?;

        // An object without bytes has no range that could be stated.
        let mut reply = if range.is_empty() {
            self.whole_head(object)
        } else if self.is_head {
            let content = Content::Head { len: range.end - range.start };
            let is_whole = range == (0..object.size);
            let verifier = is_whole.then(|| Verifier::new(object.stated_checksum(), object.size));
            let expected = verifier.map_or(proof::TRANSPORT, |verifier| proof::value(verifier.expected()));
            self.partial(object, &range, content, expected)
        } else {
            self.range(object, range).await?
        };

        if count > 1 {
            reply.headers.insert("x-amz-mp-parts-count", HeaderValue::from(count));
        }
        Ok(reply)
    }

    fn not_modified(&self, object: &ObjectInfo) -> Reply {
        let mut reply = Reply::new(StatusCode::NOT_MODIFIED, Content::EMPTY);
        reply.headers = describe::version(object);
        reply
    }

    async fn open(&self, pin: &Pin, span: Span) -> Result<Opened, Fault> {
        version::open(&*self.store, self.key, pin, span).await.map_err(|error| self.fault(&error))
    }

    async fn stat(&self, pin: &Pin) -> Result<ObjectInfo, Fault> {
        version::stat(&*self.store, self.key, pin).await.map_err(|error| self.fault(&error))
    }

    fn fault(&self, error: &Error) -> Fault {
        Fault::of_store(error, self.query.has("versionId"))
    }
}

/// Returns the lines that describe a part of a response with several, and removes what does not describe all of it.
fn part_head(headers: &mut HeaderMap) -> String {
    let names = [("Content-Type", CONTENT_TYPE), ("Content-Encoding", CONTENT_ENCODING)];
    let lines = names.into_iter().filter_map(|(shown, name)| {
        let value = headers.remove(name)?;
        Some(format!("{shown}: {}\r\n", value.to_str().ok()?))
    });
    lines.collect()
}

/// Waits for the first bytes.
async fn begin(piecewise: Piecewise) -> Result<Content, Fault> {
    piecewise.begin().await.map_err(|failure| match failure.store_error() {
        Some(error) => Fault::of_store(error, false),
        None => {
            warn!(error = %failure, "an object's bytes are wrong");
            Fault::mismatch(failure.to_string())
        }
    })
}

/// Returns whether a description may lack the checksum that the store keeps of the object, or the sizes of its parts.
fn lacks_checksum(object: &ObjectInfo) -> bool {
    object.stated_checksum().is_none_or(|checksum| match checksum.kind {
        ChecksumKind::FullObject => false,
        ChecksumKind::Composite => checksum.parts.is_empty(),
        ChecksumKind::Etag => true,
    })
}

/// Returns the range of an upload's part, and the number of parts.
///
/// # Errors
/// 416 if there is no such part, and 501 if the sizes of the parts are unknown.
fn part_range(object: &ObjectInfo, number: u64) -> Result<(Range<u64>, u64), Fault> {
    let runs = object.stated_checksum().map(|checksum| checksum.parts.as_slice()).unwrap_or_default();
    if runs.is_empty() {
        return match describe::etag_parts(object).unwrap_or(1) {
            1 if number == 1 => Ok((0..object.size, 1)),
            count if number <= count => Err(Fault::not_implemented("the sizes of the object's parts are unknown")),
            _ => Err(Fault::part(number, object.size)),
        };
    }

    let count = runs.iter().fold(0_u64, |sum, run| sum.saturating_add(run.count));
    let mut before = 0_u64;
    let mut start = 0_u64;
    for run in runs {
        if number <= before.saturating_add(run.count) {
            let start = start.saturating_add((number - before - 1).saturating_mul(run.size)).min(object.size);
            return Ok((start..start.saturating_add(run.size).min(object.size), count));
        }
        before = before.saturating_add(run.count);
        start = start.saturating_add(run.count.saturating_mul(run.size));
    }
    Err(Fault::part(number, object.size))
}
