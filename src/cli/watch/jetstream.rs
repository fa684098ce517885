//! Events in a `JetStream` stream, read by a durable pull consumer.
//!
//! The consumer remembers at the server which messages were acknowledged. The requests are those of the `JetStream` API:
//! <https://docs.nats.io/reference/reference-protocols/nats_api_reference>.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use gantry_bus::{Bus, Event, Message, NO_RESPONDERS, Status, Subscription};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc::Sender;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::super::exit::{Exit, Failure};
use super::delivery::{Ack, Delivery, Reader};
use super::work::Held;

/// How long a message may stay unacknowledged before the server delivers it again: the time after which another run
/// continues the work of a killed one.
const ACK_WAIT: Duration = Duration::from_secs(12);

/// How often the server is informed that a message is still being worked on.
pub(super) const WORKING_INTERVAL: Duration = Duration::from_secs(4);

/// How many messages may be unacknowledged.
const PENDING_MAX: usize = 1000;

/// How many events may wait here, and are requested at once. More wait at the server.
pub(super) const WAITING_MAX: usize = 256;

/// How long one request for messages is valid, how often the server shows that it is, and the silence after which it is
/// taken to be lost.
const REQUEST_EXPIRES: Duration = Duration::from_secs(30);
const HEARTBEAT: Duration = Duration::from_secs(5);
const SILENCE_MAX: Duration = Duration::from_secs(12);

const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_secs(1);

/// The status of a heartbeat, and of a conflict such as a deleted consumer.
const IDLE: u16 = 100;
const CONFLICT: u16 = 409;

/// The API's codes for a stream and for a consumer that do not exist.
const NO_STREAM: u64 = 10_059;
const NO_CONSUMER: u64 = 10_014;

/// A durable consumer.
#[derive(Clone, Debug)]
pub(super) struct Consumer {
    bus: Arc<dyn Bus>,
    stream: String,
    name: String,
    held: Arc<Held>,
}

#[derive(Deserialize)]
struct Answer {
    error: Option<ApiError>,
    #[serde(default)]
    streams: Option<Vec<String>>,
    #[serde(default)]
    config: Value,
}

#[derive(Deserialize)]
struct ApiError {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

impl Consumer {
    /// Finds the consumer, or creates it. Without `stream`, the stream is the one that stores the subject.
    pub(super) async fn open(
        bus: &Arc<dyn Bus>,
        subject: &str,
        stream: Option<String>,
        name: String,
        is_new_only: bool,
        held: Arc<Held>,
    ) -> Result<Self, Failure> {
        let stream = match stream {
            Some(stream) => stream,
            None => stream_of(&**bus, subject).await?,
        };
        let consumer = Self { bus: Arc::clone(bus), stream, name, held };

        let found = consumer.request("CONSUMER.INFO", &Value::Null).await?;
        match found.error {
            None => consumer.check(&found.config, subject)?,
            Some(ApiError { err_code: NO_CONSUMER, .. }) => consumer.create(subject, is_new_only).await?,
            Some(error) => return Err(consumer.failed(&error)),
        }
        Ok(consumer)
    }

    async fn create(&self, subject: &str, is_new_only: bool) -> Result<(), Failure> {
        let config = json!({"stream_name": self.stream, "config": {
            "durable_name": self.name,
            "deliver_policy": if is_new_only { "new" } else { "all" },
            "ack_policy": "explicit",
            "ack_wait": nanos(ACK_WAIT),
            "max_ack_pending": PENDING_MAX,
            "filter_subject": subject,
        }});
        match self.request("CONSUMER.DURABLE.CREATE", &config).await?.error {
            None => Ok(()),
            Some(error) => Err(self.failed(&error)),
        }
    }

    /// Checks that a consumer that exists is usable for the subject.
    fn check(&self, config: &Value, subject: &str) -> Result<(), Failure> {
        let member = |name: &str| config.get(name).and_then(Value::as_str).unwrap_or_default();
        let why = if member("filter_subject") != subject {
            format!("has the subject {:?}, not {subject:?}", member("filter_subject"))
        } else if member("ack_policy") != "explicit" {
            format!("has the acknowledgement policy {:?}, not \"explicit\"", member("ack_policy"))
        } else if !member("deliver_subject").is_empty() {
            "pushes messages instead of waiting for requests".to_owned()
        } else {
            return Ok(());
        };
        Err(Failure::usage(format!("{self} {why}: choose another name for --durable")))
    }

    async fn request(&self, operation: &str, body: &Value) -> Result<Answer, Failure> {
        request(&*self.bus, &format!("$JS.API.{operation}.{}.{}", self.stream, self.name), body).await
    }

    fn failed(&self, error: &ApiError) -> Failure {
        if error.err_code == NO_STREAM {
            return Failure::new(Exit::NotFound, format!("there is no stream {}: correct --stream", self.stream));
        }
        Failure::new(Exit::Failed, format!("JetStream refuses {self}: {}", error.description)).on_one_line()
    }

    /// Passes messages on until `cancel`. Messages that were not passed on are returned to the server.
    pub(super) async fn pull(
        self,
        reader: Reader,
        events: Sender<Delivery>,
        cancel: CancellationToken,
    ) -> Result<(), Failure> {
        let inbox = self.bus.new_inbox();
        let mut messages = self.bus.subscribe(&inbox, None).await?;
        let ended = tokio::select! {
            ended = self.keep_pulling(&inbox, &mut messages, &reader, &events) => ended,
            () = cancel.cancelled() => Ok(()),
        };

        messages.close();
        while let Some(Some(message)) = messages.next().now_or_never() {
            if let Some(receipt) = receipt(&message) {
                Ack::Again(Duration::ZERO).send(&*self.bus, &receipt).await;
            }
        }
        ended
    }

    async fn keep_pulling(
        &self,
        inbox: &str,
        messages: &mut Subscription,
        reader: &Reader,
        events: &Sender<Delivery>,
    ) -> Result<(), Failure> {
        let mut connection = self.bus.status();
        loop {
            // Nobody else fills the channel, so that the room can only grow until the messages arrive.
            if events.reserve().await.is_err() {
                return Ok(());
            }
            let mut missing = events.capacity().max(1);
            self.ask(inbox, missing).await?;

            let epoch = connection.borrow_and_update().epoch;
            while missing > 0 {
                let message = tokio::select! {
                    message = timeout(SILENCE_MAX, messages.next()) => message,
                    // The server has forgotten the request.
                    () = renewed(&mut connection, epoch) => break,
                };
                let Ok(message) = message else { break };
                let message = message.ok_or(gantry_bus::Error::Closed)?;
                match message.status {
                    Some(IDLE) => {}
                    Some(status) => {
                        self.after(status).await?;
                        break;
                    }
                    None => {
                        missing -= 1;
                        if !self.deliver(message, reader, events).await {
                            return Ok(());
                        }
                    }
                }
            }
        }
    }

    /// Requests messages.
    async fn ask(&self, inbox: &str, count: usize) -> Result<(), Failure> {
        let body = json!({"batch": count, "expires": nanos(REQUEST_EXPIRES), "idle_heartbeat": nanos(HEARTBEAT)});
        let request = Message {
            subject: format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", self.stream, self.name),
            reply: Some(inbox.to_owned()),
            payload: body.to_string().into(),
            ..Message::default()
        };
        Ok(self.bus.publish(request).await?)
    }

    /// Handles the end of a request. An expired one is simply repeated.
    async fn after(&self, status: u16) -> Result<(), Failure> {
        match status {
            CONFLICT => {
                sleep(PAUSE).await;
                match self.request("CONSUMER.INFO", &Value::Null).await {
                    Ok(Answer { error: Some(error), .. }) => Err(self.failed(&error)),
                    // A server that does not answer now may do so later.
                    Ok(_) | Err(_) => Ok(()),
                }
            }
            NO_RESPONDERS => {
                sleep(PAUSE).await;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Passes a message on, or acknowledges it at once if it announces nothing. Returns whether to continue.
    async fn deliver(&self, message: Message, reader: &Reader, events: &Sender<Delivery>) -> bool {
        let Some(receipt) = receipt(&message) else { return true };
        match reader.objects(&message) {
            None => Ack::Never.send(&*self.bus, &receipt).await,
            Some(objects) if objects.is_empty() => Ack::Done.send(&*self.bus, &receipt).await,
            Some(objects) => {
                let attempt = attempt(&receipt);
                self.held.add(&receipt);
                return events.send(Delivery { objects, attempt, receipt: Some(receipt) }).await.is_ok();
            }
        }
        true
    }
}

impl std::fmt::Display for Consumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the consumer {} of the stream {}", self.name, self.stream)
    }
}

/// Returns once the connection is another one.
async fn renewed(connection: &mut tokio::sync::watch::Receiver<Status>, epoch: u64) {
    if connection.wait_for(|status| status.connected && status.epoch != epoch).await.is_err() {
        std::future::pending().await
    }
}

/// Returns the stream that stores a subject.
async fn stream_of(bus: &dyn Bus, subject: &str) -> Result<String, Failure> {
    let answer = request(bus, "$JS.API.STREAM.NAMES", &json!({ "subject": subject })).await?;
    if let Some(error) = answer.error {
        return Err(
            Failure::new(Exit::Failed, format!("JetStream refuses the request: {}", error.description)).on_one_line()
        );
    }
    let mut streams = answer.streams.unwrap_or_default();
    match (streams.pop(), streams.is_empty()) {
        (Some(stream), true) => Ok(stream),
        (Some(_), false) => Err(Failure::usage(format!("several streams store {subject}: choose one with --stream"))),
        (None, _) => {
            let message = format!("no stream stores {subject}: create one, or leave out --durable");
            Err(Failure::new(Exit::NotFound, message))
        }
    }
}

/// Sends a request to the API, and returns its answer.
async fn request(bus: &dyn Bus, subject: &str, body: &Value) -> Result<Answer, Failure> {
    let inbox = bus.new_inbox();
    let mut reports = bus.events();
    let mut answers = bus.subscribe(&inbox, None).await?;
    let payload = if body.is_null() { String::new() } else { body.to_string() };
    let message =
        Message { subject: subject.to_owned(), reply: Some(inbox), payload: payload.into(), ..Message::default() };
    bus.publish(message).await?;

    let denied = async {
        loop {
            match reports.recv().await {
                Ok(Event::PublishDenied(denied)) if denied == subject => return,
                Err(tokio::sync::broadcast::error::RecvError::Closed) => std::future::pending().await,
                Ok(_) | Err(_) => {}
            }
        }
    };
    let answer = tokio::select! {
        answer = timeout(ANSWER_WITHIN, answers.next()) => answer,
        () = denied => {
            let message = format!("nats-server denies publishing to {subject:?}: grant that permission to the user");
            return Err(Failure::new(Exit::Denied, message));
        }
    };
    match answer {
        Ok(Some(answer)) if answer.status == Some(NO_RESPONDERS) => Err(Failure::new(
            Exit::Failed,
            "JetStream is not enabled for this account: enable it, or leave out --durable",
        )),
        Ok(Some(answer)) => serde_json::from_slice(&answer.payload)
            .map_err(|error| Failure::new(Exit::Failed, format!("JetStream's answer is invalid: {error}"))),
        Ok(None) => Err(gantry_bus::Error::Closed.into()),
        Err(_) => {
            let message = format!("JetStream did not answer to {subject} within {} s", ANSWER_WITHIN.as_secs());
            Err(Failure::new(Exit::GaveUp, message))
        }
    }
}

/// Returns the subject to acknowledge a message on. Anyone may publish to an inbox.
fn receipt(message: &Message) -> Option<String> {
    message.reply.clone().filter(|reply| reply.starts_with("$JS.ACK."))
}

/// Returns how many times a message has been delivered, by the subject to acknowledge it on: `$JS.ACK.STREAM.CONSUMER.N.…`,
/// or `$JS.ACK.DOMAIN.ACCOUNT.STREAM.CONSUMER.N.…` with at least eleven tokens. Source: NATS ADR-15.
fn attempt(receipt: &str) -> u64 {
    let tokens: Vec<_> = receipt.split('.').collect();
    let index = if tokens.len() >= 11 { 6 } else { 4 };
    tokens.get(index).and_then(|number| number.parse().ok()).unwrap_or(1)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_receipt_counts_the_deliveries() {
        assert_eq!(attempt("$JS.ACK.EVENTS.edge.3.17.5.1700000000000000000.0"), 3);
        assert_eq!(attempt("$JS.ACK.hub.ACCHASH.EVENTS.edge.4.17.5.1700000000000000000.0"), 4);
        assert_eq!(attempt("$JS.ACK.hub.ACCHASH.EVENTS.edge.5.17.5.1700000000000000000.0.token"), 5);
        assert_eq!(attempt("$JS.ACK."), 1);
    }

    #[test]
    fn only_jetstream_gets_receipts() {
        let message = |reply: &str| Message { reply: Some(reply.to_owned()), ..Message::default() };
        assert_eq!(receipt(&message("gantry.v1.get.files")), None);
        assert!(receipt(&message("$JS.ACK.EVENTS.edge.1.1.1.1.0")).is_some());
    }
}
