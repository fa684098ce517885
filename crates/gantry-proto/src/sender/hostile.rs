//! A consumer that breaks every rule: what the relay sends, and what it never sends.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::limits::OFFSET_MAX;
use super::super::limits::{BEAT_MAX, BEAT_MIN};
use super::tests::{accepted, drain, identity, object, request};
use super::*;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const START: Duration = Duration::ZERO;

fn settings() -> Settings {
    Settings {
        chunk_max: 64 << 10,
        gather_min: 4 << 10,
        window_max: 1 << 20,
        beat_interval: SECOND,
        idle_timeout: 15 * SECOND,
    }
}

fn sender(credit: u64, size: u64) -> Sender {
    accepted(settings(), &GetRequest { keeps_alive: true, ..request(0, credit) }, size)
}

fn give(credit: u64) -> Control {
    Control::credit(credit)
}

/// The relay once answered each control message with a chunk of one byte and a beat.
#[test]
fn credit_in_steps_of_one_byte_does_not_cause_a_message_per_step() {
    let mut sender = sender(0, 100_000);
    sender.handle_data(vec![7; 50_000].into());
    let mut sent = 0;
    for step in 1..=10_000 {
        let now = START + MS * step / 10;
        sender.handle_control(give(u64::from(step)), now);
        sender.handle_timeout(now);
        sent += drain(&mut sender, now).len();
    }
    assert!(sent <= 2 * (16 + 100), "{sent} messages in a second");
}

#[test]
fn a_small_credit_is_used_soon() {
    let mut sender = sender(0, 100_000);
    sender.handle_data(vec![7; 50_000].into());
    for step in 1..=20 {
        sender.handle_control(give(step), START);
        drain(&mut sender, START);
    }
    assert!(sender.sent_bytes() < 20);
    let due = sender.poll_timeout().unwrap();
    assert!(due <= 10 * MS, "{due:?}");
    sender.handle_timeout(due);
    drain(&mut sender, due);
    assert_eq!(sender.sent_bytes(), 20);
    assert!(sender.is_blocked());
}

#[test]
fn the_end_of_an_object_is_not_a_fragment() {
    let mut sender = sender(0, 40);
    for step in 1..=40 {
        sender.handle_data(vec![7].into());
        sender.handle_control(give(step), START);
        drain(&mut sender, START);
    }
    assert_eq!(sender.outcome(), Some(&Outcome::Completed));
}

#[test]
fn unchanged_control_messages_are_not_answered() {
    let mut sender = sender(10, 100_000);
    sender.handle_data(vec![7; 50_000].into());
    drain(&mut sender, START);
    for _ in 0..10_000 {
        sender.handle_control(give(10), MS);
        assert_eq!(drain(&mut sender, MS), []);
    }
}

#[test]
fn settings_out_of_bounds_are_clamped() {
    let wild = Settings {
        chunk_max: 0,
        gather_min: usize::MAX,
        window_max: 0,
        beat_interval: START,
        idle_timeout: Duration::MAX,
    };
    let any = request(0, u64::MAX);
    let bounded = wild.of_request(&any);
    assert_eq!((bounded.chunk_max, bounded.gather_min, bounded.window_max), (1, 1, 1));
    assert_eq!(bounded.beat_interval, BEAT_MIN);
    assert_eq!(Settings { beat_interval: Duration::MAX, ..wild }.of_request(&any).beat_interval, BEAT_MAX);

    let mut sender = accepted(wild, &any, 2);
    sender.handle_data(vec![7; 2].into());
    for now in (0..100).map(|step| MS * step) {
        sender.handle_control(give(u64::MAX), now);
        drain(&mut sender, now);
    }
    assert_eq!(sender.outcome(), Some(&Outcome::Completed));
}

/// The actions of a hostile consumer, the store, other transfers or the clock.
#[derive(Clone, Debug)]
enum Act {
    Control(Control),
    /// The store opens an object of this size.
    Opened(u64),
    Turn,
    Failure,
    Drain,
    Data(usize),
    DataEnd,
    Gone,
    Pass(u32),
    Timer,
}

fn act() -> impl Strategy<Value = Act> {
    let credit = prop_oneof![0..3000_u64, any::<u64>(), Just(OFFSET_MAX)];
    prop_oneof![
        8 => (credit, proptest::bool::weighted(0.02))
            .prop_map(|(credit, cancel)| Act::Control(Control { cancel, ..Control::credit(credit) })),
        2 => (0..4000_u64).prop_map(Act::Opened),
        8 => Just(Act::Turn),
        1 => proptest::bool::weighted(0.1).prop_map(|fails| if fails { Act::Failure } else { Act::Turn }),
        1 => proptest::bool::weighted(0.1).prop_map(|drains| if drains { Act::Drain } else { Act::Turn }),
        4 => (0..900_usize).prop_map(Act::Data),
        1 => Just(Act::DataEnd),
        1 => proptest::bool::weighted(0.1).prop_map(|gone| if gone { Act::Gone } else { Act::Timer }),
        3 => (0..2000_u32).prop_map(Act::Pass),
        3 => Just(Act::Timer),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_invariants_hold_whatever_a_consumer_does(
        acts in vec(act(), 0..150),
        keeps_alive: bool,
        chunk_max in 1..2000_usize,
        window_max in 1..5000_u64,
        start in 0..2000_u64,
        end in proptest::option::of(2000..4000_u64),
        credit: u64,
    ) {
        let settings = Settings { chunk_max, window_max, ..settings() };
        let request = GetRequest { end, keeps_alive, ..request(start, credit) };
        let (mut now, mut messages) = (START, 0_u64);
        let mut sender = Sender::new(settings, &request, identity(), now);
        let mut seen = Seen { seq: 0, next: start, limit: None };

        for act in acts {
            let is_timer = matches!(act, Act::Timer);
            match act {
                Act::Control(control) => sender.handle_control(control, now),
                Act::Opened(size) => sender.handle_opened(object(size), now),
                Act::Turn => sender.handle_turn(),
                Act::Failure => sender.handle_failure(WireError::new(Code::Internal, "x")),
                Act::Drain => sender.handle_drain(),
                Act::Data(len) if sender.wants_data() => sender.handle_data(vec![7; len].into()),
                Act::Data(_) => {}
                Act::DataEnd => sender.handle_data_end(),
                Act::Gone => sender.handle_consumer_gone(),
                Act::Pass(ms) => now += MS * ms,
                Act::Timer => {
                    now = now.max(sender.poll_timeout().unwrap_or(now));
                    sender.handle_timeout(now);
                }
            }

            let was_over = sender.outcome().is_some();
            while let Some(body) = sender.poll_transmit(now) {
                prop_assert!(!was_over, "{body:?} follows the last message");
                messages += 1;
                seen.check(&body, &request)?;
                prop_assert!(seen.next <= sender.credit().max(start));
            }

            prop_assert!(sender.credit() <= (seen.next + window_max).min(seen.limit.unwrap_or(start)));
            match sender.poll_timeout() {
                Some(at) => prop_assert!(at <= now + BEAT_MAX && (at > now || !is_timer || sender.wants_turn())),
                None => prop_assert!(sender.outcome().is_some()),
            }
        }
        prop_assert!(u128::from(messages) <= u128::from(seen.next - start) + 2 * (now.as_millis() / 10) + 200);
    }
}

/// The messages that a consumer has received.
struct Seen {
    seq: u64,
    next: u64,
    /// The exclusive end of the range, once the request is accepted.
    limit: Option<u64>,
}

impl Seen {
    fn check(&mut self, body: &Body, request: &GetRequest) -> Result<(), TestCaseError> {
        match body {
            Body::Accepted(accepted) => {
                prop_assert_eq!((accepted.start, self.limit), (request.start, None));
                prop_assert!(accepted.credit <= request.credit.unwrap().max(request.start));
                self.limit = Some(accepted.end);
            }
            Body::Chunk(chunk) => {
                prop_assert_eq!((chunk.seq, chunk.offset), (self.seq, self.next));
                self.seq += 1;
                self.next = chunk.limit().unwrap();
                prop_assert!(self.limit.is_some_and(|limit| self.next <= limit), "a chunk past the range");
            }
            Body::Beat { seq, offset, .. } => prop_assert_eq!((*seq, *offset), (self.seq, self.next)),
            Body::End(end) => prop_assert_eq!((end.chunks, Some(self.next)), (self.seq, self.limit)),
            Body::Error(_) | Body::Goaway => {}
        }
        Ok(())
    }
}
