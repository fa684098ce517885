//! Protocol v1, without I/O, clock or randomness: messages, subjects, and the two state machines.
//!
//! [`sender::Sender`] is the relay's side of one transfer and [`receiver::Receiver`] the consumer's side of one
//! download. Both take inputs through `handle_*`, hand out outputs through `poll_*`, and are told the time.
//! `docs/PROTOCOL.md` is the law that this module implements.

pub mod check;
pub mod chunk;
pub mod error;
pub mod limits;
pub mod message;
pub mod printable;
mod quota;
pub mod receiver;
pub mod sender;
pub mod subject;
pub mod types;

pub use error::{Code, WireError};
pub use limits::OFFSET_MAX;
pub use message::{Body, Headers};
pub use types::{
    Accepted, Checksum, ChecksumAlgorithm, ChecksumKind, Control, End, GetRequest, Key, ListEntry, ListPage,
    ListRequest, ObjectInfo, PartRun, Pin, Span, StatRequest, StoreName, TransferId,
};

/// The protocol's major version, the `v1` of every subject.
pub const VERSION: u32 = 1;

/// The largest request or control body, in bytes.
pub const REQUEST_MAX_BYTES: usize = 16 * 1024;

/// The largest `context`, in bytes. It is repeated on every message of a transfer.
pub const CONTEXT_MAX_BYTES: usize = 256;

/// What headers, subject and reply may take of nats-server's `max_payload`, which counts headers too.
///
/// The largest header block of a chunk is 256 bytes of context and less than 300 of our own. 4 KiB also keeps a
/// full frame just below a power of two, which spares the reader a regrown buffer.
pub const HEADERS_MAX_BYTES: usize = 4 * 1024;
