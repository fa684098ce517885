//! What the two binaries that measure have in common: how work is spread, timed, compared and reported.

pub mod load;
pub mod sample;
