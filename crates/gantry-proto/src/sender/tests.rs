//! The relay's side with a consumer that keeps to the rules.

use super::*;

const BEAT: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(15);
const START: Duration = Duration::ZERO;

fn sender(range: Range<u64>, credit: u64) -> Sender {
    Sender::new(settings(), range, credit, START)
}

fn settings() -> Settings {
    Settings {
        chunk_max: 8,
        gather_min: 4,
        window_max: 64,
        beat_interval: BEAT,
        idle_timeout: IDLE,
        keeps_alive: false,
    }
}

fn chunk(seq: u64, offset: u64, payload: &'static [u8]) -> Body {
    Body::Chunk(Chunk::new(seq, offset, Bytes::from_static(payload)))
}

fn drain(sender: &mut Sender, now: Duration) -> Vec<Body> {
    std::iter::from_fn(|| sender.poll_transmit(now)).collect()
}

#[test]
fn an_empty_range_has_no_chunk_and_an_end() {
    let mut sender = sender(5..5, 5);
    assert_eq!(drain(&mut sender, START), [Body::End(End { chunks: 0, bytes: 0 })]);
    assert_eq!(sender.outcome(), Some(&Outcome::Completed));
    assert_eq!(sender.poll_timeout(), None);
}

#[test]
fn cuts_large_frames_and_gathers_small_ones() {
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
fn the_first_chunk_is_small_and_the_others_as_they_come() {
    let max = FIRST_CHUNK_MAX;
    let settings = Settings { chunk_max: 4 * max, window_max: u64::MAX, ..settings() };
    let size = to_u64(3 * max);
    let mut sender = Sender::new(settings, 0..size, size, START);
    sender.handle_data(Bytes::from(vec![7; 3 * max]));
    let sent = drain(&mut sender, START);
    let lens: Vec<_> =
        sent.iter().map(|body| if let Body::Chunk(chunk) = body { chunk.payload.len() } else { 0 }).collect();
    assert_eq!(lens, [max, 2 * max, 0]);
    assert!(sender.is_all_sent());
}

#[test]
fn never_sends_past_credit_and_says_once_that_it_is_blocked() {
    let mut sender = sender(0..10, 3);
    sender.handle_data(Bytes::from_static(b"abcdef"));
    let blocked = |seq, offset| Body::Beat { seq, offset, wait: Wait::Credit };
    assert_eq!(drain(&mut sender, START), [chunk(0, 0, b"abc"), blocked(1, 3)]);
    assert!(!sender.wants_data());
    sender.handle_control(Control { credit: 5, cancel: false }, START);
    assert_eq!(drain(&mut sender, START), [chunk(1, 3, b"de"), blocked(2, 5)]);
    sender.handle_control(Control { credit: 4, cancel: false }, START);
    assert_eq!(drain(&mut sender, START), []);
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
fn a_silent_consumer_that_gives_no_credit_ends_the_transfer() {
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
fn a_consumer_that_had_nothing_to_say_is_waited_for_from_when_it_is_told() {
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
fn a_consumer_that_keeps_alive_and_falls_silent_is_given_up_also_while_it_has_credit() {
    let mut sender = Sender::new(Settings { keeps_alive: true, ..settings() }, 0..64, 64, START);
    sender.handle_control(Control { credit: 64, cancel: false }, BEAT);
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
fn a_consumer_that_keeps_alive_is_kept_for_as_long_as_it_speaks() {
    let mut sender = Sender::new(Settings { keeps_alive: true, ..settings() }, 0..64, 0, START);
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
fn a_consumer_that_promised_nothing_may_be_silent_while_it_has_credit() {
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
    sender.handle_control(Control { credit: 0, cancel: true }, START);
    assert_eq!(drain(&mut sender, START), []);
    assert_eq!(sender.outcome(), Some(&Outcome::Cancelled));
}
