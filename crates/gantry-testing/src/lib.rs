//! Test doubles for Gantry's crates: a [`bus`] that drops, delays, repeats and cuts, and a [`store`] in memory.

#![forbid(unsafe_code)]

pub mod bus;
pub mod store;
