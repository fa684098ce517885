//! The parts of Gantry that the targets use. If a module moves, only this file changes.

pub(crate) use gantry::cli::Cli;
pub(crate) use gantry::config::{self, StoreAddress};
pub(crate) use gantry_bus::nats::fuzzing as nats_files;
pub(crate) use gantry_bus::trace;
pub(crate) use gantry_bus::{Bus, Message, Subscription};
pub(crate) use gantry_client::part::PartFile;
pub(crate) use gantry_client::verify::Verifier;
pub(crate) use gantry_client::{self as consumer, Client};
pub(crate) use gantry_http as http;
pub(crate) use gantry_proto::chunk::{self, Chunk};
pub(crate) use gantry_proto::message::{self, Envelope, Wait};
pub(crate) use gantry_proto::receiver::{self, Output, Receiver};
pub(crate) use gantry_proto::sender::{self, Sender};
pub(crate) use gantry_proto::subject::{self, DeliveryAllow, Operation, Prefix};
pub(crate) use gantry_proto::{
    Accepted, Body, Checksum, ChecksumAlgorithm, ChecksumKind, Code, Control, End, Get, GetRequest, Headers, Key,
    ListEntry, ListPage, ListRequest, Location, ObjectInfo, PartRun, Pin, Span, StatRequest, StoreName, TransferId,
    WireError, check, limits, printable, service,
};
pub(crate) use gantry_relay::metrics::{RelayMetrics, StoreLabel};
pub(crate) use gantry_relay::shutdown::Shutdown;
pub(crate) use gantry_relay::{self as relay, Relay};
pub(crate) use gantry_store::budget::Budget;
pub(crate) use gantry_store::s3::{self, S3Store, fuzzing as pretended_s3};
pub(crate) use gantry_store::{Error as StoreError, Opened, Store};
pub(crate) use gantry_testing::bus::MemoryNetwork;
pub(crate) use gantry_testing::store::MemoryStore;
