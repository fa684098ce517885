//! The bytes of one range.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, Stream};

use gantry_client::Error;
use gantry_store as store;

use crate::error;
use crate::flow::Flow;
use crate::shared::Shared;
use crate::trails::{Spot, Version};

/// The bytes of a range, from a transfer that may reach further. Dropping it cancels the transfer.
pub(crate) struct Range {
    shared: Arc<Shared>,
    version: Arc<Version>,
    /// The exclusive end of the range.
    end: u64,
    /// `None` once the range or its transfer has ended.
    flow: Option<Flow>,
    /// Ready with an error if the connection is lost before the first byte. `None` afterwards.
    lost: Option<BoxFuture<'static, store::Error>>,
}

impl Range {
    /// Returns the bytes of `flow` up to `end`, exclusive.
    pub(crate) fn new(shared: Arc<Shared>, version: Arc<Version>, flow: Flow, end: u64) -> Self {
        let lost = Some(shared.link.lost());
        Self { shared, version, end, flow: Some(flow), lost }
    }

    /// Lets the transfer wait for the next range, or remembers where this one ended.
    fn finish(&mut self) {
        let Some(flow) = &self.flow else { return };
        let spot = Spot { offset: self.end, version: Arc::clone(&self.version) };

        if flow.end() == self.end {
            if self.end < flow.object().size {
                self.shared.trails.end_at(spot);
            }
        } else if let Some(flow) = self.flow.take() {
            self.shared.trails.wait_at(spot, flow);
        }
    }

    fn fail(&mut self, error: &Error) -> store::Error {
        self.flow = None;

        let error = error::of_client(error);
        if matches!(error, store::Error::Changed(_)) {
            self.shared.descriptions.forget(&self.version.subject);
        }
        error
    }
}

impl Stream for Range {
    type Item = Result<Bytes, store::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Some(flow) = &mut this.flow else { return Poll::Ready(None) };

        // At the end of the transfer, this waits for the relay's last message.
        let Poll::Ready(piece) = flow.poll_piece(this.end, cx) else {
            let Some(lost) = &mut this.lost else { return Poll::Pending };
            let error = ready!(lost.poll_unpin(cx));
            this.flow = None;
            return Poll::Ready(Some(Err(error)));
        };

        this.lost = None;
        match piece {
            Some(Ok(piece)) => {
                if flow.offset() == this.end {
                    this.finish();
                }
                Poll::Ready(Some(Ok(piece)))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(this.fail(&error)))),
            None => {
                this.flow = None;
                Poll::Ready(None)
            }
        }
    }
}
