//! Repeats a request within a budget of time and attempts.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::{Instant, sleep, timeout};

use super::failure::{About, Failure, Retry};
use super::limits::Limits;
use super::source::Ranged;
use crate::Error;

/// Repeats `request` while another attempt makes sense and the retry budget lasts.
///
/// # Errors
/// The last failure.
pub(crate) async fn retry<R, T, F>(
    source: &R,
    about: &About,
    request: impl Fn(R::Client) -> F,
) -> Result<T, Failure<R::Cure>>
where
    R: Ranged,
    F: Future<Output = Result<T, Failure<R::Cure>>>,
{
    retry_within(source, about, source.limits().retry_budget, request).await
}

/// Repeats `request` like [`retry`], but for at most `budget`.
///
/// # Errors
/// The last failure.
pub(crate) async fn retry_within<R, T, F>(
    source: &R,
    about: &About,
    budget: Duration,
    request: impl Fn(R::Client) -> F,
) -> Result<T, Failure<R::Cure>>
where
    R: Ranged,
    F: Future<Output = Result<T, Failure<R::Cure>>>,
{
    let limits = source.limits();
    let mut attempts = Attempts::<R>::within(limits, budget.min(limits.retry_budget));

    loop {
        let client = source.client();
        let failure = match timeout(attempts.time_left().min(limits.answer_timeout), request(client.clone())).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(failure)) => failure,
            Err(_) => Failure::passing(format!("{about}: {} did not answer in time", R::NAME)),
        };

        attempts.recover(source, &client, failure, about).await?;
    }
}

/// The attempts that are left for one request, or since the last byte of a body.
pub(super) struct Attempts<R: Ranged> {
    deadline: Instant,
    pauses: ExponentialBackoff,
    cures: R::Cures,
}

impl<R: Ranged> Attempts<R> {
    pub(super) fn new(limits: &Limits) -> Self {
        Self::within(limits, limits.retry_budget)
    }

    fn within(limits: &Limits, budget: Duration) -> Self {
        let pauses = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(Duration::from_secs(2))
            .with_max_times(limits.attempts_max.saturating_sub(1) as usize)
            .with_jitter()
            .build();
        Self { deadline: Instant::now() + budget, pauses, cures: R::Cures::default() }
    }

    /// Prepares another attempt: applies the cure, or waits.
    ///
    /// # Errors
    /// The failure to report if there is no other attempt.
    pub(super) async fn recover(
        &mut self,
        source: &R,
        used: &R::Client,
        failure: Failure<R::Cure>,
        about: &About,
    ) -> Result<(), Failure<R::Cure>> {
        let failure = match &failure.retry {
            Retry::Never => return Err(failure),
            Retry::Later => failure,
            Retry::AfterCure(_) => source.cure(used, &mut self.cures, failure, about).await?,
        };

        let Some(pause) = self.pause(&failure) else { return Err(failure) };
        if Instant::now() + pause >= self.deadline {
            return Err(failure);
        }

        tracing::debug!(error = %failure.error, ?pause, "trying again");
        sleep(pause).await;
        Ok(())
    }

    fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Returns how long to wait before the next attempt; `None` if none is left.
    fn pause(&mut self, failure: &Failure<R::Cure>) -> Option<Duration> {
        let pause = self.pauses.next()?;
        match (&failure.retry, &failure.error) {
            (Retry::AfterCure(_), _) => Some(Duration::ZERO),
            (_, Error::Unavailable { retry_after: Some(after), .. }) => Some(pause.max(*after)),
            _ => Some(pause),
        }
    }
}
