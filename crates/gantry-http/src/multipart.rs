//! Several ranges in one response. Source: RFC 9110, section 14.6.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use gantry_proto::{ObjectInfo, Span};
use gantry_store::{Error, Store};

use crate::content::{Content, Failure, Piecewise};

/// Ranges that are at most this far apart, in bytes, are read at once, and what is between them is discarded. It costs
/// less than another request to the store.
const GAP_MAX_BYTES: u64 = 64 << 10;

/// One range as a part of the response.
#[derive(Debug)]
struct Part {
    head: String,
    range: Range<u64>,
}

/// Returns the content of a response with these ranges, which must not overlap, and its media type. `part_head` are the
/// lines that describe each part.
pub(crate) fn content(
    store: Arc<dyn Store>,
    object: &ObjectInfo,
    ranges: &[Range<u64>],
    part_head: &str,
    boundary: &str,
) -> (Content, String) {
    let size = object.size;
    let part = |range: &Range<u64>| Part {
        head: format!(
            "\r\n--{boundary}\r\n{part_head}Content-Range: bytes {}-{}/{size}\r\n\r\n",
            range.start,
            range.end - 1,
        ),
        range: range.clone(),
    };

    let parts: Vec<_> = ranges.iter().map(part).collect();
    let end = format!("\r\n--{boundary}--\r\n");
    let left = parts.iter().map(|part| part.head.len() as u64 + (part.range.end - part.range.start)).sum::<u64>()
        + end.len() as u64;

    let object = Arc::new(object.clone());
    let groups = stream::iter(groups(parts)).then(move |group| read(Arc::clone(&store), Arc::clone(&object), group));
    let bytes = groups.try_flatten().chain(stream::once(async move { Ok(Bytes::from(end)) }));

    (Content::Multipart { left, parts: bytes.boxed() }, format!("multipart/byteranges; boundary={boundary}"))
}

/// Combines parts that are read at once.
fn groups(parts: Vec<Part>) -> Vec<Vec<Part>> {
    let mut groups: Vec<Vec<Part>> = Vec::new();
    for part in parts {
        let last = groups.last().and_then(|group| group.last()).map(|last| last.range.end);
        let is_near = last.is_some_and(|end| part.range.start >= end && part.range.start - end <= GAP_MAX_BYTES);

        match groups.last_mut() {
            Some(group) if is_near => group.push(part),
            Some(_) | None => groups.push(vec![part]),
        }
    }
    groups
}

/// Opens the span of a group, and returns its parts.
async fn read(
    store: Arc<dyn Store>,
    object: Arc<ObjectInfo>,
    group: Vec<Part>,
) -> Result<impl stream::Stream<Item = Result<Bytes, Failure>>, Failure> {
    let start = group.first().map_or(0, |part| part.range.start);
    let end = group.last().map_or(0, |part| part.range.end);

    let opened = store.open(&object.key, &object.pin(), Span { start, end: Some(end) }).await?;
    if opened.object.etag != object.etag || opened.object.size != object.size {
        return Err(Error::Changed("the object was replaced between two ranges".to_owned()).into());
    }

    let state = Reading {
        body: Piecewise::new(opened.body, end - start, None),
        at: start,
        piece: Bytes::new(),
        parts: group.into(),
    };
    Ok(stream::try_unfold(state, async |mut state| Ok(state.next().await?.map(|bytes| (bytes, state)))))
}

/// A group that is being read.
struct Reading {
    body: Piecewise,
    /// The offset of the first byte of `piece`.
    at: u64,
    piece: Bytes,
    parts: VecDeque<Part>,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let Some(part) = self.parts.front_mut() else { return Ok(None) };
            if !part.head.is_empty() {
                return Ok(Some(std::mem::take(&mut part.head).into()));
            }

            if part.range.start == part.range.end {
                self.parts.pop_front();
                continue;
            }

            if self.piece.is_empty() {
                let missing = || Failure::mismatch("the store returned too few bytes");
                self.piece = self.body.next().await.ok_or_else(missing)??;
            }

            let gap = cut(&mut self.piece, part.range.start - self.at);
            self.at += gap.len() as u64;
            if self.at < part.range.start {
                continue;
            }

            let bytes = cut(&mut self.piece, part.range.end - part.range.start);
            if bytes.is_empty() {
                continue;
            }
            self.at += bytes.len() as u64;
            part.range.start = self.at;
            return Ok(Some(bytes));
        }
    }
}

/// Removes up to `len` bytes from the front of a piece.
fn cut(piece: &mut Bytes, len: u64) -> Bytes {
    let len = usize::try_from(len).unwrap_or(usize::MAX).min(piece.len());
    piece.split_to(len)
}
