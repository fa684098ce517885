//! The environment of the targets: one runtime per thread on paused time, so that waiting takes no time, and scratch
//! files below `TMPDIR`.

use std::path::PathBuf;

use tokio::runtime::{Builder, Runtime};

thread_local! {
    // Never dropped: dropping tasks reads the clock, which is no longer available when a thread ends.
    static RUNTIME: &'static Runtime = Box::leak(Box::new(
        Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O can always be built"),
    ));
}

/// Runs `work` to its end.
pub(crate) fn run<T>(work: impl Future<Output = T>) -> T {
    RUNTIME.with(|runtime| runtime.block_on(work))
}

/// Returns a path that only this process uses.
pub(crate) fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("gantry-fuzz-{}-{name}", std::process::id()))
}
