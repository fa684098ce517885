//! From the request to the acceptance.

use std::mem;
use std::ops::Range;
use std::time::Duration;

use super::super::answer::Accepted;
use super::super::check;
use super::super::error::{Code, WireError};
use super::super::names::TransferId;
use super::super::object::{ObjectInfo, Span};
use super::Settings;

/// The names of a transfer that a consumer needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The transfer.
    pub transfer: TransferId,
    /// The relay's service id.
    pub instance: String,
    /// The subject for credit and cancel.
    pub control: String,
    /// The name of the relay's host.
    pub host: Option<String>,
}

/// A transfer whose object is being opened.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) identity: Identity,
    pub(super) span: Span,
    /// The credit of the request, an absolute offset.
    pub(super) requested_credit: u64,
    /// The highest credit of early control messages, an absolute offset.
    pub(super) early_credit: u64,
}

impl Opening {
    /// Returns the range of an object to send. Removes invalid optional members from its description.
    ///
    /// # Errors
    /// - `store_unavailable`, final, if the description is invalid.
    /// - `range` if the request starts past the object's end.
    pub(super) fn resolve(&self, object: &mut ObjectInfo) -> Result<Range<u64>, WireError> {
        check::make_sendable(object)?;

        self.span.resolve(object.size).ok_or_else(|| {
            let message = format!("`start` {} is past the end of the object, {}", self.span.start, object.size);
            WireError::new(Code::Range, message)
        })
    }

    /// Returns the acceptance, which takes over the identity. `credit` is clamped to the relay's limits.
    pub(super) fn accept(
        &mut self,
        object: ObjectInfo,
        range: &Range<u64>,
        credit: u64,
        settings: &Settings,
    ) -> Accepted {
        Accepted {
            transfer: self.identity.transfer,
            instance: mem::take(&mut self.identity.instance),
            control: mem::take(&mut self.identity.control),
            host: self.identity.host.take(),
            object,
            start: range.start,
            end: range.end,
            credit,
            window_max: settings.window_max,
            chunk_max: super::to_u64(settings.chunk_max),
            beat_ms: as_millis(settings.beat_interval),
            idle_ms: as_millis(settings.idle_timeout),
        }
    }
}

fn as_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
