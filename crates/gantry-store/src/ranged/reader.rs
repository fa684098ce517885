//! Reads the bytes of a range with as many requests as necessary.
//!
//! The bytes that the consumer currently requests come directly from a response, with TCP's back pressure. Later ranges
//! are fetched into memory at the same time: as many as keep the consumer from waiting, and as fit into the budget. If
//! the budget is used up, responses are read from beginning to end.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::failure::{Failure, about_key};
use super::read_ahead::ReadAhead;
use super::retry::{Attempts, answer};
use super::slow_start::SlowStart;
use super::source::Ranged;
use crate::budget::Reservation;
use crate::crowd::Member;
use crate::release::{self, ReadsAhead};
use crate::{Body, Budget, Error};
use gantry_proto::ObjectInfo;

/// Number of ranges that a response has at most once the reader has abandoned one. Another response is never abandoned, so
/// this delays the next read-ahead.
const RANGES_AFTER_SWITCH: u64 = 4;

/// Reads a range of one version of an object.
///
/// If a body breaks, stalls or ends early, the rest is requested again from the next byte to return.
pub(crate) struct Reader<R: Ranged> {
    source: Arc<R>,
    object: Arc<ObjectInfo>,
    budget: Budget,
    /// The offset of the next byte to return.
    next: u64,
    /// The exclusive end of the range.
    end: u64,
    current: Option<Current<R>>,
    /// The fetched ranges, which follow the current source without gaps.
    ahead: VecDeque<Ahead<R>>,
    /// The response before the current range ahead, until that range has yielded a byte.
    previous: Option<Previous<R::Body>>,
    /// Bytes of the current response that have been read but not returned. Empty unless the reader has gone back to
    /// that response.
    surplus: Bytes,
    /// Whether a response was abandoned for read-ahead. What the store has sent of it by then is lost.
    has_switched: bool,
    start: SlowStart,
    read_ahead: ReadAhead,
    client: R::Client,
    /// The remaining attempts since the last byte, or `None` if there was no failure.
    attempts: Option<Attempts<R>>,
    _member: Member,
}

/// The source of the next bytes.
enum Current<R: Ranged> {
    Direct(Response<R::Body>),
    Ahead(Ahead<R>),
}

/// A response that is read when its bytes are requested.
pub(crate) struct Response<B> {
    pub(crate) body: B,
    /// Its exclusive end, as an absolute offset. Reading ends earlier if a fetched range starts before.
    pub(crate) end: u64,
}

/// A response that continues at the start of the current source. It is kept in case the store turns out to ignore
/// ranges.
struct Previous<B> {
    response: Response<B>,
    /// Bytes of the response past the start of the current source that have been read.
    surplus: Bytes,
}

/// A range that a separate task fetches.
struct Ahead<R: Ranged> {
    range: Range<u64>,
    /// The number of pieces is unbounded, but their bytes are bounded by the reserved range.
    pieces: mpsc::UnboundedReceiver<Result<Bytes, Failure<R::Cure>>>,
    _task: AbortOnDropHandle<()>,
    _reservation: Reservation,
}

impl<R: Ranged> Reader<R> {
    /// Reads `range`. `current` is a response that starts with it.
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
            previous: None,
            surplus: Bytes::new(),
            has_switched: false,
            start: SlowStart::default(),
            read_ahead: ReadAhead::new(source.limits()),
            client: source.client(),
            source,
            attempts: None,
            _member: member,
        }
    }

    pub(crate) fn into_body(self) -> Body {
        release::body(self)
    }

    /// Accounts for a piece of the current source, and starts to fetch later ranges.
    fn hand_out(&mut self, mut piece: Bytes) -> Bytes {
        if !self.source.takes_ranges() {
            self.ahead.clear();
        }

        // Bytes of a response past its range do not belong to the object, or come from the next source.
        let limit = self.limit();
        let left = usize::try_from(limit - self.next).unwrap_or(usize::MAX);
        let surplus = piece.split_off(left.min(piece.len()));

        let now = Instant::now();
        let len = piece.len() as u64;
        self.next += len;
        self.attempts = None;
        self.previous = None;
        self.start.note_piece(now, len);
        self.read_ahead.note_piece(now, len);

        if self.next == limit {
            self.switch(surplus);
        }
        self.fetch_ahead();

        piece
    }

    /// Continues with the fetched range that starts here, if there is one. It may be where the response ends.
    fn switch(&mut self, surplus: Bytes) {
        let next = self.next;
        let ahead = self.ahead.pop_front_if(|ahead| ahead.range.start == next);
        let previous = std::mem::replace(&mut self.current, ahead.map(Current::Ahead));

        if let (Some(Current::Direct(response)), Some(_)) = (previous, &self.current)
            && response.end > next
        {
            self.has_switched = true;
            self.previous = Some(Previous { response, surplus });
        }
    }

    /// Returns to the previous response, if there is one.
    fn go_back(&mut self) -> bool {
        let Some(Previous { response, surplus }) = self.previous.take() else { return false };
        self.ahead.clear();
        self.current = Some(Current::Direct(response));
        self.surplus = surplus;
        true
    }

    /// Returns the offset at which reading switches from the current source to the next one.
    fn limit(&self) -> u64 {
        let end = match &self.current {
            Some(Current::Ahead(current)) => return current.range.end,
            Some(Current::Direct(response)) => response.end,
            None => {
                let range_bytes = self.source.limits().range_bytes;
                let end = if self.has_switched { self.end.min(self.next_switch()) } else { self.end };
                self.budget.crowd().response_end(range_bytes, self.next, Some(end)).unwrap_or(end)
            }
        };

        self.ahead.front().map_or(end, |ahead| end.min(ahead.range.start))
    }

    /// Returns up to which offset a response goes that is not to be abandoned.
    fn next_switch(&self) -> u64 {
        let range_bytes = self.source.limits().range_bytes;
        self.next - self.next % range_bytes + RANGES_AFTER_SWITCH * range_bytes
    }

    /// Returns the next bytes, at least one, from the current source or a new one.
    async fn pull(&mut self) -> Result<Bytes, Failure<R::Cure>> {
        if !self.surplus.is_empty() {
            return Ok(std::mem::take(&mut self.surplus));
        }

        // The source is taken out, so that it is not used again if it fails.
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
                let attempts = self.attempts.get_or_insert_with(|| Attempts::new(self.source.limits()));
                let time = attempts.time_left();
                let mut body = begin(&*self.source, &self.client, &self.object, self.next..end, time).await?;
                let piece = next_piece(&*self.source, &self.object, &mut body).await?;
                (piece, Current::Direct(Response { body, end }))
            }
        };

        self.current = Some(current);
        Ok(piece)
    }

    /// Starts to fetch the ranges that the consumer will request soon.
    fn fetch_ahead(&mut self) {
        let range_bytes = self.source.limits().range_bytes;
        if !self.source.takes_ranges() {
            return;
        }

        while self.ahead.len() < self.read_ahead.ranges() && !self.budget.crowd().is_dense() {
            let start = match (self.ahead.back(), &self.current) {
                (Some(Ahead { range, .. }), _) | (None, Some(Current::Ahead(Ahead { range, .. }))) => range.end,
                (None, Some(Current::Direct(response))) if self.has_switched && response.end <= self.next_switch() => {
                    response.end
                }
                // If a response is abandoned soon, many of its bytes are in flight.
                (None, _) => (self.next + range_bytes / 4).next_multiple_of(range_bytes),
            };

            let range = start..self.end.min(start - start % range_bytes + range_bytes);
            if range.is_empty() {
                return;
            }

            // A piece keeps the whole buffer into which it was read.
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

impl<R: Ranged> ReadsAhead for Reader<R> {
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if let Some(at) = self.start.wait_until(Instant::now()) {
            sleep_until(at).await;
        }
        self.read_ahead.note_request(Instant::now());

        while self.next < self.end {
            let failure = match self.pull().await {
                Ok(piece) => return Ok(Some(self.hand_out(piece))),
                Err(failure) => failure,
            };
            // If the store turned out to ignore ranges, the previous response is read instead.
            if self.source.takes_ranges() || !self.go_back() {
                self.recover(failure).await?;
            }
        }

        Ok(None)
    }

    fn release(&mut self) {
        let is_ahead = matches!(self.current, Some(Current::Ahead(_)));
        if is_ahead && !self.go_back() {
            self.current = None;
        }

        self.ahead.clear();
        // After a pause, the consumer must first show again that it waits for the store.
        self.read_ahead = ReadAhead::new(self.source.limits());
    }
}

/// Sends the pieces of a range, or the failure that ends them. The reader handles the failure when it reaches it.
async fn fetch<R: Ranged>(
    source: Arc<R>,
    object: Arc<ObjectInfo>,
    mut range: Range<u64>,
    pieces: mpsc::UnboundedSender<Result<Bytes, Failure<R::Cure>>>,
) {
    let time = source.limits().retry_budget;
    let mut body = match begin(&*source, &source.client(), &object, range.clone(), time).await {
        Ok(body) => body,
        Err(failure) => {
            // There is no receiver if the reader was dropped.
            drop(pieces.send(Err(failure)));
            return;
        }
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

/// Requests a range, and waits for an answer for `time`.
async fn begin<R: Ranged>(
    source: &R,
    client: &R::Client,
    object: &ObjectInfo,
    range: Range<u64>,
    time: Duration,
) -> Result<R::Body, Failure<R::Cure>> {
    let about = about_key(&object.key);
    answer(source, time, &about, || source.get(client, object, range.clone())).await
}

/// Returns the next bytes of a body, at least one. A body that ends here is too short.
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::error::Error as StdError;
    use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

    use futures_util::{FutureExt, StreamExt, TryStreamExt};
    use tokio::time::sleep;

    use super::super::failure::About;
    use super::super::limits::Limits;
    use super::*;

    const MIB: u64 = 1 << 20;
    const PIECE_BYTES: u64 = 60_000;
    const SIZE: u64 = 64 * MIB;

    /// A store that sends a piece after each `delay`.
    #[derive(Debug)]
    struct Steady {
        limits: Limits,
        delay: Duration,
        ignores_ranges: bool,
        has_ignored_one: AtomicBool,
        requests: AtomicUsize,
        requested_bytes: AtomicU64,
    }

    struct Pieces {
        range: Range<u64>,
        delay: Duration,
    }

    impl Ranged for Steady {
        const NAME: &'static str = "the store";

        type Client = ();
        type Body = Pieces;
        type Cure = Infallible;
        type Cures = ();

        fn limits(&self) -> &Limits {
            &self.limits
        }

        fn client(&self) {}

        fn takes_ranges(&self) -> bool {
            !self.has_ignored_one.load(Ordering::Relaxed)
        }

        async fn get(&self, (): &(), _: &ObjectInfo, range: Range<u64>) -> Result<Pieces, Failure<Infallible>> {
            self.requests.fetch_add(1, Ordering::Relaxed);
            self.requested_bytes.fetch_add(range.end - range.start, Ordering::Relaxed);
            if !self.ignores_ranges {
                return Ok(Pieces { range, delay: self.delay });
            }

            // Longer than it takes to read up to the range.
            sleep(Duration::from_secs(1)).await;
            self.has_ignored_one.store(true, Ordering::Relaxed);
            Err(Failure::is_final(Error::Protocol("ignores the range".to_owned())))
        }

        async fn next(body: &mut Pieces) -> Option<Result<Bytes, Box<dyn StdError + Send + Sync>>> {
            if body.delay > Duration::ZERO {
                sleep(body.delay).await;
            }
            let start = body.range.start;
            body.range.start = body.range.end.min(start + PIECE_BYTES);
            (body.range.start > start).then(|| Ok(bytes_at(start..body.range.start)))
        }

        async fn cure(
            &self,
            (): &(),
            (): &mut (),
            failure: Failure<Infallible>,
            _: &About,
        ) -> Result<Failure<Infallible>, Failure<Infallible>> {
            Err(failure)
        }
    }

    /// Returns bytes that differ from those at other offsets.
    fn bytes_at(range: Range<u64>) -> Bytes {
        range.map(|offset| u8::try_from((offset * 31 + offset / 251) % 256).unwrap()).collect()
    }

    /// A body, and the store and budget behind it.
    struct Reading {
        body: Body,
        source: Arc<Steady>,
        budget: Budget,
    }

    impl Reading {
        fn start(delay: Duration, ignores_ranges: bool) -> Self {
            Self::with(Limits::default(), delay, ignores_ranges)
        }

        fn with(limits: Limits, delay: Duration, ignores_ranges: bool) -> Self {
            let object = ObjectInfo::new("key".parse().unwrap(), SIZE, "\"1\"".to_owned());
            let budget = Budget::new(1 << 30);
            let member = budget.crowd().enter();
            let source = Arc::new(Steady {
                limits,
                delay,
                ignores_ranges,
                has_ignored_one: AtomicBool::new(false),
                requests: AtomicUsize::new(0),
                requested_bytes: AtomicU64::new(0),
            });
            let response = Response { body: Pieces { range: 0..SIZE, delay }, end: SIZE };
            let reader = Reader::new(Arc::clone(&source), &object, 0..SIZE, Some(response), budget.clone(), member);
            Self { body: reader.into_body(), source, budget }
        }

        fn requests(&self) -> usize {
            self.source.requests.load(Ordering::Relaxed)
        }

        /// Reads the next piece, which starts at `offset`, and returns its end.
        async fn take(&mut self, offset: u64) -> u64 {
            let piece = self.body.try_next().await.unwrap().expect("the body ends too early");
            let end = offset + piece.len() as u64;
            assert!(piece == bytes_at(offset..end), "wrong bytes from {offset}");
            end
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_returns_less_than_a_mebibyte_before_a_consumer_can_answer() {
        let mut reading = Reading::start(Duration::ZERO, false);
        let mut handed_out = 0;
        while let Some(piece) = reading.body.next().now_or_never() {
            handed_out += piece.unwrap().unwrap().len() as u64;
            assert!(handed_out < MIB, "all bytes are returned at once");
        }
        assert!(handed_out >= MIB / 2, "{handed_out}");
        assert_eq!(reading.requests(), 0);

        let rest: Vec<Bytes> = reading.body.try_collect().await.unwrap();

        assert_eq!(handed_out + rest.iter().map(|piece| piece.len() as u64).sum::<u64>(), SIZE);
    }

    /// The relay takes the first window at once. Then the consumer takes a piece every 20 ms.
    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_is_served_by_the_first_response() {
        let mut reading = Reading::start(Duration::from_millis(1), false);
        let mut offset = 0;
        while offset < SIZE {
            if offset > 2 * MIB {
                sleep(Duration::from_millis(20)).await;
            }
            offset = reading.take(offset).await;
        }

        assert_eq!(reading.requests(), 0);
    }

    /// A consumer whose speed changed made S3 send up to twice as much as it read: each time it became faster, a response up
    /// to the object's end was abandoned, with megabytes on their way.
    #[tokio::test(start_paused = true)]
    async fn only_the_first_response_is_abandoned_however_often_the_consumers_speed_changes() {
        let limits = Limits { range_bytes: 2 * MIB, ..Limits::default() };
        let mut reading = Reading::with(limits, Duration::from_millis(1), false);
        let mut offset = 0;
        let mut was_slow = false;
        while offset < SIZE {
            if (12 * MIB..36 * MIB).contains(&offset) {
                sleep(Duration::from_millis(40)).await;
                was_slow |= reading.budget.reserved_bytes() == 0;
            }
            offset = reading.take(offset).await;
        }

        assert!(was_slow, "everything was read ahead");
        let bytes = reading.source.requested_bytes.load(Ordering::Relaxed);
        assert!((SIZE - 8 * MIB..SIZE).contains(&bytes), "{bytes}");
        assert!(reading.requests() > 20, "nothing was read ahead afterwards");
    }

    /// A pause there once ended in a failure, since the response that had ended was continued.
    #[tokio::test(start_paused = true)]
    async fn a_pause_where_a_response_ends_and_the_next_range_begins_is_no_failure() {
        // Slow, so that a response is read directly, then fast again, so that the next range is read ahead.
        let slow = 6 * MIB..20 * MIB;
        for pause_at in (10..19).map(|range| range * 2 * MIB) {
            let limits = Limits { range_bytes: 2 * MIB, ..Limits::default() };
            let mut reading = Reading::with(limits, Duration::from_millis(1), false);
            let mut offset = 0;
            while offset < 40 * MIB {
                if slow.contains(&offset) {
                    sleep(Duration::from_millis(40)).await;
                }
                let is_pause = offset == pause_at;
                if is_pause {
                    sleep(2 * release::RELEASE_AFTER).await;
                }
                let began = Instant::now();
                offset = reading.take(offset).await;
                assert!(!is_pause || began.elapsed() <= Duration::from_millis(2), "{pause_at}: {:?}", began.elapsed());
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_ignores_ranges_is_read_with_the_first_response() {
        let mut reading = Reading::start(Duration::from_millis(1), true);
        let mut offset = 0;

        while offset < SIZE {
            offset = reading.take(offset).await;
        }

        // Requests that were in flight when the store first ignored a range.
        let requests = reading.requests();
        assert!((1..=3).contains(&requests), "{requests}");
    }

    #[tokio::test(start_paused = true)]
    async fn read_ahead_is_released_while_nobody_takes_bytes() {
        // Pause within a response, at the start of a fetched range, and within such a range.
        for pause_at in [7 * MIB, 8 * MIB, 20 * MIB] {
            let mut reading = Reading::start(Duration::from_millis(1), false);
            let mut offset = 0;
            while offset < pause_at {
                offset = reading.take(offset).await;
            }
            assert!(reading.budget.reserved_bytes() > 0, "nothing is read ahead at {offset}");

            sleep(2 * release::RELEASE_AFTER).await;
            assert_eq!(reading.budget.reserved_bytes(), 0, "at {offset}");

            while offset < SIZE {
                offset = reading.take(offset).await;
            }
        }
    }

    /// A store that ignores ranges does so visibly only after the release.
    #[tokio::test(start_paused = true)]
    async fn a_pause_keeps_the_response_that_can_be_continued() {
        let mut reading = Reading::start(Duration::from_millis(1), true);
        let mut offset = 0;
        while offset < 2 * MIB {
            offset = reading.take(offset).await;
        }

        sleep(2 * release::RELEASE_AFTER).await;
        while offset < SIZE {
            offset = reading.take(offset).await;
        }
    }
}
