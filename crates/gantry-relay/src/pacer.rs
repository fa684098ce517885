//! Applies rate limits to one transfer.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use crate::options::Options;
use gantry_bus::rate::RateLimit;
use gantry_proto::sender::Sender;

/// Waits for a transfer's turn at each of its limits.
///
/// Only bytes that pass all limits count. A transfer that ends while it waits has used nothing.
pub(crate) struct Pacer {
    /// The transfer's own limit comes first, so that it does not delay others at the shared limit.
    limits: Vec<RateLimit>,
    waiting: Option<BoxFuture<'static, usize>>,
}

impl Pacer {
    /// Applies the limits to a transfer, if there are any.
    pub(crate) fn new(options: &Options, sender: &mut Sender) -> Self {
        let own = options.transfer_rate_max.map(RateLimit::new);
        let limits: Vec<_> = own.into_iter().chain(options.rate_limit.clone()).collect();
        if !limits.is_empty() {
            sender.hold();
        }
        Self { limits, waiting: None }
    }

    pub(crate) const fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Starts to wait for a turn to send `wanted` bytes, unless that is 0 or the transfer is already waiting.
    pub(crate) fn ask(&mut self, wanted: usize) {
        if wanted == 0 || self.waiting.is_some() {
            return;
        }

        let limits = self.limits.clone();
        let turns = async move {
            let mut len = wanted;
            for limit in limits {
                len = limit.turn(len).await;
            }
            len
        };
        self.waiting = Some(turns.boxed());
    }

    /// Waits for the transfer's turn, and returns how many bytes it may send. Never returns if the transfer is not waiting.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, the next call continues the wait.
    pub(crate) async fn turn(&mut self) -> usize {
        let Some(waiting) = &mut self.waiting else { return std::future::pending().await };
        let len = waiting.await;
        self.waiting = None;
        len
    }
}
