//! The consumer: asks a relay for an object, reassembles the bytes and proves that they are right.

pub mod part;
pub mod verify;
