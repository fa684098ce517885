//! Protocol v1 without I/O, clock or randomness: messages, subjects, and the two state machines.
//!
//! [`sender::Sender`] is the relay's side of one transfer and [`receiver::Receiver`] the consumer's side of one
//! download. Both take inputs through `handle_*` and return outputs through `poll_*`; the caller passes the time.
//! `docs/PROTOCOL.md` is the specification.

mod answer;
pub mod check;
pub mod chunk;
pub mod error;
mod get;
mod json;
pub mod limits;
pub mod message;
mod names;
mod object;
pub mod printable;
mod quota;
pub mod receiver;
mod request;
pub mod sender;
pub mod service;
pub mod subject;
mod via;

pub use answer::{Accepted, End, ListEntry, ListPage};
pub use error::{Code, Malformed, WireError};
pub use get::Get;
pub use limits::OFFSET_MAX;
pub use message::{Body, Headers};
pub use names::{Key, StoreName, TransferId};
pub use object::{Checksum, ChecksumAlgorithm, ChecksumKind, ObjectInfo, PartRun, Pin, STORED_HEADERS, Span};
pub use request::{Control, GetRequest, ListRequest, Location, Near, StatRequest, is_valid_context};
pub use via::Via;

/// The protocol's major version: the `v1` in every subject.
pub const VERSION: u32 = 1;

/// The largest request or control body, in bytes.
pub const REQUEST_MAX_BYTES: usize = 16 * 1024;

/// The largest `context`, in bytes. It is repeated on every message of a transfer.
pub const CONTEXT_MAX_BYTES: usize = 256;

/// The number of bytes of nats-server's `max_payload` that is reserved for headers, which count towards it.
///
/// The largest header block of a chunk has 256 bytes of context and less than 300 bytes of Gantry's own headers. With
/// 4 KiB, a full frame is also just below a power of two, so the reader's buffer need not grow again.
pub const HEADERS_MAX_BYTES: usize = 4 * 1024;
