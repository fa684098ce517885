//! The steps of a case, and the expected reaction of the consumer.

use clap::ValueEnum;
use serde_json::Value;

/// How much of the protocol a consumer implements. Each level includes the previous ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Level {
    /// Checks everything, and fails if anything goes wrong.
    Bare,
    /// Requests the rest after a failure, in the same version.
    Resuming,
    /// Also notices a dead relay early, and adapts to the link.
    Full,
}

impl Level {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Resuming => "resuming",
            Self::Full => "full",
        }
    }
}

/// How the consumer must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    /// With the complete file.
    File,
    /// A bare consumer fails. Others request the rest and end with the complete file.
    Recovery,
    /// A bare consumer may fail. Others end with the complete file.
    Tolerance,
    /// With a failure.
    Failure,
    /// With a failure or the complete file, but never with success and another file.
    NoWrongFile,
}

/// One step of a scripted transfer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// Sends `accepted`, after a change to its body.
    Accept(fn(&mut Value)),
    /// Sends `accepted` with another transfer in its header.
    AcceptAsAnother,
    /// Sends `accepted` with a transfer of two subject tokens. Later messages have it, too.
    AcceptOdd,
    /// Sends this many chunks, as credit permits.
    Chunks(usize),
    /// Sends up to this many chunks, as far as the credit of the request reaches.
    GrantedChunks(usize),
    /// Sends all chunks that are left, as credit permits.
    Rest,
    /// Sends the next chunk after a change.
    Chunk(fn(&mut Draft)),
    /// Sends the next chunk under another transfer's id. The chunk itself is still to be sent.
    ForeignChunk,
    /// Sends other bytes as the next chunk, without a transfer. The chunk itself is still to be sent.
    NamelessChunk,
    /// Sends all bytes that are left as one chunk, without waiting for credit.
    LongChunk,
    /// Sends a chunk without bytes.
    EmptyChunk,
    /// Skips a chunk, as if it were lost.
    Lose,
    /// Sends the next two chunks in the wrong order.
    Swap,
    /// Sends the previous message again.
    Repeat,
    /// Sends chunks without waiting for credit.
    Flood,
    /// Sends a beat after a change.
    Beat(fn(&mut Draft)),
    /// Sends this many beats that wait for the store, one per interval.
    Beats(usize),
    /// Sends this many beats of the past, one per interval.
    StaleBeats(usize),
    /// Sends this many beats that wait for credit, at once.
    Nag(usize),
    /// Sends `end`, after a change to its body.
    End(fn(&mut Value)),
    /// Ends the transfer as if `end` were lost. Probes are answered.
    LoseEnd,
    /// Sends an error: code, whether it is retryable, and after how many milliseconds.
    Error(&'static str, bool, Option<u64>),
    /// Sends an error without a transfer.
    Refusal(&'static str, bool, Option<u64>),
    /// Sends any message.
    Raw(fn(&mut Draft)),
    /// Ignores this many further control messages, as if they were lost.
    LoseControls(usize),
    /// Waits until the consumer has sent this many control messages in this transfer.
    AwaitControls(usize),
    /// Waits for this many milliseconds.
    Pause(u64),
    /// Receives no requests for a second.
    Leave,
    /// Receives no more control messages, as if the relay had died.
    Die,
    /// Receives control messages again.
    Revive,
}

/// What is compared after the consumer has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// The consumer sends exactly this many requests.
    Requests(usize),
    /// Each further request starts at the first missing byte.
    ResumesExactly,
    /// The second request follows at least this many milliseconds after the first.
    WaitsBeforeRetry(u64),
    /// The second request follows at most this many milliseconds after the first.
    RetriesWithin(u64),
    /// Requests without progress between them have growing pauses.
    SpacesRetries,
    /// The consumer sends at most this many control messages.
    ControlsAtMost(usize),
    /// The consumer asks the silent relay for an answer.
    Probes,
    /// If the consumer promised to, it sends a control message within each `idle_ms`.
    KeepsAlive,
    /// The consumer cancels the first transfer.
    Cancels,
}

/// One case: a rule, and a transfer that shows whether a consumer follows it.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) id: &'static str,
    /// The heading in `docs/PROTOCOL.md`.
    pub(super) section: &'static str,
    pub(super) rule: &'static str,
    /// The lowest level at which the rule applies.
    pub(super) level: Level,
    pub(super) expect: Expect,
    /// The object.
    pub(super) object: Object,
    /// The scripts that answer the first requests. All further requests are answered correctly.
    pub(super) scripts: &'static [&'static [Step]],
    pub(super) checks: &'static [Check],
    /// Special conditions of the case.
    pub(super) stage: Stage,
}

/// The object that a case serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) key: &'static str,
    pub(super) size: usize,
    pub(super) checksum: Stored,
}

/// The checksum that the store keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    Correct,
    /// The checksum of other bytes.
    Wrong,
    /// The composite checksum of three parts, of which the first two have the same size.
    Composite,
    /// The composite checksum of three parts with other bytes.
    WrongComposite,
    /// A value that is not Base64.
    Invalid,
    /// A value that is Base64, but shorter than a digest.
    Short,
    /// The SHA-256 of other bytes.
    WrongSha256,
    Nothing,
}

/// The conditions under which a case runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Normal,
    /// No relay serves the store.
    Empty,
}

/// The number of bytes of most objects: some chunks of [`CHUNK`], and a shorter one.
pub(super) const SIZE: usize = 10 * CHUNK + 777;

/// The number of bytes of a chunk.
pub(super) const CHUNK: usize = 20_000;

/// The number of bytes of the first chunk, which differs from the others.
pub(super) const FIRST_CHUNK: usize = CHUNK / 3;

/// The object that most cases serve.
pub(super) const OBJECT: Object = Object { key: "object.bin", size: SIZE, checksum: Stored::Correct };

/// A case without any fault. The others are variations of it.
pub(super) const CORRECT: Case = Case {
    id: "",
    section: "",
    rule: "",
    level: Level::Bare,
    expect: Expect::File,
    object: OBJECT,
    scripts: &[],
    checks: &[],
    stage: Stage::Normal,
};

/// The steps of a correct transfer.
pub(super) const CORRECT_STEPS: &[Step] = &[Step::Accept(as_is), Step::Rest, Step::End(as_is)];

/// Changes nothing.
pub(super) fn as_is<T>(_: &mut T) {}

/// A message before it is sent.
#[derive(Clone, Debug, Default)]
pub(super) struct Draft {
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) payload: Vec<u8>,
}

impl Draft {
    /// Sets a header.
    pub(super) fn set(&mut self, name: &'static str, value: impl ToString) {
        self.remove(name);
        self.headers.push((name, value.to_string()));
    }

    /// Removes a header.
    pub(super) fn remove(&mut self, name: &str) {
        self.headers.retain(|(own, _)| *own != name);
    }

    /// Returns the number in a header.
    pub(super) fn number(&self, name: &str) -> u64 {
        let value = self.headers.iter().find(|(own, _)| *own == name);
        value.and_then(|(_, value)| value.parse().ok()).unwrap_or_default()
    }
}
