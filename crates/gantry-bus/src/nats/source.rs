//! The source of a subscription's messages, connection after connection.

use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use async_nats::Subscriber;
use futures_util::task::AtomicWaker;

/// The source of a subscription's messages. Each connection renews it.
#[derive(Default)]
pub(super) struct Source {
    next: Mutex<Next>,
    waker: AtomicWaker,
}

#[derive(Default)]
enum Next {
    /// There is no connection other than the current one.
    #[default]
    Unchanged,
    /// To be read once the current connection has ended.
    Subscriber(Box<Subscriber>),
    /// There will be no other connection.
    Closed,
}

impl Source {
    /// Continues with the messages of another connection.
    pub(super) fn renew(&self, subscriber: Subscriber) {
        self.set(Next::Subscriber(Box::new(subscriber)));
    }

    /// Ends the subscription once the messages that have arrived are read.
    pub(super) fn close(&self) {
        self.set(Next::Closed);
    }

    fn set(&self, next: Next) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = next;
        self.waker.wake();
    }

    /// Returns the next connection's subscriber, or `None` if there will be no other connection.
    pub(super) fn poll_next(&self, cx: &Context<'_>) -> Poll<Option<Subscriber>> {
        // Registered first, so that a change in between wakes the task.
        self.waker.register(cx.waker());
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::take(&mut *next) {
            Next::Unchanged => Poll::Pending,
            Next::Subscriber(subscriber) => Poll::Ready(Some(*subscriber)),
            Next::Closed => {
                *next = Next::Closed;
                Poll::Ready(None)
            }
        }
    }
}
