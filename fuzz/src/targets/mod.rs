//! The targets, one per file.

pub(crate) mod addresses;
pub(crate) mod check;
pub(crate) mod client;
pub(crate) mod config;
pub(crate) mod context;
pub(crate) mod http;
pub(crate) mod identity;
pub(crate) mod list;
pub(crate) mod messages;
pub(crate) mod part;
pub(crate) mod printable;
pub(crate) mod receiver;
pub(crate) mod relay;
pub(crate) mod requests;
pub(crate) mod s3;
pub(crate) mod sender;
pub(crate) mod subjects;
pub(crate) mod trace;
pub(crate) mod verify;
