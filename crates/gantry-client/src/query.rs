//! Requests with one answer: `stat` and `list`.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{Instrument as _, info_span};

use gantry_bus::{self as bus, Message, NO_RESPONDERS, trace};
use gantry_proto::message::{self, error_of, json};
use gantry_proto::receiver::Cause;
use gantry_proto::subject::Operation;
use gantry_proto::{Headers, Key, ListPage, ListRequest, ObjectInfo, Pin, StatRequest, StoreName, check};

use crate::connection::{Connection, denial};
use crate::error::Error;

/// The interval after which a request is repeated, in case the relay that received it hangs. The interval doubles. The
/// first answer counts, whichever request it is for.
const REPEAT_AFTER: Duration = Duration::from_secs(1);

/// The interval after which a request is repeated if nobody is subscribed.
const REPEAT_AFTER_NOBODY: Duration = Duration::from_millis(150);

impl Connection {
    pub(crate) async fn stat(&self, store: &StoreName, key: &Key, pin: &Pin) -> Result<ObjectInfo, Error> {
        let request = StatRequest { v: None, key: key.clone(), pin: pin.clone() };
        let span = info_span!("query", otel.kind = "client", operation = "stat", %store);
        let body = self.query(Operation::Stat, store, json(&request)).instrument(span).await?;
        let object: ObjectInfo = parse(&body)?;
        if object.key != *key {
            return Err(Error::Malformed("it describes another key than the requested one".to_owned()));
        }
        check::object(&object).map_err(|malformed| Error::Malformed(malformed.to_string()))?;
        Ok(object)
    }

    pub(crate) async fn list_page(&self, store: &StoreName, request: &ListRequest) -> Result<ListPage, Error> {
        let span = info_span!("query", otel.kind = "client", operation = "list", %store);
        let body = self.query(Operation::List, store, json(request)).instrument(span).await?;
        let page: ListPage = parse(&body)?;
        check::page(&page, request).map_err(|malformed| Error::Malformed(malformed.to_string()))?;
        Ok(page)
    }

    /// Sends a request, and returns the first answer.
    async fn query(&self, operation: Operation, store: &StoreName, payload: Bytes) -> Result<Bytes, Error> {
        let subject = self.options.prefix.request(operation, store);
        let mut headers = Headers::default();
        trace::inject(&mut headers);
        let request = Message { subject, headers, payload, ..Message::default() };

        let mut requests = 0;
        let answer = timeout(self.options.query_timeout, self.answer(request, &mut requests)).await;
        let answer = answer.unwrap_or(Err(Error::GaveUp { cause: Cause::Stall, requests }))?;
        if answer.status == Some(NO_RESPONDERS) {
            return Err(self.nobody(store).await);
        }

        match error_of(&answer.headers, &answer.payload) {
            Some(error) if error.retryable => Err(Error::GaveUp { cause: Cause::Refused(error), requests }),
            Some(error) => Err(Error::refused(error)),
            None => Ok(answer.payload),
        }
    }

    /// Repeats a request until there is an answer, and counts the requests. The answer is a status if nobody was
    /// subscribed for [`Options::no_relay_patience`](crate::Options::no_relay_patience).
    async fn answer(&self, request: Message, requests: &mut u64) -> Result<Message, Error> {
        let mut events = self.bus.events();
        let inbox = self.bus.new_inbox();
        let mut answers = self.bus.subscribe(&inbox, None).await?;
        let request = Message { reply: Some(inbox.clone()), ..request };

        let nobody_until = Instant::now() + self.options.no_relay_patience;
        let mut interval = REPEAT_AFTER;
        loop {
            self.bus.publish(request.clone()).await?;
            *requests += 1;

            let mut repeat_at = Instant::now() + interval;
            let mut next_interval = interval * 2;
            loop {
                tokio::select! {
                    answer = answers.next() => {
                        let answer = answer.ok_or(bus::Error::Closed)?;
                        if answer.status != Some(NO_RESPONDERS) || Instant::now() >= nobody_until {
                            return Ok(answer);
                        }
                        // A relay may be about to reconnect.
                        repeat_at = Instant::now() + REPEAT_AFTER_NOBODY;
                        next_interval = interval;
                    },
                    event = events.recv() => if let Some(error) = denial(event, &request.subject, &inbox) {
                        return Err(error);
                    },
                    () = sleep_until(repeat_at) => break,
                }
            }
            interval = next_interval;
        }
    }
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    message::from_json(body).map_err(|malformed| Error::Malformed(malformed.to_string()))
}
