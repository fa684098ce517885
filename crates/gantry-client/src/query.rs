//! Requests with one answer: `stat` and `list`.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use tracing::{Instrument as _, info_span};

use gantry_bus::{Message, NO_RESPONDERS, trace};
use gantry_proto::message::{self, error_of, json};
use gantry_proto::receiver::Cause;
use gantry_proto::subject::Operation;
use gantry_proto::{
    Code, Headers, Key, ListPage, ListRequest, ObjectInfo, Pin, StatRequest, StoreName, Via, WireError, check,
};

use crate::connection::{Connection, denial};
use crate::error::Error;

/// The interval after which a request is repeated, in case the relay that received it hangs. The interval doubles. The
/// first final answer counts, whichever request it is for.
const REPEAT_AFTER: Duration = Duration::from_secs(1);

/// The interval after which a request is repeated if nobody is subscribed.
const REPEAT_AFTER_NOBODY: Duration = Duration::from_millis(150);

/// The pause after a first refusal that may pass, such as `busy`. It doubles.
const REFUSED_PAUSE_MIN: Duration = Duration::from_millis(100);

/// The longest pause after a refusal, also if the relay asks for a longer one.
const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(2);

/// How long to wait for another relay if the first one can't reach the store, as for a download.
const SECOND_OPINION: Duration = Duration::from_secs(1);

impl Connection {
    pub(crate) async fn stat(&self, store: &StoreName, key: &Key, pin: &Pin, via: &Via) -> Result<ObjectInfo, Error> {
        let request = StatRequest { v: None, key: key.clone(), pin: pin.clone() };
        let span = info_span!("query", otel.kind = "client", operation = "stat", %store);
        let body = self.query(Operation::Stat, store, json(&request), via).instrument(span).await?;
        let object: ObjectInfo = parse(&body)?;
        if object.key != *key {
            return Err(Error::Malformed("it describes another key than the requested one".to_owned()));
        }
        check::object(&object).map_err(|malformed| Error::Malformed(malformed.to_string()))?;
        Ok(object)
    }

    pub(crate) async fn list_page(
        &self,
        store: &StoreName,
        request: &ListRequest,
        via: &Via,
    ) -> Result<ListPage, Error> {
        let span = info_span!("query", otel.kind = "client", operation = "list", %store);
        let body = self.query(Operation::List, store, json(request), via).instrument(span).await?;
        let page: ListPage = parse(&body)?;
        check::page(&page, request).map_err(|malformed| Error::Malformed(malformed.to_string()))?;
        Ok(page)
    }

    /// Sends a request, and returns the first answer that is final.
    async fn query(&self, operation: Operation, store: &StoreName, payload: Bytes, via: &Via) -> Result<Bytes, Error> {
        let subject = self.options.prefix.request(operation, store);
        let headers = headers(via);
        let request = Message { subject, headers, payload, ..Message::default() };

        let mut tries = Tries::default();
        let answer = self.clock.timeout(self.options.query_timeout, self.answer(request, &mut tries)).await;
        let Some(answer) = answer.transpose()?.flatten() else { return Err(tries.gave_up()) };
        if answer.status == Some(NO_RESPONDERS) {
            return Err(self.nobody(store).await);
        }

        match error_of(&answer.headers, &answer.payload) {
            Some(error) => Err(Error::refused(error)),
            None => Ok(answer.payload),
        }
    }

    /// Repeats a request until there is a final answer. The answer is a status if nobody was subscribed for
    /// [`Options::no_relay_patience`](crate::Options::no_relay_patience), and `None` if no further request can help.
    async fn answer(&self, request: Message, tries: &mut Tries) -> Result<Option<Message>, Error> {
        let mut events = self.bus.events();
        let inbox = self.bus.new_inbox();
        let mut answers = self.bus.subscribe(&inbox, None).await?;
        let request = Message { reply: Some(inbox.clone()), ..request };

        let nobody_until = self.clock.now() + self.options.no_relay_patience;
        let mut interval = REPEAT_AFTER;
        loop {
            self.bus.publish(request.clone()).await?;
            tries.requests += 1;

            let mut repeat_at = self.clock.now() + interval;
            let mut next_interval = interval * 2;
            loop {
                tokio::select! {
                    answer = answers.next() => {
                        let Some(answer) = answer else { return Err(self.closed().await) };
                        let now = self.clock.now();
                        match tries.judge(&answer, now, nobody_until) {
                            Next::Final => return Ok(Some(answer)),
                            Next::GiveUp => return Ok(None),
                            Next::Repeat(pause) => repeat_at = now + pause,
                        }
                        next_interval = interval;
                    },
                    event = events.recv() => if let Some(error) = denial(event, &request.subject, &inbox) {
                        return Err(error);
                    },
                    () = self.clock.sleep_until(tries.wakes_at(repeat_at)) => break,
                }
            }

            if tries.has_waited_enough(self.clock.now()) {
                return Ok(None);
            }
            interval = next_interval;
        }
    }
}

/// Returns the headers of a request.
pub(crate) fn headers(via: &Via) -> Headers {
    let mut headers = Headers::default();
    trace::inject(&mut headers);
    if !via.is_empty() {
        headers.push(message::VIA, via.to_string());
    }
    headers
}

/// What to do after an answer.
enum Next {
    /// It is final.
    Final,
    /// No further request can help.
    GiveUp,
    /// The request is repeated after a pause.
    Repeat(Duration),
}

/// The history of one request.
#[derive(Debug, Default)]
struct Tries {
    /// The number of requests sent.
    requests: u64,
    /// The last refusal that may pass.
    refusal: Option<WireError>,
    /// The number of refusals that asked for a pause.
    pauses: u32,
    /// Until when another relay may answer, after one could not reach the store.
    second_opinion_until: Option<Duration>,
}

impl Tries {
    /// Decides what follows an answer. A request that reaches nobody is repeated until `nobody_until`.
    fn judge(&mut self, answer: &Message, now: Duration, nobody_until: Duration) -> Next {
        if answer.status == Some(NO_RESPONDERS) {
            // A relay may be about to reconnect.
            return if now >= nobody_until { Next::Final } else { Next::Repeat(REPEAT_AFTER_NOBODY) };
        }

        let refusal = error_of(&answer.headers, &answer.payload);
        let Some(error) = refusal.filter(|error| error.retryable && error.code.is_retryable()) else {
            return Next::Final;
        };
        let may_be_its_own = matches!(error.code, Code::StoreUnavailable | Code::Internal);
        let asked_pause = error.retry_after().unwrap_or_default();
        self.refusal = Some(error);
        if !may_be_its_own {
            return Next::Repeat(self.pause(asked_pause));
        }

        // The relay has used up its own retries. Another relay is asked at once, and only once.
        if self.second_opinion_until.is_some() {
            return Next::GiveUp;
        }
        self.second_opinion_until = Some(now.saturating_add(SECOND_OPINION));
        Next::Repeat(Duration::ZERO)
    }

    fn pause(&mut self, asked: Duration) -> Duration {
        let own = REFUSED_PAUSE_MIN.saturating_mul(1 << self.pauses.min(8));
        self.pauses = self.pauses.saturating_add(1);
        own.max(asked).min(REFUSED_PAUSE_MAX).mul_f64(0.75 + jitter() / 4.0)
    }

    fn wakes_at(&self, repeat_at: Duration) -> Duration {
        self.second_opinion_until.map_or(repeat_at, |until| until.min(repeat_at))
    }

    fn has_waited_enough(&self, now: Duration) -> bool {
        self.second_opinion_until.is_some_and(|until| now >= until)
    }

    /// Returns why there is no result.
    fn gave_up(self) -> Error {
        Error::GaveUp { cause: self.refusal.map_or(Cause::Stall, Cause::Refused), requests: self.requests }
    }
}

/// Returns a random number from 0 to 1.
fn jitter() -> f64 {
    f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 255.0
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    message::from_json(body).map_err(|malformed| Error::Malformed(malformed.to_string()))
}
