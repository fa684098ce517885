//! The state of a case: its subjects, its object, and everything that the relay has received from the consumer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::StreamExt as _;
use gantry_bus::{self as bus, Bus, Message, NO_RESPONDERS, Subscription};
use gantry_proto::subject::{Operation, Prefix, is_literal};
use gantry_proto::{Control, GetRequest, Headers, StoreName, TransferId, chunk};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::case::{Case, Stored};

/// The relay's longest silence.
pub(super) const BEAT: Duration = Duration::from_millis(200);

/// How long the relay waits for a control message.
pub(super) const IDLE: Duration = Duration::from_secs(1);

/// How far credit may exceed the sent bytes: three chunks, so that credit matters for small objects.
pub(super) const WINDOW_MAX: u64 = 60_000;

/// The version of the object.
pub(super) const ETAG: &str = "\"conformance-1\"";
pub(super) const VERSION_ID: &str = "version-1";

/// A request of the consumer.
#[derive(Clone, Debug)]
pub(super) struct Requested {
    pub(super) at: Instant,
    /// The transfer that answers the request.
    pub(super) transfer: TransferId,
    pub(super) inbox: String,
    pub(super) request: GetRequest,
    /// The contiguous bytes that the consumer had received by that time.
    pub(super) delivered: u64,
    /// Whether an acceptance had stated the version by that time.
    pub(super) is_pinned: bool,
}

/// A control message of the consumer.
#[derive(Clone, Debug)]
pub(super) struct Controlled {
    pub(super) at: Instant,
    pub(super) transfer: Option<TransferId>,
    pub(super) reply: Option<String>,
    pub(super) control: Control,
}

/// Everything that the relay has received.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard {
    pub(super) requests: Vec<Requested>,
    pub(super) controls: Vec<Controlled>,
    /// The transfers whose inboxes have no listener any more.
    pub(super) gone: BTreeSet<TransferId>,
    /// Broken rules, in the order in which they were detected.
    pub(super) problems: Vec<String>,
    /// The number of contiguous bytes that were sent without a fault.
    pub(super) delivered: u64,
    pub(super) is_pinned: bool,
}

/// The state of one case.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) case: &'static Case,
    pub(super) store: StoreName,
    pub(super) bytes: Bytes,
    pub(super) instance: String,
    pub(super) prefix: Prefix,
    secret: String,
    bus: Arc<dyn Bus>,
    pub(super) heard: watch::Sender<Heard>,
    /// Makes the relay stop receiving requests for a while.
    pub(super) leaves: Notify,
    /// Makes the relay stop receiving control messages.
    pub(super) dies: Notify,
    /// Makes the relay receive control messages again.
    pub(super) revives: Notify,
    /// Cancelled when the consumer has ended. No message is sent then.
    pub(super) ended: CancellationToken,
}

impl Scene {
    pub(super) fn new(case: &'static Case, bus: Arc<dyn Bus>, prefix: Prefix) -> Self {
        let unique = Uuid::new_v4().simple().to_string();
        #[expect(clippy::expect_used, reason = "letters, digits and a hyphen are a store name")]
        let store = format!("conformance-{}", &unique[..12]).parse().expect("a store name");
        Self {
            bytes: pattern(case.object.size),
            store,
            instance: unique,
            secret: Uuid::new_v4().simple().to_string(),
            heard: watch::Sender::new(Heard::default()),
            leaves: Notify::new(),
            dies: Notify::new(),
            revives: Notify::new(),
            ended: CancellationToken::new(),
            case,
            bus,
            prefix,
        }
    }

    /// The subject to which a hostile relay tries to make the consumer publish.
    pub(super) fn trap(&self) -> String {
        format!("{}.conformance.trap.{}", self.prefix, self.instance)
    }

    pub(super) fn control_subject(&self, transfer: TransferId) -> String {
        self.prefix.control(&self.instance, transfer)
    }

    /// Subscribes to the requests for the store.
    pub(super) async fn requests(&self) -> Result<Subscription, bus::Error> {
        self.bus.subscribe(&self.prefix.request(Operation::Get, &self.store), None).await
    }

    /// Subscribes to the control messages of all transfers.
    pub(super) async fn controls(&self) -> Result<Subscription, bus::Error> {
        self.bus.subscribe(&self.prefix.controls(&self.instance), None).await
    }

    /// Subscribes to this subject.
    pub(super) async fn subscribe(&self, subject: &str) -> Result<Subscription, bus::Error> {
        self.bus.subscribe(subject, None).await
    }

    /// Records a control message.
    pub(super) fn take_control(&self, message: Message) {
        let transfer = message.subject.rsplit('.').next().and_then(|token| token.parse().ok());
        match Control::parse(&message.payload) {
            Ok(control) => self.heard.send_modify(|heard| {
                heard.controls.push(Controlled { at: Instant::now(), transfer, reply: message.reply, control });
            }),
            Err(error) => self.complain(format!("sent a malformed control message: {}", error.message)),
        }
    }

    /// Records a report of nats-server that nobody listens to an inbox.
    pub(super) fn take_report(&self, message: &Message) {
        if message.status != Some(NO_RESPONDERS) {
            self.complain("published to the reply subject of a message".to_owned());
            return;
        }
        let transfer = message.subject.rsplit('.').next().and_then(|token| token.parse().ok());
        if let Some(transfer) = transfer {
            self.heard.send_modify(|heard| {
                heard.gone.insert(transfer);
            });
        }
    }

    /// Waits until nats-server has processed all subscriptions.
    pub(super) async fn settle(&self) -> Result<(), bus::Error> {
        let inbox = self.bus.new_inbox();
        let mut echo = self.bus.subscribe(&inbox, None).await?;
        self.bus.publish(Message { subject: inbox, payload: Bytes::from_static(b"-"), ..Message::default() }).await?;
        drop(echo.next().await);
        Ok(())
    }

    /// Returns the subject where nats-server reports that nobody received a message.
    pub(super) fn reports(&self) -> String {
        self.prefix.all_gone(&self.secret)
    }

    /// Records a broken rule, once.
    pub(super) fn complain(&self, problem: String) {
        self.heard.send_modify(|heard| {
            if !heard.problems.contains(&problem) {
                heard.problems.push(problem);
            }
        });
    }

    /// Records a request. Returns `None` if it can't be answered.
    pub(super) fn take_request(&self, message: &Message) -> Option<Requested> {
        let Some(inbox) = message.reply.clone().filter(|reply| is_literal(reply)) else {
            self.complain("sent a request without a reply subject".to_owned());
            return None;
        };
        let request = match GetRequest::parse(&message.payload) {
            Ok(request) => request,
            Err(error) => {
                self.complain(format!("sent an invalid request: {}", error.message));
                return None;
            }
        };

        let requested = {
            let heard = self.heard.borrow();
            Requested {
                at: Instant::now(),
                transfer: TransferId(Uuid::new_v4()),
                inbox,
                request,
                delivered: heard.delivered,
                is_pinned: heard.is_pinned,
            }
        };
        self.heard.send_modify(|heard| heard.requests.push(requested.clone()));
        Some(requested)
    }

    /// Publishes a message of a transfer. A failure ends the case by its timeout.
    pub(super) async fn send(&self, transfer: TransferId, inbox: &str, headers: Headers, payload: Vec<u8>) {
        let message = Message {
            subject: inbox.to_owned(),
            reply: Some(self.prefix.gone(&self.secret, transfer)),
            headers,
            payload: payload.into(),
            status: None,
        };
        if let Err(error) = self.bus.publish(message).await {
            self.complain(format!("the kit could not publish: {error}"));
        }
    }

    /// Returns the checksum that the store states.
    pub(super) fn checksum(&self) -> Option<Value> {
        let correct = chunk::crc(&self.bytes);
        let text = |crc: u64| STANDARD.encode(crc.to_be_bytes());
        let full =
            |algorithm: &str, value: String| json!({"algorithm": algorithm, "kind": "full_object", "value": value});
        let stated = |value: String| Some(full("crc64nvme", value));

        match self.case.object.checksum {
            Stored::Correct => stated(text(correct)),
            Stored::Wrong => stated(text(!correct)),
            Stored::Invalid => stated("not a digest".to_owned()),
            Stored::Short => stated("AAAA".to_owned()),
            Stored::WrongSha256 => Some(full("sha256", STANDARD.encode([0; 32]))),
            Stored::Composite => Some(self.composite(0)),
            Stored::WrongComposite => Some(self.composite(1)),
            Stored::Nothing => None,
        }
    }

    /// Returns the composite checksum of three parts. `difference` changes the digest of the last one.
    fn composite(&self, difference: u64) -> Value {
        let size = self.bytes.len() / 3;
        let (first, rest) = self.bytes.split_at(size);
        let (second, third) = rest.split_at(size);
        let digests = [chunk::crc(first), chunk::crc(second), chunk::crc(third) ^ difference];
        let value = STANDARD.encode(chunk::crc(&digests.map(u64::to_be_bytes).concat()).to_be_bytes());
        let parts = json!([{"count": 2, "size": size}, {"count": 1, "size": third.len()}]);
        json!({"algorithm": "crc64nvme", "kind": "composite", "value": value, "parts": parts})
    }
}

/// Returns bytes that differ at all offsets that a faulty consumer could confuse.
fn pattern(len: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    std::iter::repeat_with(byte).take(len).collect()
}
