//! The source of a transfer's bytes.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use tokio::time::sleep;

use gantry_proto::{GetRequest, ObjectInfo};
use gantry_store::{self as store, Opened, Store};

/// The source of a transfer's bytes.
pub(super) enum Source<'a> {
    Opening(BoxFuture<'a, Result<Opened, store::Error>>),
    Open(store::Body),
    /// The store has nothing more to report.
    Ended,
}

/// An event of a source.
pub(super) enum Event {
    Opened(Box<ObjectInfo>),
    Piece(Bytes),
    End,
    Failed(store::Error),
}

impl<'a> Source<'a> {
    /// Opens a request's object, after `wait` if there is one.
    pub(super) fn open(store: &'a dyn Store, request: &'a GetRequest, wait: Option<Duration>) -> Self {
        let Some(wait) = wait else {
            return Self::Opening(store.open(&request.key, &request.pin, request.span()));
        };

        let opening = async move {
            sleep(wait).await;
            store.open(&request.key, &request.pin, request.span()).await
        };
        Self::Opening(opening.boxed())
    }

    pub(super) const fn has_ended(&self) -> bool {
        matches!(self, Self::Ended)
    }

    /// Waits for the next event. Never returns after the end.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, the next call continues.
    pub(super) async fn next(&mut self) -> Event {
        let event = match self {
            Self::Opening(opening) => match opening.await {
                Ok(Opened { object, body }) => {
                    *self = Self::Open(body);
                    return Event::Opened(Box::new(object));
                }
                Err(error) => Event::Failed(error),
            },
            Self::Open(body) => match body.next().await {
                Some(Ok(piece)) => return Event::Piece(piece),
                Some(Err(error)) => Event::Failed(error),
                None => Event::End,
            },
            Self::Ended => std::future::pending().await,
        };

        *self = Self::Ended;
        event
    }
}
