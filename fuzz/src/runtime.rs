//! What targets run in: one runtime for each thread, on paused time, so that whatever waits is waited for at once; and
//! files for scratch, below `TMPDIR`.

use std::path::PathBuf;

use tokio::runtime::{Builder, Runtime};

thread_local! {
    // Never dropped: what tasks hold asks for the time as it goes, which the end of a thread does not know any more.
    static RUNTIME: &'static Runtime = Box::leak(Box::new(
        Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O needs nothing"),
    ));
}

/// Runs `work` to its end.
pub(crate) fn run<T>(work: impl Future<Output = T>) -> T {
    RUNTIME.with(|runtime| runtime.block_on(work))
}

/// Returns a path of this process that nothing else uses.
pub(crate) fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("gantry-fuzz-{}-{name}", std::process::id()))
}
