//! What the targets use of Gantry, by the names under which they use it. When a module moves, only this file changes.

pub(crate) use gantry_relay::bus::memory::MemoryNetwork;
pub(crate) use gantry_relay::bus::nats::fuzzing as nats_files;
pub(crate) use gantry_relay::bus::{Bus, Message, Subscription};
pub(crate) use gantry_relay::cli::Cli;
pub(crate) use gantry_relay::config::{self, Place};
pub(crate) use gantry_relay::consumer::part::{self, PartFile};
pub(crate) use gantry_relay::consumer::verify::Verifier;
pub(crate) use gantry_relay::consumer::{self, Client};
pub(crate) use gantry_relay::metrics::RelayMetrics;
pub(crate) use gantry_relay::proto::chunk::{self, Chunk};
pub(crate) use gantry_relay::proto::message::{self, Envelope, Wait};
pub(crate) use gantry_relay::proto::receiver::{self, Link, Output, Receiver};
pub(crate) use gantry_relay::proto::sender::{self, Sender};
pub(crate) use gantry_relay::proto::subject::{self, DeliveryAllow, Operation, Prefix};
pub(crate) use gantry_relay::proto::{
    Accepted, Body, Checksum, ChecksumAlgorithm, ChecksumKind, Code, Control, End, GetRequest, Headers, Key, ListPage,
    ListRequest, ObjectInfo, PartRun, Pin, Span, StatRequest, StoreName, TransferId, WireError, printable,
};
pub(crate) use gantry_relay::relay::{self, Relay};
pub(crate) use gantry_relay::shutdown::Shutdown;
pub(crate) use gantry_relay::store::Store;
pub(crate) use gantry_relay::store::budget::Budget;
pub(crate) use gantry_relay::store::memory::MemoryStore;
pub(crate) use gantry_relay::store::s3::{self, S3Store, fuzzing as pretended_s3};
pub(crate) use gantry_relay::trace;
