//! Repeats a request within a budget of time and attempts.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures_util::future::select_all;
use tokio::time::{Instant, sleep, timeout_at};

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
        let failure = match answer(source, attempts.time_left(), about, || request(client.clone())).await {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };

        attempts.recover(source, &client, failure, about).await?;
    }
}

/// Sends a request, and waits for its answer until `limit`. Sends the request again meanwhile, in case it was lost.
/// Earlier requests stay in flight, because a slow store could otherwise never answer. The first answer counts.
///
/// # Errors
/// The failure of the last request in flight, or a timeout if none was answered.
pub(super) async fn answer<R, T, F>(
    source: &R,
    limit: Duration,
    about: &About,
    request: impl Fn() -> F,
) -> Result<T, Failure<R::Cure>>
where
    R: Ranged,
    F: Future<Output = Result<T, Failure<R::Cure>>>,
{
    let limits = source.limits();
    let until = Instant::now() + limit;
    let mut in_flight = Vec::new();
    let mut failure = None;

    for number in 0..limits.attempts_max.max(1) {
        // Requests to S3 are large futures. In a box, they are not moved again.
        in_flight.push(Box::pin(request()));
        let is_last = number + 1 >= limits.attempts_max;
        let wait = limits.answer_timeout.saturating_mul(2_u32.saturating_pow(number)).min(limit);
        let wait_until = if is_last { until } else { until.min(Instant::now() + wait) };

        while let Ok((answer, index, _)) = timeout_at(wait_until, select_all(in_flight.iter_mut())).await {
            drop(in_flight.swap_remove(index));
            match answer {
                // A later request may have reached another server, or hit a limit because of the first one.
                Err(failed) if matches!(failed.retry, Retry::Later) && !in_flight.is_empty() => failure = Some(failed),
                answer => return answer,
            }
        }
        if wait_until == until {
            break;
        }
    }

    Err(failure.unwrap_or_else(|| source.silence(about)))
}

/// The remaining attempts for one request, or since the last byte of a body.
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

    pub(super) fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Returns how long to wait before the next attempt; `None` if no attempt is left.
    fn pause(&mut self, failure: &Failure<R::Cure>) -> Option<Duration> {
        let pause = self.pauses.next()?;
        match (&failure.retry, &failure.error) {
            (Retry::AfterCure(_), _) => Some(Duration::ZERO),
            (_, Error::Unavailable { retry_after: Some(after), .. }) => Some(pause.max(*after)),
            _ => Some(pause),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::error::Error as StdError;
    use std::ops::Range;

    use bytes::Bytes;

    use super::super::failure::about_key;
    use super::*;
    use gantry_proto::ObjectInfo;

    const SECOND: Duration = Duration::from_secs(1);

    /// A store that is never read.
    #[derive(Debug)]
    struct Unread(Limits);

    impl Ranged for Unread {
        const NAME: &'static str = "the store";

        type Client = ();
        type Body = ();
        type Cure = ();
        type Cures = ();

        fn limits(&self) -> &Limits {
            &self.0
        }

        fn client(&self) {}

        fn takes_ranges(&self) -> bool {
            true
        }

        async fn get(&self, (): &(), _: &ObjectInfo, _: Range<u64>) -> Result<(), Failure<()>> {
            Ok(())
        }

        async fn next((): &mut ()) -> Option<Result<Bytes, Box<dyn StdError + Send + Sync>>> {
            None
        }

        async fn cure(
            &self,
            (): &(),
            (): &mut (),
            failure: Failure<()>,
            _: &About,
        ) -> Result<Failure<()>, Failure<()>> {
            Err(failure)
        }
    }

    /// Answers requests after these times, and returns the number of requests, the answer, and the time until it.
    async fn asked(answers_after: &[Duration]) -> (usize, Result<usize, Failure<()>>, Duration) {
        let (store, about) = (Unread(Limits::default()), about_key(&"key".parse().unwrap()));
        let (requests, began) = (Cell::new(0), Instant::now());

        let answer = retry(&store, &about, |()| {
            let number = requests.replace(requests.get() + 1);
            async move {
                sleep(answers_after.get(number).copied().unwrap_or(Duration::MAX / 4)).await;
                Ok(number)
            }
        });
        let answer = answer.await;
        (requests.get(), answer, began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_first_answer_arrives_although_the_request_was_sent_again() {
        let (requests, answer, took) = asked(&[11 * SECOND, 60 * SECOND]).await;

        assert_eq!((requests, answer.unwrap(), took), (2, 0, 11 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_request_is_sent_again() {
        let (requests, answer, took) = asked(&[60 * SECOND, SECOND]).await;

        assert_eq!((requests, answer.unwrap(), took), (2, 1, 7 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_store_is_reported_within_the_retry_budget() {
        let (requests, answer, took) = asked(&[]).await;

        assert!(matches!(answer.unwrap_err().error, Error::Unavailable { .. }));
        assert_eq!((requests, took), (2, Limits::default().retry_budget));
    }
}
