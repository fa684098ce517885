//! A consumer at the site: one `Receiver`, and a disk.

use std::time::Duration;

use gantry_proto::Get;
use gantry_proto::receiver::{Receiver, Settings};
use gantry_proto::subject::Prefix;

/// The settings of Gantry's own consumer.
fn settings(jitter_seed: u64) -> Settings {
    Settings {
        prefix: Prefix::default(),
        window_initial: 4 << 10,
        near: None,
        window_max: 24 << 20,
        chunk_max: 1 << 20,
        stall_timeout: Duration::from_secs(3),
        no_relay_patience: Duration::from_millis(1500),
        patience: Duration::from_secs(120),
        backoff_min: Duration::from_millis(100),
        backoff_max: Duration::from_secs(2),
        jitter_seed,
    }
}

/// A consumer, from its start to its end.
pub(crate) struct Consumer {
    pub(crate) receiver: Receiver,
    pub(crate) started_at: Duration,
    pub(crate) ended_at: Option<Duration>,
    /// The number of the latest inbox.
    pub(crate) inbox: u64,
    /// When that inbox replaced the previous one.
    pub(crate) moved_at: Duration,
    pub(crate) timer_at: Option<Duration>,
    /// Until when the disk is busy.
    pub(crate) is_writing: bool,
    /// The disk's rate, in bytes per second. A disk without one is never behind.
    write_rate: Option<u64>,
    written: u64,
    pub(crate) controls: u64,
    pub(crate) chunks: u64,
}

impl Consumer {
    pub(crate) fn new(index: usize, write_rate: Option<u64>, now: Duration) -> Self {
        let get = Get::at("store/object").expect("an address");
        Self {
            receiver: Receiver::new(settings(index as u64), get, now),
            started_at: now,
            ended_at: None,
            inbox: 0,
            moved_at: now,
            timer_at: None,
            is_writing: false,
            write_rate,
            written: 0,
            controls: 0,
            chunks: 0,
        }
    }

    /// Writes the next chunk. Returns its size and how long that takes, unless the disk is busy or never behind.
    pub(crate) fn write(&mut self, now: Duration) -> Option<(u64, Duration)> {
        if self.is_writing {
            return None;
        }

        while let Some(chunk) = self.receiver.poll_deliver() {
            self.chunks += 1;
            let len = chunk.payload.len() as u64;
            if let Some(rate) = self.write_rate {
                self.is_writing = true;
                return Some((len, Duration::from_nanos(len * 1_000_000_000 / rate)));
            }
            self.written += len;
        }
        self.receiver.handle_written(self.written, now);
        None
    }

    /// Records that the disk has written `len` more bytes.
    pub(crate) fn handle_written(&mut self, len: u64, now: Duration) {
        self.is_writing = false;
        self.written += len;
        self.receiver.handle_written(self.written, now);
    }
}
