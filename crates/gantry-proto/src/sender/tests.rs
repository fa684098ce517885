//! The relay's side with a consumer that follows the rules.

use uuid::Uuid;

use super::super::limits::MORE_CREDIT_WITHIN;
use super::super::message::Wait;
use super::super::names::TransferId;
use super::beats::FIRST_BEAT;
use super::*;

const BEAT: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(15);
const START: Duration = Duration::ZERO;

/// Returns a sender that has accepted a request for `range` of an object that ends there.
fn sender(range: Range<u64>, credit: u64) -> Sender {
    accepted(settings(), &request(range.start, credit), range.end)
}

/// Returns a sender that has accepted a request for an object of `size` bytes.
pub(super) fn accepted(settings: Settings, request: &GetRequest, size: u64) -> Sender {
    let mut sender = Sender::new(settings, request, identity(), START);
    sender.handle_opened(object(size), START);
    assert!(matches!(sender.poll_transmit(START), Some(Body::Accepted(_))));
    sender
}

pub(super) fn request(start: u64, credit: u64) -> GetRequest {
    GetRequest { start, credit: Some(credit), ..GetRequest::new("a/b".parse().unwrap()) }
}

pub(super) fn identity() -> Identity {
    Identity {
        transfer: TransferId(Uuid::nil()),
        instance: "relay".to_owned(),
        control: "control".to_owned(),
        host: Some("h".to_owned()),
    }
}

pub(super) fn object(size: u64) -> ObjectInfo {
    ObjectInfo {
        key: "a/b".parse().unwrap(),
        size,
        etag: "\"1\"".to_owned(),
        version_id: None,
        last_modified: None,
        content_type: None,
        headers: std::collections::BTreeMap::new(),
        metadata: std::collections::BTreeMap::new(),
        checksum: None,
        other_checksum: None,
        stale_s: None,
    }
}

fn settings() -> Settings {
    Settings { chunk_max: 8, gather_min: 4, window_max: 64, beat_interval: BEAT, idle_timeout: IDLE }
}

fn chunk(seq: u64, offset: u64, payload: &'static [u8]) -> Body {
    Body::Chunk(Chunk::new(seq, offset, Bytes::from_static(payload)))
}

const fn beat(seq: u64, offset: u64, wait: Wait) -> Body {
    Body::Beat { seq, offset, wait }
}

/// Returns all messages, with a turn for each chunk.
pub(super) fn drain(sender: &mut Sender, now: Duration) -> Vec<Body> {
    let next = || {
        sender.poll_transmit(now).or_else(|| {
            sender.handle_turn();
            sender.poll_transmit(now)
        })
    };
    std::iter::from_fn(next).collect()
}

#[test]
fn beats_are_sent_while_the_store_opens_and_the_first_is_early() {
    let mut sender = Sender::new(settings(), &request(5, 64), identity(), START);
    assert!(sender.is_opening() && !sender.wants_data());
    assert_eq!(drain(&mut sender, START), []);

    let mut at = FIRST_BEAT;
    for _ in 0..3 {
        assert_eq!(sender.poll_timeout(), Some(at));
        sender.handle_timeout(at);
        assert_eq!(drain(&mut sender, at), [beat(0, 5, Wait::Store)]);
        at += BEAT;
    }
}

#[test]
fn a_requested_beat_is_sent_at_once() {
    let mut sender = Sender::new(settings(), &request(0, 64), identity(), START);

    sender.request_beat();

    assert_eq!(drain(&mut sender, START), [beat(0, 0, Wait::Store)]);
    assert_eq!(sender.poll_timeout(), Some(BEAT));
}

#[test]
fn the_acceptance_precedes_all_bytes_and_states_the_applied_limits() {
    let request = GetRequest { end: Some(90), chunk_max: Some(u64::MAX), ..request(10, u64::MAX) };
    let mut sender = Sender::new(settings(), &request, identity(), START);

    sender.handle_opened(object(80), BEAT);
    sender.handle_data(Bytes::from_static(b"abc"));

    let Identity { transfer, instance, control, host } = identity();
    let expected = Accepted {
        transfer,
        instance,
        control,
        host,
        object: object(80),
        start: 10,
        end: 80,
        credit: 10 + 64,
        window_max: 64,
        chunk_max: 8,
        beat_ms: 1000,
        idle_ms: 15_000,
    };
    assert_eq!(drain(&mut sender, BEAT), [Body::Accepted(Box::new(expected)), chunk(0, 10, b"abc")]);
    assert_eq!(sender.poll_timeout(), Some(BEAT * 2));
}

#[test]
fn early_credit_counts_once_the_request_is_accepted() {
    let mut sender = Sender::new(settings(), &request(0, 2), identity(), START);
    sender.handle_control(Control::credit(5), START);
    assert_eq!(sender.credit(), 0);

    sender.handle_opened(object(10), START);

    let Some(Body::Accepted(accepted)) = sender.poll_transmit(START) else { panic!("it accepts") };
    assert_eq!((accepted.credit, sender.credit()), (2, 5));
}

#[test]
fn a_request_that_can_not_be_served_is_refused() {
    let fails = |sender: &mut Sender| sender.handle_failure(WireError::new(Code::NotFound, "x"));
    let is_short = |sender: &mut Sender| sender.handle_opened(object(4), START);
    let is_bad = |sender: &mut Sender| sender.handle_opened(ObjectInfo { etag: String::new(), ..object(9) }, START);

    for (event, code) in
        [(&fails as &dyn Fn(&mut Sender), Code::NotFound), (&is_short, Code::Range), (&is_bad, Code::StoreUnavailable)]
    {
        let mut sender = Sender::new(settings(), &request(5, 64), identity(), START);
        event(&mut sender);
        assert!(matches!(drain(&mut sender, START)[..], [Body::Error(ref error)] if error.code == code));
        assert!(matches!(sender.outcome(), Some(Outcome::Refused(error)) if error.code == code));
    }
}

#[test]
fn a_store_that_fails_after_it_opened_fails_an_accepted_transfer() {
    let mut sender = Sender::new(settings(), &request(0, 64), identity(), START);

    sender.handle_opened(object(10), START);
    sender.handle_failure(WireError::new(Code::StoreUnavailable, "x"));

    assert!(matches!(drain(&mut sender, START)[..], [Body::Accepted(_), Body::Error(_)]));
    assert!(matches!(sender.outcome(), Some(Outcome::Failed(_))));
}

#[test]
fn an_opening_transfer_handles_cancel_goaway_and_a_missing_consumer() {
    let cancel = |sender: &mut Sender| sender.handle_control(Control::cancel(), START);
    for (event, message, outcome) in [
        (&cancel as &dyn Fn(&mut Sender), None, Outcome::Cancelled),
        (&Sender::handle_drain, Some(Body::Goaway), Outcome::Drained),
        (&Sender::handle_consumer_gone, None, Outcome::ConsumerGone),
    ] {
        let mut sender = Sender::new(settings(), &request(0, 64), identity(), START);
        event(&mut sender);
        assert!(!sender.is_opening());
        sender.handle_opened(object(10), START);
        assert_eq!(drain(&mut sender, START), Vec::from_iter(message));
        assert_eq!(sender.outcome(), Some(&outcome));
    }
}

#[test]
fn the_idle_timeout_starts_at_the_acceptance() {
    let request = GetRequest { keeps_alive: true, ..request(0, 64) };
    let mut sender = Sender::new(settings(), &request, identity(), START);
    sender.handle_timeout(IDLE * 2);
    assert_eq!(drain(&mut sender, IDLE * 2), [beat(0, 0, Wait::Store)]);

    sender.handle_opened(object(10), IDLE * 2);
    drain(&mut sender, IDLE * 2);

    sender.handle_timeout(IDLE * 3 - BEAT);
    drain(&mut sender, IDLE * 3 - BEAT);
    assert_eq!(sender.outcome(), None);
    sender.handle_timeout(IDLE * 3);
    assert!(matches!(drain(&mut sender, IDLE * 3)[..], [Body::Error(ref error)] if error.code == Code::Idle));
}

#[test]
fn each_chunk_needs_a_turn() {
    let mut sender = sender(0..10, 10);
    sender.handle_data(Bytes::from_static(b"abcdefghij"));

    for expected in [chunk(0, 0, b"abcdefgh"), chunk(1, 8, b"ij")] {
        assert_eq!(sender.poll_transmit(START), None);
        assert!(sender.wants_turn());
        sender.handle_turn();
        assert_eq!(sender.poll_transmit(START), Some(expected));
        assert!(!sender.wants_turn());
    }
    assert!(matches!(sender.poll_transmit(START), Some(Body::End(_))));
}

#[test]
fn an_unwanted_turn_is_not_kept() {
    let mut sender = sender(0..10, 10);

    sender.handle_turn();
    sender.handle_data(Bytes::from_static(b"abc"));

    assert_eq!(sender.poll_transmit(START), None);
    assert!(sender.wants_turn());
}

#[test]
fn beats_while_it_waits_for_its_turn() {
    let mut sender = sender(0..10, 10);
    sender.handle_data(Bytes::from_static(b"abc"));
    assert_eq!(sender.poll_transmit(START), None);

    for at in [BEAT, BEAT * 2] {
        assert_eq!(sender.poll_timeout(), Some(at));
        sender.handle_timeout(at);
        assert_eq!(sender.poll_transmit(at), Some(beat(0, 0, Wait::Store)));
        assert_eq!(sender.poll_transmit(at), None);
        assert!(sender.wants_turn());
    }

    sender.handle_turn();
    assert_eq!(sender.poll_transmit(BEAT * 2), Some(chunk(0, 0, b"abc")));
    assert_eq!(sender.poll_timeout(), Some(BEAT * 3));
}

#[test]
fn a_chunk_that_gets_its_turn_at_once_replaces_a_beat() {
    let mut sender = sender(0..10, 10);
    sender.handle_timeout(BEAT);
    sender.handle_data(Bytes::from_static(b"abc"));

    assert_eq!(drain(&mut sender, BEAT), [chunk(0, 0, b"abc")]);
}

#[test]
fn a_beat_that_is_due_when_a_chunk_gets_no_turn_is_sent() {
    let mut sender = sender(0..10, 10);
    sender.handle_timeout(BEAT);
    sender.handle_data(Bytes::from_static(b"abc"));

    assert_eq!(sender.poll_transmit(BEAT), None);
    assert_eq!(sender.poll_timeout(), Some(BEAT));
    assert_eq!(sender.poll_transmit(BEAT), Some(beat(0, 0, Wait::Store)));
}

#[test]
fn a_fragment_that_waits_for_its_turn_sets_no_extra_timer() {
    let mut sender = accepted(Settings { chunk_max: 80, ..settings() }, &request(0, 2), 100);
    sender.handle_data(Bytes::from(vec![7; 50]));

    assert_eq!(sender.poll_transmit(START), None);

    assert!(sender.wants_turn());
    assert_eq!(sender.poll_timeout(), Some(BEAT));
}

#[test]
fn a_transfer_that_waits_for_its_turn_handles_cancel_goaway_and_silence() {
    let cancel = |sender: &mut Sender| sender.handle_control(Control::cancel(), START);
    let silence = |sender: &mut Sender| sender.handle_timeout(IDLE);
    for event in [&cancel as &dyn Fn(&mut Sender), &Sender::handle_drain, &Sender::handle_consumer_gone, &silence] {
        let mut sender = accepted(settings(), &GetRequest { keeps_alive: true, ..request(0, 10) }, 10);
        sender.handle_data(Bytes::from_static(b"abc"));
        assert_eq!(sender.poll_transmit(START), None);
        assert!(sender.wants_turn());

        event(&mut sender);

        assert!(!sender.wants_turn());
        sender.handle_turn();
        assert!(matches!(sender.poll_transmit(IDLE), None | Some(Body::Goaway | Body::Error(_))));
        assert!(sender.outcome().is_some());
    }
}

#[test]
fn an_empty_range_has_an_end_and_no_chunk() {
    let mut sender = sender(5..5, 5);
    assert_eq!(drain(&mut sender, START), [Body::End(End { chunks: 0, bytes: 0 })]);
    assert_eq!(sender.outcome(), Some(&Outcome::Completed));
    assert_eq!(sender.poll_timeout(), None);
}

#[test]
fn cuts_large_pieces_and_combines_small_ones() {
    let mut sender = sender(10..23, 64);
    sender.handle_data(Bytes::from_static(b"abcdefghi"));
    assert_eq!(drain(&mut sender, START), [chunk(0, 10, b"abcdefgh"), chunk(1, 18, b"i")]);
    sender.handle_data(Bytes::from_static(b"j"));
    assert!(sender.wants_data());
    sender.handle_data(Bytes::from_static(b"kl"));
    sender.handle_data(Bytes::from_static(b"m"));
    assert!(!sender.wants_data());
    let end = Body::End(End { chunks: 3, bytes: 13 });
    assert_eq!(drain(&mut sender, START), [chunk(2, 19, b"jklm"), end]);
}

#[test]
fn only_the_first_chunk_is_small() {
    let max = FIRST_CHUNK_MAX;
    let settings = Settings { chunk_max: 4 * max, window_max: u64::MAX, ..settings() };
    let size = to_u64(3 * max);
    let mut sender = accepted(settings, &request(0, size), size);
    sender.handle_data(Bytes::from(vec![7; 3 * max]));
    let sent = drain(&mut sender, START);
    let lens: Vec<_> =
        sent.iter().map(|body| if let Body::Chunk(chunk) = body { chunk.payload.len() } else { 0 }).collect();
    assert_eq!(lens, [max, 2 * max, 0]);
    assert!(sender.is_all_sent());
}

#[test]
fn never_sends_past_credit_and_beats_once_when_it_is_blocked() {
    let mut sender = sender(0..10, 3);
    sender.handle_data(Bytes::from_static(b"abcdef"));
    let blocked = |seq, offset| beat(seq, offset, Wait::Credit);
    assert_eq!(drain(&mut sender, START), [chunk(0, 0, b"abc"), blocked(1, 3)]);
    assert!(!sender.wants_data());
    sender.handle_control(Control::credit(5), START);
    assert_eq!(drain(&mut sender, START), [chunk(1, 3, b"de"), blocked(2, 5)]);
    sender.handle_control(Control::credit(4), MORE_CREDIT_WITHIN);
    assert_eq!(drain(&mut sender, MORE_CREDIT_WITHIN * 2), []);
}

/// A consumer's window starts small. On a fast link, a wait for each chunk would be most of the time.
#[test]
fn the_first_chunks_that_credit_cuts_short_do_not_wait_for_more() {
    let mut sender = sender(0..30, 1);
    sender.handle_data(Bytes::from_static(b"0123456789abcdef"));
    for (seq, credit) in [1, 3, 5, 7].into_iter().enumerate() {
        sender.handle_control(Control::credit(credit), START);
        let sent = drain(&mut sender, START);
        assert!(matches!(sent[0], Body::Chunk(Chunk { seq: sent, .. }) if sent == seq as u64), "{sent:?}");
    }

    sender.handle_control(Control::credit(9), START);
    assert_eq!(drain(&mut sender, START), []);
}

#[test]
fn a_chunk_cut_short_by_credit_waits_briefly_for_more() {
    let mut sender = sender(0..30, 2);
    sender.handle_data(Bytes::from_static(b"0123456789abcdef"));
    for credit in 2..=5 {
        sender.handle_control(Control::credit(credit), START);
        drain(&mut sender, START);
    }

    sender.handle_control(Control::credit(7), BEAT / 2);
    assert_eq!(drain(&mut sender, BEAT / 2), []);
    assert_eq!(sender.poll_timeout(), Some(BEAT / 2 + MORE_CREDIT_WITHIN));
    sender.handle_control(Control::credit(13), BEAT / 2);
    assert_eq!(drain(&mut sender, BEAT / 2)[..1], [chunk(4, 5, b"56789abc")]);

    // Further credit in small steps does not prolong the wait.
    sender.handle_control(Control::credit(14), BEAT);
    assert_eq!(drain(&mut sender, BEAT)[..], []);
    sender.handle_control(Control::credit(15), BEAT + MORE_CREDIT_WITHIN);
    assert_eq!(drain(&mut sender, BEAT + MORE_CREDIT_WITHIN)[..1], [chunk(5, 13, b"de")]);
}

#[test]
fn a_request_without_credit_gets_a_moderate_window() {
    let settings = Settings { window_max: u64::MAX, ..settings() };
    let request = GetRequest { start: 10, ..GetRequest::new("a/b".parse().unwrap()) };
    assert_eq!(accepted(settings, &request, 1 << 40).credit(), 10 + WINDOW_DEFAULT_BYTES);
}

fn sent_bytes(sent: &[Body]) -> usize {
    sent.iter().map(|body| if let Body::Chunk(chunk) = body { chunk.payload.len() } else { 0 }).sum()
}

#[test]
fn with_a_window_the_relay_computes_the_credit_from_the_written_bytes() {
    let request = GetRequest { start: 10, window: Some(16), ..GetRequest::new("a/b".parse().unwrap()) };
    let mut sender = accepted(settings(), &request, 1000);
    assert_eq!(sender.credit(), 26);

    sender.handle_data(Bytes::from_static(b"0123456789abcdef"));
    assert_eq!(sent_bytes(&drain(&mut sender, START)), 16);
    sender.handle_control(Control::written(18), START);
    assert_eq!(sender.credit(), 34);

    // With a window, credit has no effect, and bytes that were not sent can't be written.
    sender.handle_control(Control::credit(900), START);
    assert_eq!(sender.credit(), 34);
    sender.handle_control(Control::written(900), START);
    assert_eq!(sender.credit(), 26 + 16);
}

#[test]
fn a_window_is_limited_to_the_relays() {
    let request = GetRequest { window: Some(u64::MAX), ..GetRequest::new("a/b".parse().unwrap()) };
    assert_eq!(accepted(settings(), &request, 1000).credit(), 64);
}

#[test]
fn credit_is_clamped_to_the_window_and_the_range() {
    assert_eq!(sender(0..1000, u64::MAX).credit(), 64);
    assert_eq!(sender(0..10, u64::MAX).credit(), 10);
}

#[test]
fn beats_while_the_store_is_silent() {
    let mut sender = sender(0..10, 10);
    assert_eq!(drain(&mut sender, START), []);
    assert_eq!(sender.poll_timeout(), Some(BEAT));
    sender.handle_timeout(BEAT);
    assert_eq!(drain(&mut sender, BEAT), [Body::Beat { seq: 0, offset: 0, wait: Wait::Store }]);
    assert_eq!(sender.poll_timeout(), Some(BEAT * 2));
}

#[test]
fn a_consumer_that_stays_silent_while_it_blocks_ends_the_transfer() {
    let mut sender = sender(0..10, 0);
    sender.handle_data(Bytes::from_static(b"abc"));
    drain(&mut sender, START);
    sender.handle_control(Control::default(), BEAT);
    sender.handle_timeout(IDLE);
    assert!(sender.outcome().is_none());
    drain(&mut sender, IDLE);
    sender.handle_timeout(IDLE + BEAT);
    assert!(matches!(drain(&mut sender, IDLE + BEAT)[..], [Body::Error(ref error)] if error.code == Code::Idle));
    assert!(matches!(sender.outcome(), Some(Outcome::Failed(_))));
}

#[test]
fn the_idle_timeout_starts_when_the_consumer_learns_that_it_blocks() {
    let mut sender = sender(0..10, 3);
    sender.handle_timeout(IDLE * 2);
    drain(&mut sender, IDLE * 2);
    sender.handle_data(Bytes::from_static(b"abcdef"));
    drain(&mut sender, IDLE * 2);
    assert!(sender.is_blocked());
    sender.handle_timeout(IDLE * 3 - BEAT);
    assert!(matches!(drain(&mut sender, IDLE * 3 - BEAT)[..], [Body::Beat { wait: Wait::Credit, .. }]));
    sender.handle_timeout(IDLE * 3);
    assert!(matches!(drain(&mut sender, IDLE * 3)[..], [Body::Error(ref error)] if error.code == Code::Idle));
}

#[test]
fn a_consumer_that_stops_keeping_alive_ends_the_transfer_despite_credit() {
    let mut sender = accepted(settings(), &GetRequest { keeps_alive: true, ..request(0, 64) }, 64);
    sender.handle_control(Control::credit(64), BEAT);
    // The store is slow, so that credit never runs out.
    let mut now = START;
    while now < IDLE {
        now += BEAT;
        sender.handle_data(Bytes::from_static(b"ab"));
        sender.handle_timeout(now);
        assert!(matches!(drain(&mut sender, now)[..], [Body::Chunk(_)]));
    }
    assert_eq!(sender.poll_timeout(), Some(BEAT + IDLE));
    sender.handle_timeout(BEAT + IDLE);
    assert!(matches!(drain(&mut sender, BEAT + IDLE)[..], [Body::Error(ref error)] if error.code == Code::Idle));
    assert!(matches!(sender.outcome(), Some(Outcome::Failed(_))));
}

#[test]
fn a_consumer_that_keeps_alive_keeps_its_transfer() {
    let mut sender = accepted(settings(), &GetRequest { keeps_alive: true, ..request(0, 0) }, 64);
    sender.handle_data(Bytes::from_static(b"ab"));
    for round in 1..100 {
        let now = (IDLE - BEAT / 10) * round;
        sender.handle_timeout(now);
        drain(&mut sender, now);
        assert_eq!(sender.outcome(), None);
        sender.handle_control(Control::default(), now);
    }
}

#[test]
fn a_consumer_with_credit_may_be_silent_unless_it_keeps_alive() {
    let mut sender = sender(0..10, 10);
    sender.handle_timeout(IDLE * 10);
    assert!(matches!(drain(&mut sender, IDLE * 10)[..], [Body::Beat { wait: Wait::Store, .. }]));
    assert_eq!(sender.poll_timeout(), Some(IDLE * 10 + BEAT));
}

#[test]
fn a_store_that_yields_too_little_or_too_much_is_an_error() {
    let mut short = sender(0..10, 10);
    short.handle_data(Bytes::from_static(b"abc"));
    short.handle_data_end();
    assert!(matches!(drain(&mut short, START)[..], [Body::Error(ref e)] if e.code == Code::StoreUnavailable));
    let mut long = sender(0..2, 10);
    long.handle_data(Bytes::from_static(b"abc"));
    assert!(matches!(drain(&mut long, START)[..], [Body::Error(ref e)] if e.code == Code::Internal));
}

#[test]
fn nothing_follows_the_last_message() {
    let mut sender = sender(0..10, 10);
    sender.handle_data(Bytes::from_static(b"abc"));
    sender.handle_drain();
    sender.handle_failure(WireError::new(Code::Internal, "late"));
    sender.handle_data(Bytes::from_static(b"d"));
    assert_eq!(drain(&mut sender, START), [Body::Goaway]);
    sender.handle_timeout(IDLE);
    assert_eq!(drain(&mut sender, IDLE), []);
    assert_eq!(sender.outcome(), Some(&Outcome::Drained));
}

#[test]
fn a_cancelled_transfer_sends_nothing_more() {
    let mut sender = sender(0..10, 10);
    sender.handle_data(Bytes::from_static(b"abc"));
    sender.handle_control(Control::cancel(), START);
    assert_eq!(drain(&mut sender, START), []);
    assert_eq!(sender.outcome(), Some(&Outcome::Cancelled));
}
