//! How the process is asked to stop: first gently, then at once.

use tokio_util::sync::CancellationToken;

/// Two stages of stopping, shared by everything that runs.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Take no new work; let what runs finish within its grace.
    pub drain: CancellationToken,
    /// Stop now.
    pub force: CancellationToken,
}
