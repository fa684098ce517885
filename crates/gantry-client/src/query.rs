//! Requests with one answer: `stat` and `list`.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{Instrument as _, info_span};

use super::Error;
use super::connection::{Connection, denial};
use gantry_bus::{Message, NO_RESPONDERS, trace};
use gantry_proto::message::{self, error_of, json};
use gantry_proto::receiver::Cause;
use gantry_proto::subject::Operation;
use gantry_proto::{Headers, Key, ListPage, ListRequest, ObjectInfo, Pin, StatRequest, StoreName, check};

/// After how long a `stat` or `list` is asked again, in case a relay that hangs got it; the time doubles. The first answer
/// counts, whichever request it is to.
const QUERY_AGAIN: Duration = Duration::from_secs(1);

/// How soon a `stat` or `list` that met nobody is asked again.
const NOBODY_AGAIN: Duration = Duration::from_millis(150);

impl Connection {
    pub(super) async fn stat(&self, store: &StoreName, key: &Key, pin: &Pin) -> Result<ObjectInfo, Error> {
        let request = StatRequest { v: None, key: key.clone(), pin: pin.clone() };
        let span = info_span!("query", otel.kind = "client", operation = "stat", %store);
        let body = self.query(Operation::Stat, store, json(&request)).instrument(span).await?;
        let object: ObjectInfo = parse(&body)?;
        if object.key != *key {
            return Err(Error::Malformed("it describes another key than was asked for".to_owned()));
        }
        check::object(&object).map_err(|malformed| Error::Malformed(malformed.to_string()))?;
        Ok(object)
    }

    pub(super) async fn list_page(&self, store: &StoreName, request: &ListRequest) -> Result<ListPage, Error> {
        let span = info_span!("query", otel.kind = "client", operation = "list", %store);
        let body = self.query(Operation::List, store, json(request)).instrument(span).await?;
        let page: ListPage = parse(&body)?;
        check::page(&page, request).map_err(|malformed| Error::Malformed(malformed.to_string()))?;
        Ok(page)
    }

    /// Asks, and takes the first answer.
    async fn query(
        &self,
        operation: Operation,
        store: &StoreName,
        payload: bytes::Bytes,
    ) -> Result<bytes::Bytes, Error> {
        let bus = &*self.bus;
        let subject = self.options.prefix.request(operation, store);
        let mut headers = Headers::default();
        trace::inject(&mut headers);
        let request = Message { subject: subject.clone(), headers, payload, ..Message::default() };
        let mut requests = 0;
        let answer = async {
            let mut events = bus.events();
            let inbox = bus.new_inbox();
            let mut answers = bus.subscribe(&inbox, None).await?;
            let request = Message { reply: Some(inbox.clone()), ..request };
            let mut pause = QUERY_AGAIN;
            let nobody_until = Instant::now() + self.options.no_relay_patience;
            loop {
                bus.publish(request.clone()).await?;
                requests += 1;
                let mut again = Instant::now() + pause;
                let mut pause_after = pause * 2;
                loop {
                    tokio::select! {
                        answer = answers.next() => {
                            let answer = answer.ok_or(Error::Bus(gantry_bus::Error::Closed))?;
                            if answer.status != Some(NO_RESPONDERS) || Instant::now() >= nobody_until {
                                return Ok(answer);
                            }
                            // A relay may be making its connection anew.
                            (again, pause_after) = (Instant::now() + NOBODY_AGAIN, pause);
                        },
                        event = events.recv() => if let Some(error) = denial(event, &subject, &inbox) {
                            return Err(error);
                        },
                        () = sleep_until(again) => break,
                    }
                }
                pause = pause_after;
            }
        };
        let answer = timeout(self.options.query_timeout, answer).await;
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
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    message::from_json(body).map_err(|malformed| Error::Malformed(malformed.to_string()))
}
