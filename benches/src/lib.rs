//! What the two binaries that measure have in common: how work is spread, timed, compared and reported.

pub mod load;
pub mod sample;

/// The allocator of the product's own binary, for everything that is measured: it is not what tells them apart.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
