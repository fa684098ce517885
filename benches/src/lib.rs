//! Shared by the two measuring binaries: how work is distributed, timed, compared and reported.

pub mod load;
pub mod sample;

/// The allocator of the `gantry` binary, used in everything measured, so that it does not affect the comparison.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
