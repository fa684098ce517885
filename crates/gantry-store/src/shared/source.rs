//! A body that several readers take bytes from.
//!
//! No task and no reader owns it. The reader that needs its next byte polls it, and so do all others that wait for the
//! same byte. If one of them leaves, the others continue.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};

use super::kept::ReaderId;
use crate::{Body, Error};

/// Bytes that a store is asked for once. Clones are the same source.
#[derive(Clone)]
pub(super) struct Source(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    waiting: Arc<Waiting>,
    /// Wakes all readers that wait.
    waker: Waker,
}

struct State {
    body: Pending,
    /// The offset of the next byte.
    next: u64,
    /// The exclusive end.
    end: u64,
}

enum Pending {
    Opening(BoxFuture<'static, Result<Body, Error>>),
    Open(Body),
    /// The body ended.
    Ended,
    Failed(Error),
}

/// What a source has for a reader.
#[derive(Debug)]
pub(super) enum Poured {
    Piece(Bytes),
    /// Another reader has taken the byte at this offset, or it is past the end of the source.
    Past,
    Ended,
    Failed(Error),
}

/// What a source has at some offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Its next byte.
    Here,
    /// The failure or the end that it has met.
    Over,
    /// Nothing.
    Elsewhere,
}

/// The readers that wait for the next byte of a source.
#[derive(Default)]
struct Waiting(Mutex<HashMap<ReaderId, Waker>>);

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let waiting = std::mem::take(&mut *self.lock());
        waiting.into_values().for_each(Waker::wake);
    }
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, HashMap<ReaderId, Waker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PartialEq for Source {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let State { next, end, .. } = *self.lock();
        f.debug_struct("Source").field("next", &next).field("end", &end).finish_non_exhaustive()
    }
}

impl Source {
    /// Creates a source of the bytes from `next` to `end`, exclusive, which are those of `body`.
    pub(super) fn new(body: Body, next: u64, end: u64) -> Self {
        Self::of(Pending::Open(body), next, end)
    }

    /// Creates a source of the bytes from `next` to `end`, exclusive. Nothing is opened before the first byte is needed.
    pub(super) fn opening(opening: BoxFuture<'static, Result<Body, Error>>, next: u64, end: u64) -> Self {
        Self::of(Pending::Opening(opening), next, end)
    }

    fn of(body: Pending, next: u64, end: u64) -> Self {
        let waiting = Arc::new(Waiting::default());
        let waker = Waker::from(Arc::clone(&waiting));
        Self(Arc::new(Inner { state: Mutex::new(State { body, next, end }), waiting, waker }))
    }

    /// Takes the bytes at `offset` from the source. They are passed to `push` before any other reader can continue.
    pub(super) fn poll(
        &self,
        reader: ReaderId,
        offset: u64,
        context: &Context<'_>,
        push: impl FnOnce(&Bytes),
    ) -> Poll<Poured> {
        let mut state = self.lock();
        if state.next != offset || state.next == state.end {
            return Poll::Ready(Poured::Past);
        }

        // Entered before the poll, since the bytes may arrive right after it.
        self.0.waiting.lock().insert(reader, context.waker().clone());
        let polled = state.poll(&mut Context::from_waker(&self.0.waker));
        let poured = ready!(polled);

        self.0.waiting.lock().remove(&reader);
        if let Poured::Piece(piece) = &poured {
            push(piece);
        }
        drop(state);
        self.0.waker.wake_by_ref();
        Poll::Ready(poured)
    }

    /// Returns what the source has at `offset`.
    pub(super) fn at(&self, offset: u64) -> Standing {
        let state = self.lock();
        match state.body {
            _ if state.next != offset || state.next == state.end => Standing::Elsewhere,
            Pending::Failed(_) | Pending::Ended => Standing::Over,
            Pending::Opening(_) | Pending::Open(_) => Standing::Here,
        }
    }

    /// Forgets a reader that may be waiting.
    pub(super) fn leave(&self, reader: ReaderId) {
        self.0.waiting.lock().remove(&reader);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Poured> {
        loop {
            match &mut self.body {
                Pending::Opening(opening) => {
                    self.body = match ready!(opening.poll_unpin(context)) {
                        Ok(body) => Pending::Open(body),
                        Err(error) => Pending::Failed(error),
                    };
                }
                Pending::Open(body) => match ready!(body.poll_next_unpin(context)) {
                    Some(Ok(mut piece)) => {
                        piece.truncate(usize::try_from(self.end - self.next).unwrap_or(usize::MAX));
                        self.next += piece.len() as u64;
                        if !piece.is_empty() {
                            return Poll::Ready(Poured::Piece(piece));
                        }
                    }
                    Some(Err(error)) => self.body = Pending::Failed(error),
                    None => self.body = Pending::Ended,
                },
                Pending::Ended => return Poll::Ready(Poured::Ended),
                Pending::Failed(error) => return Poll::Ready(Poured::Failed(error.clone())),
            }
        }
    }
}
