//! The reference model: the invariants, independent of the state machines and as simple as possible.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use gantry_proto::message::Wait;
use gantry_proto::sender::Settings;
use gantry_proto::{Body, Checksum, ChecksumAlgorithm, ChecksumKind, Control, TransferId, chunk};

use crate::store::{byte_at, version_of};

/// What the relay may send in one transfer.
struct Sent {
    version: usize,
    range: Range<u64>,
    settings: Settings,
    seq: u64,
    next: u64,
    /// The credit that it has received, limited to the window at that time.
    credit: u64,
    is_over: bool,
}

/// The consumer's messages on one control subject.
#[derive(Default)]
struct Said {
    credit: u64,
    cancelled: bool,
}

/// What an outside observer knows about the world.
pub(crate) struct Model {
    seed: u64,
    sizes: Vec<u64>,
    contents: Vec<Option<Bytes>>,
    current: usize,
    /// Where the store has returned a wrong byte: version and offset.
    lies: BTreeSet<(usize, u64)>,
    sent: BTreeMap<TransferId, Sent>,
    said: BTreeMap<String, Said>,
    /// The first violation.
    violation: Option<String>,
}

impl Model {
    pub(crate) fn new(seed: u64, sizes: Vec<u64>) -> Self {
        let contents = vec![None; sizes.len()];
        Self {
            seed,
            sizes,
            contents,
            current: 0,
            lies: BTreeSet::new(),
            sent: BTreeMap::new(),
            said: BTreeMap::new(),
            violation: None,
        }
    }

    pub(crate) fn take_violation(&mut self) -> Option<String> {
        self.violation.take()
    }

    /// Records a violation unless `holds`.
    pub(crate) fn check(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds && self.violation.is_none() {
            self.violation = Some(what());
        }
    }

    pub(crate) const fn current_version(&self) -> usize {
        self.current
    }

    /// Replaces the object. Returns `false` if there is no further version.
    pub(crate) fn replace(&mut self) -> bool {
        let more = self.current + 1 < self.sizes.len();
        self.current += usize::from(more);
        more
    }

    /// Returns the bytes of a version.
    pub(crate) fn bytes_of(&mut self, version: usize, offset: u64, len: usize) -> Bytes {
        let seed = self.seed;
        let size = self.sizes[version];
        let content =
            self.contents[version].get_or_insert_with(|| (0..size).map(|at| byte_at(seed, version, at)).collect());
        let offset = usize::try_from(offset).expect("objects are small");
        // A store that returns too much returns zeros past the end.
        if offset + len > content.len() {
            let mut more = content.slice(offset.min(content.len())..).to_vec();
            more.resize(len, 0);
            return more.into();
        }
        content.slice(offset..offset + len)
    }

    /// Returns the checksum that the store keeps of a version.
    pub(crate) fn checksum_of(&mut self, version: usize) -> Checksum {
        let size = usize::try_from(self.sizes[version]).expect("objects are small");
        let crc = chunk::crc(&self.bytes_of(version, 0, size));
        Checksum {
            algorithm: ChecksumAlgorithm::Crc64Nvme,
            kind: ChecksumKind::FullObject,
            value: STANDARD.encode(crc.to_be_bytes()),
            parts: Vec::new(),
        }
    }

    /// Records that the store returns a wrong byte.
    pub(crate) fn store_lies(&mut self, version: usize, offset: u64) {
        self.lies.insert((version, offset));
    }

    /// Returns whether the store has returned a wrong byte of a version.
    pub(crate) fn has_lied(&self, version: usize) -> bool {
        self.lies.range((version, 0)..=(version, u64::MAX)).next().is_some()
    }

    /// Returns whether these are the bytes of a version, except for wrong bytes from the store.
    pub(crate) fn is_as_stored(&mut self, version: usize, offset: u64, bytes: &Bytes) -> bool {
        let right = self.bytes_of(version, offset, bytes.len());
        right == *bytes
            || (offset..)
                .zip(right.iter().zip(bytes))
                .all(|(at, (right, byte))| right == byte || self.lies.contains(&(version, at)))
    }

    pub(crate) fn relay_accepts(
        &mut self,
        id: TransferId,
        etag: &str,
        range: Range<u64>,
        credit: u64,
        settings: Settings,
    ) {
        let version = version_of(etag).expect("the store's own etag");
        let credit = credit.min(range.start + settings.window_max).min(range.end);
        let sent = Sent { version, next: range.start, range, settings, seq: 0, credit, is_over: false };
        self.sent.insert(id, sent);
    }

    pub(crate) fn relay_hears(&mut self, id: TransferId, control: Control) {
        let Some(sent) = self.sent.get_mut(&id) else { return };
        let credit = control.credit.min(sent.next + sent.settings.window_max).min(sent.range.end);
        sent.credit = sent.credit.max(credit);
        sent.is_over |= control.cancel;
    }

    /// Checks a message of a transfer that is to start at `start`.
    pub(crate) fn relay_sends(&mut self, id: TransferId, start: u64, body: &Body) {
        let Some(mut sent) = self.sent.remove(&id) else {
            let may_precede = match body {
                Body::Beat { seq, offset, wait } => (*seq, *offset, *wait) == (0, start, Wait::Store),
                Body::Error(_) | Body::Goaway => true,
                Body::Accepted(_) | Body::Chunk(_) | Body::End(_) => false,
            };
            return self.check(may_precede, || format!("{id} sends {} before it accepts", body.type_name()));
        };
        self.check(!sent.is_over, || format!("{id} sends {} after its last message", body.type_name()));

        match body {
            Body::Chunk(chunk) => {
                let limit = chunk.offset + chunk.payload.len() as u64;
                self.check(chunk.seq == sent.seq, || format!("{id} sends chunk {} after {}", chunk.seq, sent.seq));
                self.check(chunk.offset == sent.next, || {
                    format!("{id} sends offset {} instead of {}", chunk.offset, sent.next)
                });
                self.check(limit <= sent.credit, || format!("{id} sends up to {limit}, past credit {}", sent.credit));
                let len = chunk.payload.len();
                self.check((1..=sent.settings.chunk_max).contains(&len), || {
                    format!("{id} sends a chunk of {len} bytes")
                });
                let right = limit <= sent.range.end && self.is_as_stored(sent.version, chunk.offset, &chunk.payload);
                self.check(right, || format!("{id} sends wrong bytes at {}", chunk.offset));
                sent.seq += 1;
                sent.next = limit;
            }
            Body::Beat { seq, offset, .. } => self.check((*seq, *offset) == (sent.seq, sent.next), || {
                format!("{id} beats at chunk {seq}, offset {offset}")
            }),
            Body::End(end) => {
                let complete = sent.next == sent.range.end
                    && end.chunks == sent.seq
                    && end.bytes == sent.range.end - sent.range.start;
                self.check(complete, || format!("{id} ends with {end:?} at offset {}", sent.next));
                sent.is_over = true;
            }
            Body::Error(_) | Body::Goaway => sent.is_over = true,
            Body::Accepted(_) => self.check(false, || format!("{id} accepts twice")),
        }

        self.sent.insert(id, sent);
    }

    /// Checks the consumer's credit: it never exceeds `written` by more than the window.
    pub(crate) fn consumer_grants(&mut self, credit: u64, written: u64, window_max: u64) {
        self.check(credit <= written + window_max, || {
            format!("credit {credit} is more than a window of {window_max} ahead of {written}")
        });
    }

    /// Checks the consumer's control messages: credit never decreases, and nothing follows a cancel.
    pub(crate) fn consumer_says(&mut self, subject: &str, control: Control, written: u64, window_max: u64) {
        let said = self.said.remove(subject).unwrap_or_default();
        self.check(!said.cancelled, || format!("{control:?} follows a cancel on {subject}"));
        self.check(control.credit >= said.credit, || {
            format!("credit falls from {} to {}", said.credit, control.credit)
        });
        self.consumer_grants(control.credit, written, window_max);
        self.said.insert(subject.to_owned(), Said { credit: control.credit, cancelled: control.cancel });
    }
}
