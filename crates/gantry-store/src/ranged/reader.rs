//! The bytes of a range, over as many requests as it takes.
//!
//! The bytes that the consumer takes now come straight from a response, with TCP's own back pressure. Ranges that follow
//! are fetched into memory beside it, as many as it takes for the consumer not to wait and as the budget allows. Once
//! the budget is spent, one response is read from end to end.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::pace::Pace;
use super::retry::Attempts;
use super::{Failure, Ranged, about_key};
use crate::budget::Reservation;
use crate::crowd::Member;
use crate::{Body, Budget, Error};
use gantry_proto::ObjectInfo;

/// Reads a range of one version of an object.
///
/// A body that breaks, stalls or ends early is requested again from the first byte that was not handed out.
pub(crate) struct Reader<R: Ranged> {
    source: Arc<R>,
    object: Arc<ObjectInfo>,
    budget: Budget,
    /// The first byte that was not handed out.
    next: u64,
    end: u64,
    current: Option<Current<R>>,
    /// Ranges without gaps, from where the current one is left.
    ahead: VecDeque<Ahead<R>>,
    pace: Pace,
    client: R::Client,
    /// The attempts that are left since the last byte; `None` while there is no failure.
    attempts: Option<Attempts<R>>,
    _member: Member,
}

/// Where the next bytes come from.
enum Current<R: Ranged> {
    Direct(Response<R::Body>),
    Ahead(Ahead<R>),
}

/// A response that is read as its bytes are wanted.
pub(crate) struct Response<B> {
    pub(crate) body: B,
    /// Where it ends, as an absolute offset. It is left earlier where a range ahead begins before that.
    pub(crate) end: u64,
}

/// A range that a task of its own fetches.
struct Ahead<R: Ranged> {
    range: Range<u64>,
    /// Bounded not by a count of pieces but by the range's bytes, which are reserved.
    pieces: mpsc::UnboundedReceiver<Result<Bytes, Failure<R::Cure>>>,
    _task: AbortOnDropHandle<()>,
    _reservation: Reservation,
}

impl<R: Ranged> Reader<R> {
    /// Reads `range`. `current` is a response that begins where it does.
    pub(crate) fn new(
        source: Arc<R>,
        object: &ObjectInfo,
        range: Range<u64>,
        current: Option<Response<R::Body>>,
        budget: Budget,
        member: Member,
    ) -> Self {
        Self {
            object: Arc::new(object.clone()),
            budget,
            next: range.start,
            end: range.end,
            current: current.map(Current::Direct),
            ahead: VecDeque::new(),
            pace: Pace::new(source.limits()),
            client: source.client(),
            source,
            attempts: None,
            _member: member,
        }
    }

    pub(crate) fn into_body(self) -> Body {
        Box::pin(stream::try_unfold(self, async |mut reader| Ok(reader.piece().await?.map(|piece| (piece, reader)))))
    }

    /// Returns the next bytes, never none; `None` at the end of the range.
    async fn piece(&mut self) -> Result<Option<Bytes>, Error> {
        self.pace.asked(Instant::now());

        while self.next < self.end {
            match self.pull().await {
                Ok(piece) => return Ok(Some(self.hand_out(piece))),
                Err(failure) => self.recover(failure).await?,
            }
        }

        Ok(None)
    }

    /// Accounts for a piece of the current source, and starts to fetch what follows.
    fn hand_out(&mut self, mut piece: Bytes) -> Bytes {
        // What a response yields beyond its range is no part of the object, or comes from the next source.
        let left = usize::try_from(self.limit() - self.next).unwrap_or(usize::MAX);
        piece.truncate(left);
        self.next += piece.len() as u64;
        self.attempts = None;
        self.pace.given(Instant::now(), piece.len() as u64);

        if self.next == self.limit() {
            let next = self.next;
            self.current = self.ahead.pop_front_if(|ahead| ahead.range.start == next).map(Current::Ahead);
        }
        self.fetch_ahead();

        piece
    }

    /// Returns the offset at which the current source is left for the next one.
    fn limit(&self) -> u64 {
        let end = match &self.current {
            Some(Current::Ahead(current)) => return current.range.end,
            Some(Current::Direct(response)) => response.end,
            None => {
                let range_bytes = self.source.limits().range_bytes;
                self.budget.crowd().response_end(range_bytes, self.next, Some(self.end)).unwrap_or(self.end)
            }
        };
        self.ahead.front().map_or(end, |ahead| end.min(ahead.range.start))
    }

    /// Returns the next bytes, never none, of the current source or of a new one.
    async fn pull(&mut self) -> Result<Bytes, Failure<R::Cure>> {
        // Taken out, so that a source that fails is not used again.
        let (piece, current) = match self.current.take() {
            Some(Current::Ahead(mut ahead)) => {
                let piece = ahead.pieces.recv().await.unwrap_or_else(|| {
                    Err(Failure::passing(format!("{}: a range was not fetched", about_key(&self.object.key))))
                })?;
                (piece, Current::Ahead(ahead))
            }
            Some(Current::Direct(mut response)) => {
                let piece = next_piece(&*self.source, &self.object, &mut response.body).await?;
                (piece, Current::Direct(response))
            }
            None => {
                let end = self.limit();
                let mut body = begin(&*self.source, &self.client, &self.object, self.next..end).await?;
                let piece = next_piece(&*self.source, &self.object, &mut body).await?;
                (piece, Current::Direct(Response { body, end }))
            }
        };

        self.current = Some(current);
        Ok(piece)
    }

    /// Starts to fetch the ranges that the consumer will ask for soon.
    fn fetch_ahead(&mut self) {
        let range_bytes = self.source.limits().range_bytes;
        while self.ahead.len() < self.pace.ahead() && !self.budget.crowd().is_dense() {
            let start = match (self.ahead.back(), &self.current) {
                (Some(Ahead { range, .. }), _) | (None, Some(Current::Ahead(Ahead { range, .. }))) => range.end,
                // A response that is left soon would be left with much of it in flight.
                (None, _) => (self.next + range_bytes / 4).next_multiple_of(range_bytes),
            };
            let range = start..self.end.min(start - start % range_bytes + range_bytes);
            if range.is_empty() {
                return;
            }

            // A piece keeps the whole buffer that it was read into.
            let Some(reservation) = self.budget.try_reserve((range.end - range.start) * 3 / 2) else { return };

            let (sender, pieces) = mpsc::unbounded_channel();
            let fetch = fetch(Arc::clone(&self.source), Arc::clone(&self.object), range.clone(), sender);
            let task = AbortOnDropHandle::new(tokio::spawn(fetch.in_current_span()));
            self.ahead.push_back(Ahead { range, pieces, _task: task, _reservation: reservation });
        }
    }

    /// Prepares another attempt.
    async fn recover(&mut self, failure: Failure<R::Cure>) -> Result<(), Error> {
        let attempts = self.attempts.get_or_insert_with(|| Attempts::new(self.source.limits()));
        let about = about_key(&self.object.key);
        attempts.recover(&*self.source, &self.client, failure, &about).await.map_err(|failure| failure.error)?;

        tracing::debug!(offset = self.next, "requesting the rest");
        self.client = self.source.client();
        Ok(())
    }
}

/// Sends the pieces of a range, or the failure that ends them. The reader recovers from it once it gets there.
async fn fetch<R: Ranged>(
    source: Arc<R>,
    object: Arc<ObjectInfo>,
    mut range: Range<u64>,
    pieces: mpsc::UnboundedSender<Result<Bytes, Failure<R::Cure>>>,
) {
    let mut body = match begin(&*source, &source.client(), &object, range.clone()).await {
        Ok(body) => body,
        Err(failure) => return drop(pieces.send(Err(failure))),
    };

    while !range.is_empty() {
        let piece = next_piece(&*source, &object, &mut body).await.map(|mut piece| {
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

/// Requests a range once, within the time that an answer may take.
async fn begin<R: Ranged>(
    source: &R,
    client: &R::Client,
    object: &ObjectInfo,
    range: Range<u64>,
) -> Result<R::Body, Failure<R::Cure>> {
    let answered = timeout(source.limits().answer_timeout, source.get(client, object, range)).await;
    answered.unwrap_or_else(|_| {
        Err(Failure::passing(format!("{}: {} did not answer in time", about_key(&object.key), R::NAME)))
    })
}

/// Returns the next bytes of a body, never none. A body that ends here has yielded too few.
async fn next_piece<R: Ranged>(source: &R, object: &ObjectInfo, body: &mut R::Body) -> Result<Bytes, Failure<R::Cure>> {
    loop {
        let text = match timeout(source.limits().stall_timeout, R::next(body)).await {
            Ok(Some(Ok(piece))) if piece.is_empty() => continue,
            Ok(Some(Ok(piece))) => return Ok(piece),
            Ok(Some(Err(_))) => "cut the connection",
            Ok(None) => "sent too few bytes",
            Err(_) => "stopped sending",
        };
        return Err(Failure::passing(format!("{}: {} {text}", about_key(&object.key), R::NAME)));
    }
}
