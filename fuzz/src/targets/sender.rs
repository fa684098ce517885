//! The relay's state machine under any sequence of events.

use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};

use crate::gantry::{Body, Code, Sender, WireError, sender};
use crate::machine::{Number, byte_at, control, pattern};

#[derive(Arbitrary, Debug)]
struct Input {
    settings: [Number; 5],
    keeps_alive: bool,
    range: (Number, Number),
    credit: Number,
    events: Vec<Event>,
}

#[derive(Arbitrary, Debug)]
enum Event {
    Data(u16),
    DataEnd,
    Control { credit: Number, cancel: bool },
    Gone,
    Drain,
    Failure,
    Later(Number),
    Timeout,
    Transmit,
}

pub(crate) fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let [chunk_max, gather_min, window_max, beat_ms, idle_ms] = input.settings.map(|number| number.0);
    let settings = sender::Settings {
        chunk_max: usize::try_from(chunk_max % 100_000).unwrap_or(1).max(1),
        gather_min: usize::try_from(gather_min % 100_000).unwrap_or(1),
        window_max,
        beat_interval: Duration::from_millis(beat_ms),
        idle_timeout: Duration::from_millis(idle_ms),
        keeps_alive: input.keeps_alive,
    };
    let (first, second) = (input.range.0.0 >> 1, input.range.1.0 >> 1);
    let range = first.min(second)..first.max(second);
    let mut now = Duration::ZERO;
    let mut model = Model { next: range.start, fed: range.start, seq: 0, is_over: false };
    let mut sender = Sender::new(settings, range.clone(), input.credit.0, now);
    for event in input.events {
        match event {
            Event::Data(len) => {
                if sender.wants_data() {
                    sender.handle_data(pattern(model.fed, len));
                    model.fed = model.fed.saturating_add(u64::from(len));
                }
            }
            Event::DataEnd => sender.handle_data_end(),
            Event::Control { credit, cancel } => {
                let before = sender.credit();
                sender.handle_control(control(credit, cancel), now);
                assert!(sender.credit() >= before, "credit falls");
            }
            Event::Gone => sender.handle_consumer_gone(),
            Event::Drain => sender.handle_drain(),
            Event::Failure => sender.handle_failure(WireError::new(Code::Internal, "x")),
            Event::Later(by) => now = now.saturating_add(Duration::from_millis(by.0)),
            Event::Timeout => sender.handle_timeout(now),
            Event::Transmit => model.transmit(&mut sender, &range, now),
        }
        assert!(sender.poll_timeout().is_none() || sender.outcome().is_none(), "a timer after the end");
        assert!(sender.credit() <= range.end.max(range.start));
    }
    model.transmit(&mut sender, &range, now);
}

/// What a consumer has seen.
struct Model {
    next: u64,
    fed: u64,
    seq: u64,
    is_over: bool,
}

impl Model {
    fn transmit(&mut self, sender: &mut Sender, range: &std::ops::Range<u64>, now: Duration) {
        // Every message either moves on or is the last one before something else has to happen.
        for _ in 0..200_000 {
            let Some(body) = sender.poll_transmit(now) else { return };
            assert!(!self.is_over, "something follows the last message");
            match body {
                Body::Chunk(chunk) => {
                    assert_eq!((chunk.seq, chunk.offset), (self.seq, self.next), "a gap");
                    assert!(chunk.is_intact() && !chunk.payload.is_empty());
                    let limit = chunk.limit().expect("it fits");
                    assert!(limit <= sender.credit() && limit <= range.end, "a byte past the credit or the range");
                    let right = |(n, byte): (usize, &u8)| *byte == byte_at(chunk.offset + n as u64);
                    assert!(chunk.payload.iter().enumerate().all(right), "a wrong byte");
                    (self.seq, self.next) = (self.seq + 1, limit);
                }
                Body::Beat { seq, offset, .. } => assert_eq!((seq, offset), (self.seq, self.next)),
                Body::End(end) => {
                    assert_eq!((end.chunks, end.bytes), (self.seq, range.end - range.start), "an end before all bytes");
                    self.is_over = true;
                }
                Body::Error(_) | Body::Goaway => self.is_over = true,
                Body::Accepted(_) => panic!("the sender never accepts"),
            }
        }
        panic!("there is no end to what is sent at one moment");
    }
}
