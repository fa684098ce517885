//! The bytes of a range, over as many requests as it takes.
//!
//! What the consumer takes now comes straight from a response, with TCP's own back pressure. Ranges that follow are
//! fetched into memory beside it, as many as it takes for the consumer not to wait and as the budget allows. Where the
//! budget is spent, one response is read from end to end.
//!
//! A response that waits for its consumer fills the sockets' buffers meanwhile, on both sides and with megabytes. So
//! among many readers each asks for a little at a time.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::bucket::{Bucket, Cures};
use super::failure::Failure;
use super::options::Limits;
use super::pace::Pace;
use crate::budget::{Reservation, Seat};
use crate::{Body, Budget, Error};
use gantry_proto::ObjectInfo;

/// From how many readers in the process on each asks for less at a time. With a thousand whole objects on their way over
/// loopback, the kernel ran out of memory for sockets and every connection crawled.
const CROWD: usize = 100;

/// What the readers of a crowd ask for at a time, together, in bytes, if that is less. Of 512 readers, with 1 GiB in all
/// they were as fast as with less, and with 2 GiB a quarter as fast.
const CROWD_BYTES: u64 = 1 << 30;

/// The least that a reader asks for in an even larger crowd, in bytes: a request is not free.
const CROWD_SHARE_MIN: u64 = 256 * 1024;

/// Returns where a response that begins at `start` should end: at `end`, or in a crowd after a quarter of a range at the
/// most.
pub(super) fn response_end(budget: &Budget, limits: &Limits, start: u64, end: Option<u64>) -> Option<u64> {
    let readers = budget.readers();
    if readers < CROWD {
        return end;
    }
    let share = (CROWD_BYTES / u64::try_from(readers).unwrap_or(u64::MAX)).max(CROWD_SHARE_MIN);
    let near = start.saturating_add((limits.range_bytes / 4).min(share).max(1));
    Some(end.map_or(near, |end| end.min(near)))
}

/// Reads a range of one version of an object.
///
/// A body that breaks, stalls or ends early is asked for again from the first byte that was not handed out.
pub(super) struct Reader {
    bucket: Arc<Bucket>,
    object: Arc<ObjectInfo>,
    budget: Budget,
    /// The first byte that was not handed out.
    next: u64,
    end: u64,
    current: Option<Source>,
    /// Ranges without gaps, from where the current source is left.
    ahead: VecDeque<Ahead>,
    pace: Pace,
    client: Arc<Client>,
    trouble: Option<Trouble>,
    _seat: Seat,
}

enum Source {
    Direct(Response),
    Ahead(Ahead),
}

/// A response that is read as its bytes are wanted.
pub(super) struct Response {
    pub(super) body: ByteStream,
    /// Where it ends, as an absolute offset; where a range ahead begins before that, it is left.
    pub(super) end: u64,
}

/// A range that a task of its own fetches.
struct Ahead {
    range: Range<u64>,
    /// Not bounded by a count of pieces, but by the range's bytes, which are reserved.
    pieces: mpsc::UnboundedReceiver<Result<Bytes, Failure>>,
    _task: AbortOnDropHandle<()>,
    _reservation: Reservation,
}

/// Failures since the last byte.
struct Trouble {
    since: Instant,
    cures: Cures,
}

impl Reader {
    /// Reads `range`. `current` is a response that begins where it does.
    pub(super) fn new(
        bucket: Arc<Bucket>,
        object: &ObjectInfo,
        range: Range<u64>,
        current: Option<Response>,
        budget: Budget,
        seat: Seat,
    ) -> Self {
        Self {
            object: Arc::new(object.clone()),
            _seat: seat,
            budget,
            next: range.start,
            end: range.end,
            current: current.map(Source::Direct),
            ahead: VecDeque::new(),
            pace: Pace::new(bucket.limits()),
            client: bucket.client(),
            bucket,
            trouble: None,
        }
    }

    pub(super) fn into_body(self) -> Body {
        Box::pin(stream::try_unfold(self, async |mut reader| Ok(reader.piece().await?.map(|piece| (piece, reader)))))
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, Error> {
        self.pace.asked(Instant::now());
        while self.next < self.end {
            match self.pull().await {
                Ok(mut piece) => {
                    // What a response yields beyond its range is no part of the object, or comes from the next source.
                    let left = usize::try_from(self.limit() - self.next).unwrap_or(usize::MAX);
                    piece.truncate(left);
                    self.next += piece.len() as u64;
                    self.trouble = None;
                    self.pace.given(Instant::now(), piece.len() as u64);
                    if self.next == self.limit() {
                        let next = self.next;
                        self.current = self.ahead.pop_front_if(|ahead| ahead.range.start == next).map(Source::Ahead);
                    }
                    self.fetch_ahead();
                    return Ok(Some(piece));
                }
                Err(failure) => self.recover(failure).await?,
            }
        }
        Ok(None)
    }

    /// Returns where the current source is left for the next one.
    fn limit(&self) -> u64 {
        let end = match &self.current {
            Some(Source::Ahead(current)) => return current.range.end,
            Some(Source::Direct(response)) => response.end,
            None => response_end(&self.budget, self.bucket.limits(), self.next, Some(self.end)).unwrap_or(self.end),
        };
        self.ahead.front().map_or(end, |ahead| end.min(ahead.range.start))
    }

    /// Returns the next bytes, never none, of the current source or of a new one.
    async fn pull(&mut self) -> Result<Bytes, Failure> {
        // Taken out, so that a source that fails is not used again.
        let (piece, source) = match self.current.take() {
            Some(Source::Ahead(mut ahead)) => {
                let piece = ahead.pieces.recv().await.unwrap_or_else(|| {
                    Err(Failure::passing(format!("{}: a range was not fetched", self.bucket.what(&self.object.key))))
                })?;
                (piece, Source::Ahead(ahead))
            }
            Some(Source::Direct(mut response)) => {
                (self.bucket.next_piece(&self.object.key, &mut response.body).await?, Source::Direct(response))
            }
            None => {
                let end = self.limit();
                let mut body = self.bucket.resume(&self.client, &self.object, self.next..end).await?;
                let piece = self.bucket.next_piece(&self.object.key, &mut body).await?;
                (piece, Source::Direct(Response { body, end }))
            }
        };
        self.current = Some(source);
        Ok(piece)
    }

    /// Starts to fetch what the consumer will ask for soon.
    fn fetch_ahead(&mut self) {
        let range_bytes = self.bucket.limits().range_bytes;
        while self.ahead.len() < self.pace.ahead() && self.budget.readers() < CROWD {
            let start = match (self.ahead.back(), &self.current) {
                (Some(Ahead { range, .. }), _) | (None, Some(Source::Ahead(Ahead { range, .. }))) => range.end,
                // A response that is about to be left would be left with much of it on its way.
                (None, _) => (self.next + range_bytes / 4).next_multiple_of(range_bytes),
            };
            let range = start..self.end.min(start - start % range_bytes + range_bytes);
            if range.is_empty() {
                return;
            }
            // A piece keeps the whole buffer that it was read into.
            let Some(reservation) = self.budget.try_reserve((range.end - range.start) * 3 / 2) else { return };
            let (sender, pieces) = mpsc::unbounded_channel();
            let fetch = fetch(Arc::clone(&self.bucket), Arc::clone(&self.object), range.clone(), sender);
            let task = AbortOnDropHandle::new(tokio::spawn(fetch.in_current_span()));
            self.ahead.push_back(Ahead { range, pieces, _task: task, _reservation: reservation });
        }
    }

    /// Prepares another try, or gives up.
    async fn recover(&mut self, failure: Failure) -> Result<(), Error> {
        let limits = self.bucket.limits();
        let trouble = self.trouble.get_or_insert_with(|| Trouble { since: Instant::now(), cures: Cures::new(limits) });
        let what = self.bucket.what(&self.object.key);
        let cured = self.bucket.cure(&self.client, &mut trouble.cures, failure, &what).await;
        let failure = cured.map_err(|failure| failure.error)?;
        let Some(pause) = trouble.cures.pause(&failure) else { return Err(failure.error) };
        if trouble.since.elapsed() + pause > limits.retry_budget {
            return Err(failure.error);
        }
        tracing::debug!(error = %failure.error, offset = self.next, ?pause, "asking for the rest again");
        sleep(pause).await;
        self.client = self.bucket.client();
        Ok(())
    }
}

/// Sends the pieces of a range, or the failure that ends them. The reader gets over a failure when it comes to it.
async fn fetch(
    bucket: Arc<Bucket>,
    object: Arc<ObjectInfo>,
    mut range: Range<u64>,
    pieces: mpsc::UnboundedSender<Result<Bytes, Failure>>,
) {
    let mut body = match bucket.resume(&bucket.client(), &object, range.clone()).await {
        Ok(body) => body,
        Err(failure) => return drop(pieces.send(Err(failure))),
    };
    while !range.is_empty() {
        let piece = bucket.next_piece(&object.key, &mut body).await.map(|mut piece| {
            piece.truncate(usize::try_from(range.end - range.start).unwrap_or(usize::MAX));
            piece
        });
        range.start = match &piece {
            Ok(piece) => range.start + piece.len() as u64,
            Err(_) => range.end,
        };
        if pieces.send(piece).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_a_crowd_the_less_each_reader_asks_for_at_a_time() {
        const MIB: u64 = 1 << 20;
        let (budget, limits) = (Budget::new(0), Limits { range_bytes: 8 * MIB, ..Limits::default() });
        let mut seats = Vec::new();
        let mut end = |readers: usize, end| {
            seats.resize_with(readers, || budget.enter());
            response_end(&budget, &limits, MIB, end)
        };
        assert_eq!((end(99, None), end(99, Some(100 * MIB))), (None, Some(100 * MIB)));
        for (readers, share) in [(100, 2 * MIB), (512, 2 * MIB), (1024, MIB), (10_000, MIB / 4)] {
            assert_eq!(end(readers, None), Some(MIB + share), "{readers}");
            assert_eq!(end(readers, Some(MIB + 7)), Some(MIB + 7), "{readers}");
        }
    }
}
