//! All timers of a download, in one table.

use std::time::Duration;

use super::failure::Cause;
use super::transfer::Transfer;
use super::{Receiver, State};

/// The shortest stall timeout for a relay with slow beats, even if the patience is short.
const BEATS_TIMEOUT_MIN: Duration = Duration::from_secs(3);

/// The longest silence of a live relay, as long as it has not stated its own.
const BEAT_DEFAULT: Duration = Duration::from_secs(1);

/// The timers of a download. If several have expired, the first in this order counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// No bytes have arrived for the maximum time of the download.
    Patience,
    /// The pause before a request is over.
    Request,
    /// A request, or the relay that has answered it with beats, met silence.
    Answer,
    /// The sending relay has been silent.
    Stall,
    /// A control message to the relay is due.
    Control,
}

impl Receiver {
    /// Returns when each timer expires; `None` if it is not running.
    pub(super) fn timers(&self) -> [(Timer, Option<Duration>); 5] {
        let mut request = None;
        let mut answer = None;
        let mut stall = None;
        let mut control = None;

        match &self.state {
            State::Waiting { until } => request = Some(*until),
            State::Requested { heard, heard_at, .. } => {
                answer = Some(heard_at.saturating_add(self.answer_timeout(*heard)));
            }
            State::Streaming(transfer) => {
                stall = Some(transfer.heard_at.saturating_add(self.stall_timeout(transfer)));
                control = Some(transfer.control_at());
            }
            State::Offline | State::Ended | State::Failed(_) => {}
        }

        let patience = self.is_open().then(|| self.recovery.patience_ends(&self.settings));
        [
            (Timer::Patience, patience),
            (Timer::Request, request),
            (Timer::Answer, answer),
            (Timer::Stall, stall),
            (Timer::Control, control),
        ]
    }

    /// Returns when [`Self::handle_timeout`] is due; `None` if no timer is running.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.timers().into_iter().filter_map(|(_, at)| at).min()
    }

    /// Handles the first timer that has expired. Call it at the time that [`Self::poll_timeout`] returns.
    pub fn handle_timeout(&mut self, now: Duration) {
        let expired = self.timers().into_iter().find(|(_, at)| at.is_some_and(|at| now >= at));
        match expired {
            Some((Timer::Patience, _)) => {
                let is_offline = matches!(self.state, State::Offline);
                self.give_up(if is_offline { Cause::Disconnected } else { Cause::Stall });
            }
            Some((Timer::Request, _)) => self.request(now),
            Some((Timer::Answer | Timer::Stall, _)) => self.recover(Cause::Stall, None, now),
            Some((Timer::Control, _)) => self.send_control(now),
            None => {}
        }
    }

    /// Returns the silence after which a request is sent again. `heard` means that a relay has sent beats.
    fn answer_timeout(&self, heard: bool) -> Duration {
        let window = self.credit.window();
        let longest = window.silence_timeout(self.settings.stall_timeout, BEAT_DEFAULT);
        if heard { longest } else { self.recovery.answer_timeout(window.delay(), longest) }
    }

    /// Returns the silence after which a sending relay is lost.
    fn stall_timeout(&self, transfer: &Transfer) -> Duration {
        // However slow the beats, some patience must remain for another relay.
        let beats_max = (self.settings.patience / 2).max(BEATS_TIMEOUT_MIN);
        let beats = transfer.beat.saturating_mul(3).min(beats_max);
        self.credit.window().silence_timeout(self.settings.stall_timeout.max(beats), transfer.beat)
    }
}
