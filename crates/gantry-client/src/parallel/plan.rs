//! Which stream fetches which bytes. Time is an argument.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

/// The shortest time that a stream has for a piece before the rest is requested again. It is longer than the recovery from
/// a silent relay usually takes.
const LATE_AFTER: Duration = Duration::from_secs(4);

/// How long the rate of a piece counts for others. Meanwhile several requests reach a faster relay, if there is one.
/// Afterwards everything has become slow, and only the patience of a transfer counts.
const RATE_COUNTS_FOR: Duration = Duration::from_secs(30);

/// The number of pieces per stream, if the file is large enough. The streams then end at about the same time.
const PIECES_PER_STREAM: u64 = 4;

/// Identifies a piece that a stream has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// A range that one stream fetches.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) ticket: Ticket,
    pub(super) range: Range<u64>,
}

/// What an idle stream does.
#[derive(Debug)]
pub(super) enum Next {
    Fetch(Piece),
    /// The others have taken everything, and may return some of it.
    Wait,
    /// Every byte was fetched.
    Done,
}

#[derive(Debug)]
struct Running {
    range: Range<u64>,
    /// The offset of the next byte to write.
    next: u64,
    since: Duration,
}

/// The rate at which a piece was fetched.
#[derive(Clone, Copy, Debug)]
struct Rate {
    bytes_per_s: f64,
    at: Duration,
}

/// Splits a range of an object into pieces, and hands each to one stream at a time.
///
/// Invariant: each byte is in the rest, returned, or in exactly one running piece, until [`Self::advance`] has counted it.
#[derive(Debug)]
pub(super) struct Plan {
    /// What no stream has taken yet.
    rest: Range<u64>,
    piece_bytes: u64,
    /// What streams have left: the end of each range, by its start.
    returned: BTreeMap<u64, u64>,
    running: BTreeMap<Ticket, Running>,
    tickets: u64,
    /// The streams that have not failed.
    streams: u64,
    best: Option<Rate>,
}

impl Plan {
    /// Splits `rest` into pieces. `piece_bytes` are the smallest and the largest size of a piece. At most `streams` streams
    /// fetch them and the piece in front of them, which is begun separately.
    pub(super) fn new(rest: Range<u64>, streams: u64, piece_bytes: (u64, u64)) -> Self {
        let (least, most) = piece_bytes;
        let len = rest.end - rest.start;
        let even = len / (streams * PIECES_PER_STREAM).max(1);
        let piece_bytes = even.clamp(least, most);
        Self {
            rest,
            piece_bytes,
            returned: BTreeMap::new(),
            running: BTreeMap::new(),
            tickets: 0,
            // A stream without a piece is never started, so nothing can be left to it.
            streams: streams.min(len.div_ceil(piece_bytes) + 1),
            best: None,
        }
    }

    /// Returns the number of streams that can have a piece at the same time, besides the running ones.
    pub(super) fn room(&self) -> u64 {
        let pieces = (self.rest.end - self.rest.start).div_ceil(self.piece_bytes);
        pieces.min(self.streams.saturating_sub(self.running.len() as u64))
    }

    /// Returns what an idle stream does at `now`.
    pub(super) fn next(&mut self, now: Duration) -> Next {
        if let Some((start, end)) = self.returned.pop_first() {
            return Next::Fetch(self.begin(start..end, now));
        }
        if !self.rest.is_empty() {
            let end = self.rest.end.min(self.rest.start.saturating_add(self.piece_bytes));
            let range = self.rest.start..end;
            self.rest.start = end;
            return Next::Fetch(self.begin(range, now));
        }
        if self.running.is_empty() { Next::Done } else { Next::Wait }
    }

    /// Hands out a range that is not part of the rest.
    pub(super) fn begin(&mut self, range: Range<u64>, now: Duration) -> Piece {
        let ticket = Ticket(self.tickets);
        self.tickets += 1;
        self.running.insert(ticket, Running { next: range.start, range: range.clone(), since: now });
        Piece { ticket, range }
    }

    /// Counts the bytes of a piece up to `limit` as fetched.
    pub(super) fn advance(&mut self, ticket: Ticket, limit: u64) {
        if let Some(running) = self.running.get_mut(&ticket) {
            running.next = running.next.max(limit);
        }
    }

    /// Returns whether a piece is so slow that the rest should be requested again, since another relay may serve it faster.
    ///
    /// If all streams share a link, the rates of two pieces differ by up to the number of streams.
    pub(super) fn is_late(&self, ticket: Ticket, now: Duration) -> bool {
        let is_recent = |rate: &Rate| now.saturating_sub(rate.at) <= RATE_COUNTS_FOR;
        let Some(best) = self.best.filter(is_recent) else { return false };
        let Some(running) = self.running.get(&ticket) else { return false };

        let slowest = best.bytes_per_s / (2.0 * as_float(self.streams));
        let rest = as_float(running.range.end - running.next);
        let is_old = now.saturating_sub(running.since) > LATE_AFTER;
        is_old && rest / running.bytes_per_s(now) > LATE_AFTER.as_secs_f64() + rest / slowest
    }

    /// Records that a stream has fetched its piece.
    pub(super) fn complete(&mut self, ticket: Ticket, now: Duration) {
        let Some(running) = self.running.remove(&ticket) else { return };
        let rate = Rate { bytes_per_s: running.bytes_per_s(now), at: now };

        let is_better = |best: Rate| best.bytes_per_s <= rate.bytes_per_s;
        let is_old = |best: Rate| now.saturating_sub(best.at) > RATE_COUNTS_FOR;
        if self.best.is_none_or(|best| is_better(best) || is_old(best)) {
            self.best = Some(rate);
        }
    }

    /// Records that a stream leaves the rest of its piece to the next request.
    pub(super) fn give_back(&mut self, ticket: Ticket) {
        if let Some(Running { next, range, .. }) = self.running.remove(&ticket)
            && next < range.end
        {
            self.returned.insert(next, range.end);
        }
    }

    /// Records that a stream has failed. Returns false, and records nothing, if no other stream can fetch its piece.
    pub(super) fn fail(&mut self, ticket: Ticket) -> bool {
        if self.streams <= 1 {
            return false;
        }
        self.streams -= 1;
        self.give_back(ticket);
        true
    }
}

impl Running {
    /// Returns the rate so far.
    fn bytes_per_s(&self, now: Duration) -> f64 {
        let took = now.saturating_sub(self.since).max(Duration::from_millis(1));
        as_float(self.next - self.range.start) / took.as_secs_f64()
    }
}

const fn as_float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);
    const PIECE: u64 = 1000;

    fn plan(rest: Range<u64>, streams: u64) -> Plan {
        Plan::new(rest, streams, (PIECE, PIECE))
    }

    fn fetch(plan: &mut Plan, now: Duration) -> Piece {
        let Next::Fetch(piece) = plan.next(now) else { panic!("there is no piece") };
        piece
    }

    fn complete(plan: &mut Plan, piece: &Piece, now: Duration) {
        plan.advance(piece.ticket, piece.range.end);
        plan.complete(piece.ticket, now);
    }

    #[test]
    fn pieces_cover_the_range_in_order() {
        let mut plan = plan(500..3200, 2);
        for range in [500..1500, 1500..2500, 2500..3200] {
            let piece = fetch(&mut plan, S);
            assert_eq!(piece.range, range);
            complete(&mut plan, &piece, 2 * S);
        }
        assert!(matches!(plan.next(2 * S), Next::Done));
    }

    #[test]
    fn pieces_are_as_large_as_the_file_allows() {
        const MIB: u64 = 1024 * 1024;
        for (mib, streams, expected) in [(40, 2, 16), (1024, 2, 64), (1024, 8, 32), (1 << 20, 4, 64)] {
            let plan = Plan::new(0..mib * MIB, streams, (16 * MIB, 64 * MIB));
            assert_eq!(plan.piece_bytes, expected * MIB, "{mib} MiB in {streams} streams");
        }
    }

    #[test]
    fn no_more_streams_run_than_there_are_pieces() {
        let mut plan = plan(0..2500, 8);
        assert_eq!(plan.room(), 3);
        fetch(&mut plan, S);
        assert_eq!(plan.room(), 2);
    }

    #[test]
    fn another_stream_fetches_what_a_failed_one_left() {
        let mut plan = plan(PIECE..2 * PIECE, 2);
        let failed = plan.begin(0..PIECE, S);
        let other = fetch(&mut plan, S);
        plan.advance(failed.ticket, 300);

        assert!(plan.fail(failed.ticket));
        assert_eq!(fetch(&mut plan, S).range, 300..1000);
        assert!(!plan.fail(other.ticket), "the last stream can't leave its piece to others");
    }

    #[test]
    fn a_piece_is_not_left_to_a_stream_that_was_never_started() {
        let mut plan = plan(PIECE..2 * PIECE, 8);
        let first = plan.begin(0..PIECE, S);
        assert_eq!(plan.room(), 1);
        let second = fetch(&mut plan, S);

        assert!(plan.fail(first.ticket));
        assert!(!plan.fail(second.ticket));
    }

    #[test]
    fn the_start_of_the_file_is_requested_before_anything_else() {
        let mut plan = plan(0..4000, 3);
        let pieces = [fetch(&mut plan, S), fetch(&mut plan, S), fetch(&mut plan, S)];
        for piece in pieces.iter().rev() {
            plan.give_back(piece.ticket);
        }
        assert_eq!(fetch(&mut plan, S).range, 0..1000);
    }

    #[test]
    fn nothing_is_left_of_a_piece_whose_bytes_are_all_there() {
        let mut plan = plan(0..PIECE, 1);
        let piece = fetch(&mut plan, S);
        plan.advance(piece.ticket, PIECE);
        plan.give_back(piece.ticket);
        assert!(matches!(plan.next(S), Next::Done));
    }

    #[test]
    fn the_rest_of_a_slow_piece_is_requested_again() {
        let mut plan = plan(0..2000, 2);
        let (slow, fast) = (fetch(&mut plan, S), fetch(&mut plan, S));
        plan.advance(slow.ticket, 10);
        assert!(!plan.is_late(slow.ticket, 9 * S), "nothing is known to be faster");
        complete(&mut plan, &fast, 2 * S);

        assert!(!plan.is_late(slow.ticket, 5 * S), "it has some time");
        assert!(plan.is_late(slow.ticket, 6 * S));
        plan.give_back(slow.ticket);

        assert!(!plan.is_late(slow.ticket, 6 * S));
        assert_eq!(fetch(&mut plan, 6 * S).range, 10..1000);
    }

    /// Requests that replace each other would hide that no relay answers.
    #[test]
    fn a_piece_is_not_late_if_everything_has_become_slow() {
        let mut plan = plan(0..2000, 2);
        let (silent, fast) = (fetch(&mut plan, S), fetch(&mut plan, S));
        complete(&mut plan, &fast, 2 * S);

        assert!(plan.is_late(silent.ticket, 32 * S));
        assert!(!plan.is_late(silent.ticket, 33 * S));
    }

    #[test]
    fn a_piece_is_not_late_while_it_is_not_much_slower_than_others() {
        let mut plan = plan(0..2000, 2);
        let (one, other) = (fetch(&mut plan, S), fetch(&mut plan, S));
        complete(&mut plan, &other, 11 * S);

        for second in 11..32 {
            plan.advance(one.ticket, (second - 1) * 25);
            assert!(!plan.is_late(one.ticket, u32::try_from(second).unwrap() * S), "{second}");
        }
    }
}
