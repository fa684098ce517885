//! Holds one transfer to its rate limits.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use crate::options::Options;
use gantry_bus::rate::RateLimit;
use gantry_proto::sender::Sender;

/// Waits for a transfer's turn at each of its limits.
///
/// Only what passes all of them counts: a transfer that ends while it waits owes nothing.
pub(crate) struct Pacer {
    /// The transfer's own limit first, so that it holds up no other where all share one.
    limits: Vec<RateLimit>,
    waiting: Option<BoxFuture<'static, usize>>,
}

impl Pacer {
    /// Holds a transfer to its limits, if it has any.
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

    /// Begins to wait for a turn to send `wanted` bytes, unless there are none or it waits already.
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

    /// Returns how many bytes may be sent, when it is the transfer's turn; never while it does not wait.
    ///
    /// # Cancel safety
    /// The wait goes on with the next call.
    pub(crate) async fn turn(&mut self) -> usize {
        let Some(waiting) = &mut self.waiting else { return std::future::pending().await };
        let len = waiting.await;
        self.waiting = None;
        len
    }
}
