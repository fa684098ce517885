//! Test doubles for Gantry's crates: an in-memory [`bus`] that loses, delays and repeats messages and cuts connections,
//! and an in-memory [`store`].

#![forbid(unsafe_code)]

pub mod bus;
pub mod store;
