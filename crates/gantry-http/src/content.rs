//! The content of a response, which never ends cleanly unless it is complete and verified.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::stream::{BoxStream, Stream, StreamExt as _};

use gantry_store::{Body, Error};
use gantry_verify::{Proof, Verifier};

use crate::observe::Aborted;

/// The content of a response.
pub(crate) enum Content {
    /// These bytes. Empty once they are sent.
    Bytes(Bytes),
    /// No bytes, in answer to HEAD, where `len` of them would follow.
    Head { len: u64 },
    /// An object, or a range of one.
    Piecewise(Box<Piecewise>),
    /// Several ranges of an object, with `left` bytes remaining.
    Multipart { left: u64, parts: BoxStream<'static, Result<Bytes, Failure>> },
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content").field("left", &self.left()).finish_non_exhaustive()
    }
}

/// Why content is incomplete.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) reason: Aborted,
    message: String,
    /// The store's error, if it failed.
    source: Option<Error>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The message contains the store's error.
impl std::error::Error for Failure {}

impl Failure {
    pub(crate) fn mismatch(message: impl Into<String>) -> Self {
        Self { reason: Aborted::Mismatch, message: message.into(), source: None }
    }

    /// Returns the store's error, if the store failed.
    pub(crate) const fn store_error(&self) -> Option<&Error> {
        self.source.as_ref()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let reason = if matches!(error, Error::Changed(_)) { Aborted::Changed } else { Aborted::Store };
        Self { reason, message: error.to_string(), source: Some(error) }
    }
}

impl Content {
    pub(crate) const EMPTY: Self = Self::Bytes(Bytes::new());

    pub(crate) fn of(text: String) -> Self {
        Self::Bytes(text.into())
    }

    /// Returns the number of bytes to come. 0 in answer to HEAD.
    pub(crate) fn left(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Head { .. } => 0,
            Self::Piecewise(piecewise) => piecewise.left,
            Self::Multipart { left, .. } => *left,
        }
    }

    /// Returns how the complete content was verified, if it was.
    pub(crate) const fn proof(&self) -> Option<Proof> {
        match self {
            Self::Piecewise(piecewise) => piecewise.proof,
            Self::Bytes(_) | Self::Head { .. } | Self::Multipart { .. } => None,
        }
    }

    /// Returns the same content without its bytes.
    pub(crate) fn into_head(self) -> Self {
        let len = self.head_len().unwrap_or_else(|| self.left());
        Self::Head { len }
    }

    /// Returns the number of bytes that an answer to HEAD lacks.
    pub(crate) const fn head_len(&self) -> Option<u64> {
        match self {
            Self::Head { len } => Some(*len),
            Self::Bytes(_) | Self::Piecewise(_) | Self::Multipart { .. } => None,
        }
    }

    /// Returns the next bytes, or `None` after the last.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
        match self {
            Self::Bytes(bytes) => {
                let bytes = std::mem::take(bytes);
                Poll::Ready((!bytes.is_empty()).then_some(Ok(bytes)))
            }
            Self::Head { .. } => Poll::Ready(None),
            Self::Piecewise(piecewise) => piecewise.poll_next_unpin(cx),
            Self::Multipart { left, parts } => {
                let next = ready!(parts.poll_next_unpin(cx));
                if let Some(Ok(bytes)) = &next {
                    *left = left.saturating_sub(bytes.len() as u64);
                }
                Poll::Ready(next)
            }
        }
    }
}

/// The bytes of a store's body, of which those that complete it are held back until the body has ended and, for a whole
/// object, the stored checksum matches.
pub(crate) struct Piecewise {
    /// Dropped at the end, which stops all reading.
    body: Option<Body>,
    /// The number of bytes that were not returned yet.
    left: u64,
    /// The number of bytes that the body did not return yet.
    expected: u64,
    verifier: Option<Verifier>,
    held: Option<Bytes>,
    proof: Option<Proof>,
}

impl Piecewise {
    /// Expects `len` bytes, which `verifier` verifies if they are a whole object.
    pub(crate) const fn new(body: Body, len: u64, verifier: Option<Verifier>) -> Self {
        Self { body: Some(body), left: len, expected: len, verifier, held: None, proof: None }
    }

    /// Waits for the first bytes, so that a failure before them has a status of its own. An object without bytes is
    /// verified.
    ///
    /// # Errors
    /// The failure before the first bytes. For an object that its store returns in one piece, this includes that its
    /// checksum does not match.
    pub(crate) async fn begin(mut self) -> Result<Content, Failure> {
        let Some(first) = self.next().await.transpose()? else {
            return Ok(Content::Piecewise(Box::new(self)));
        };

        self.left += first.len() as u64;
        // Whatever was held is part of what was returned, so nothing else can be held.
        self.held = Some(first);
        Ok(Content::Piecewise(Box::new(self)))
    }

    fn hand_out(&mut self, bytes: Bytes) -> Bytes {
        self.left = self.left.saturating_sub(bytes.len() as u64);
        bytes
    }

    fn accept(&mut self, piece: &Bytes) -> Result<(), Failure> {
        let len = piece.len() as u64;
        let Some(expected) = self.expected.checked_sub(len) else {
            return Err(Failure::mismatch("the store returned too many bytes"));
        };

        self.expected = expected;
        if let Some(verifier) = &mut self.verifier {
            verifier.update(piece);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Failure> {
        if self.expected > 0 {
            return Err(Failure::mismatch(format!("the store returned {} bytes too few", self.expected)));
        }
        if let Some(verifier) = self.verifier.take() {
            self.proof = Some(verifier.finish().map_err(|mismatch| Failure::mismatch(mismatch.to_string()))?);
        }
        Ok(())
    }
}

impl Stream for Piecewise {
    type Item = Result<Bytes, Failure>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // Bytes that were read while the response's head was prepared, or the last ones after the body's end.
        if (self.expected > 0 || self.body.is_none())
            && let Some(held) = self.held.take()
        {
            return Poll::Ready(Some(Ok(self.hand_out(held))));
        }

        while let Some(body) = &mut self.body {
            let next = ready!(body.poll_next_unpin(cx));
            if !matches!(next, Some(Ok(_))) {
                self.body = None;
            }

            match next {
                Some(Ok(piece)) => {
                    self.accept(&piece)?;
                    if self.expected > 0 {
                        return Poll::Ready(Some(Ok(self.hand_out(piece))));
                    }
                    if !piece.is_empty() {
                        self.held = Some(piece);
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => self.finish()?,
            }
        }

        let held = self.held.take();
        Poll::Ready(held.map(|held| Ok(self.hand_out(held))))
    }
}
