//! The body of a response as hyper polls it, and the report of how it ended.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;
use tracing::{Span, debug, warn};

use crate::content::{Content, Failure};
use crate::observe::{Aborted, Finished, Observe};
use crate::proof;
use crate::timed::Phase;

/// The status that is reported if the client disconnects before there is a response. Source: nginx.
const CLIENT_GONE: u16 = 499;

/// Reports a request once, when it is dropped.
#[derive(Debug)]
pub(crate) struct Report {
    observe: Arc<dyn Observe>,
    /// `None` for a stream, which is one of several of its connection.
    phase: Option<Arc<Phase>>,
    span: Span,
    started: Instant,
    /// Whether the first byte was sent.
    has_begun: bool,
    pub(crate) finished: Finished,
}

impl Report {
    /// Begins a report. Until [`Self::respond`] is called, the client counts as gone.
    pub(crate) fn new(observe: Arc<dyn Observe>, phase: Option<Arc<Phase>>, span: Span, finished: Finished) -> Self {
        let finished = Finished { status: CLIENT_GONE, aborted: Some(Aborted::Client), ..finished };
        Self { observe, phase, span, started: Instant::now(), has_begun: false, finished }
    }

    fn respond(&mut self, status: u16) {
        self.finished.status = status;
        self.finished.first_byte = self.started.elapsed();
    }

    fn begin(&mut self) {
        if !std::mem::replace(&mut self.has_begun, true) {
            self.finished.first_byte = self.started.elapsed();
        }
    }

    /// Records that a response fails, and logs what an operator should look at.
    fn fail(&mut self, failure: &Failure) {
        let reason = failure.reason;
        self.finished.aborted = Some(reason);

        let store = self.finished.store.as_deref().unwrap_or_default();
        if reason == Aborted::Mismatch {
            warn!(store, error = %failure, "a response was aborted, because its bytes are wrong");
        } else {
            debug!(store, reason = reason.name(), error = %failure, "a response was aborted");
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        self.finished.duration = self.started.elapsed();
        if let Some(phase) = &self.phase {
            phase.end_request();
        }

        let finished = &self.finished;
        let outcome = finished.aborted.map_or("complete", Aborted::name);
        self.span.record("status", finished.status);
        self.span.record("bytes", finished.bytes);
        self.span.record("outcome", outcome);
        if finished.status >= 500 || matches!(finished.aborted, Some(reason) if reason != Aborted::Client) {
            self.span.record("otel.status_code", "ERROR");
        }
        self.span.in_scope(|| {
            debug!(method = finished.method, target = finished.target, status = finished.status, outcome, "answered");
        });

        self.observe.finished(finished);
    }
}

/// A response's content, with its report.
pub(crate) struct Tracked {
    content: Content,
    report: Report,
    /// Whether the length is unknown to the client and the proof follows the content.
    has_trailer: bool,
    is_ended: bool,
}

impl fmt::Debug for Tracked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracked").field("content", &self.content).finish_non_exhaustive()
    }
}

impl Tracked {
    pub(crate) fn new(content: Content, mut report: Report, status: u16, has_trailer: bool) -> Self {
        report.respond(status);
        let mut tracked = Self { content, report, has_trailer, is_ended: false };
        tracked.note_end();
        tracked
    }

    /// Records that the response is complete if nothing of the content is left.
    fn note_end(&mut self) {
        if self.content.left() == 0 {
            self.report.finished.aborted = None;
            self.report.finished.proof = self.content.proof();
        }
    }

    /// Records that bytes of a response will never be sent.
    pub(crate) fn abandon(&mut self) {
        self.report.finished.proof = None;
        self.report.finished.aborted.get_or_insert(Aborted::Client);
    }

    fn trailer(&self) -> Option<HeaderMap> {
        let proof = self.content.proof().filter(|_| self.has_trailer)?;
        let mut trailer = HeaderMap::new();
        trailer.insert(HeaderName::from_static(proof::NAME), proof::value(proof));
        Some(trailer)
    }
}

impl Body for Tracked {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        if self.is_ended {
            return Poll::Ready(None);
        }

        let span = self.report.span.clone();
        let next = ready!(span.in_scope(|| self.content.poll_next(cx)));
        match next {
            Some(Ok(bytes)) => {
                self.report.begin();
                self.report.finished.bytes += bytes.len() as u64;
                self.note_end();
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Some(Err(failure)) => {
                self.is_ended = true;
                self.report.fail(&failure);
                Poll::Ready(Some(Err(failure)))
            }
            None => {
                self.is_ended = true;
                let trailer: Option<HeaderMap<HeaderValue>> = self.trailer();
                Poll::Ready(trailer.map(|trailer| Ok(Frame::trailers(trailer))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_ended || (self.content.left() == 0 && !self.has_trailer)
    }

    fn size_hint(&self) -> SizeHint {
        if self.has_trailer { SizeHint::default() } else { SizeHint::with_exact(self.content.left()) }
    }
}
