//! Shared by the two measuring binaries: how work is distributed, timed, compared and reported.

pub mod load;
pub mod sample;

/// The allocator of the `gantry` binary, used in everything measured, so that it does not affect the comparison.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Gantry's allocator settings.
#[expect(unsafe_code, reason = "exporting a symbol is unsafe, since its name could be another's")]
#[used]
#[unsafe(export_name = "_rjem_malloc_conf")]
static ALLOCATOR_SETTINGS: &[u8; 10] = b"narenas:1\0";
