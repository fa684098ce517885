//! The scripted relay: receives the consumer's messages, and answers each request with the next script.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use gantry_bus::{self as bus, Message, Subscription};
use gantry_proto::{Headers, TransferId, message};
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::case::{CORRECT_STEPS, Stage, Step};
use super::scene::{Requested, Scene};
use super::transfer::Transfer;

/// How long a relay is away after [`Step::Leave`].
const AWAY: Duration = Duration::from_secs(1);

/// The relay of one case.
pub(super) struct Relay {
    scene: Arc<Scene>,
    /// `None` while the relay is away.
    requests: Option<Subscription>,
    /// `None` after it has died.
    controls: Option<Subscription>,
    reports: Subscription,
    trap: Subscription,
    /// Control messages with instances that are not a token.
    odd_instances: Subscription,
    /// Control messages with transfers that are not a token.
    odd_transfers: Subscription,
}

impl Relay {
    /// Subscribes to everything.
    pub(super) async fn start(scene: Arc<Scene>) -> Result<Self, bus::Error> {
        let serves = scene.case.stage != Stage::Empty;
        let relay = Self {
            requests: if serves { Some(scene.requests().await?) } else { None },
            controls: Some(scene.controls().await?),
            reports: scene.subscribe(&scene.reports()).await?,
            trap: scene.subscribe(&scene.trap()).await?,
            odd_instances: scene.subscribe(&scene.prefix.controls(&format!("*.*.{}", scene.instance))).await?,
            odd_transfers: scene.subscribe(&scene.prefix.controls(&format!("{}.*", scene.instance))).await?,
            scene: Arc::clone(&scene),
        };

        scene.settle().await?;
        Ok(relay)
    }

    /// Serves until the future is dropped.
    ///
    /// # Errors
    /// If the connection is closed.
    pub(super) async fn serve(&mut self) -> Result<(), bus::Error> {
        let scene = Arc::clone(&self.scene);
        let mut transfers = FuturesUnordered::new();
        let mut answered = 0;
        let mut back_at = None;

        loop {
            tokio::select! {
                // Each branch handles what it has received, so nothing is lost when another one is ready.
                request = next(&mut self.requests) => {
                    let Some(requested) = scene.take_request(&request) else { continue };
                    self.prepare(&requested).await?;
                    let steps = scene.case.scripts.get(answered).copied().unwrap_or(CORRECT_STEPS);
                    answered += 1;
                    transfers.push(Box::pin(answer(Arc::clone(&scene), requested, steps)));
                }
                control = next(&mut self.controls) => scene.take_control(control),
                Some(report) = self.reports.next() => scene.take_report(&report),
                Some(stray) = self.odd_instances.next() => scene.complain(format!("published to {:?}", stray.subject)),
                Some(stray) = self.odd_transfers.next() => scene.complain(format!("published to {:?}", stray.subject)),
                Some(stray) = self.trap.next() => scene.complain(format!("published to {:?}", stray.subject)),
                () = scene.dies.notified() => self.controls = None,
                () = scene.revives.notified() => self.controls = Some(scene.controls().await?),
                Some(()) = transfers.next() => {}
                () = scene.leaves.notified() => {
                    self.requests = None;
                    back_at = Some(Instant::now() + AWAY);
                }
                () = sleep_until(back_at.unwrap_or_else(Instant::now)), if back_at.is_some() => {
                    back_at = None;
                    self.requests = Some(scene.requests().await?);
                }
            }
        }
    }

    /// Revives the relay if it had died, and finds out whether the consumer still listens for previous answers.
    async fn prepare(&mut self, requested: &Requested) -> Result<(), bus::Error> {
        if self.controls.is_none() {
            self.controls = Some(self.scene.controls().await?);
            self.scene.settle().await?;
        }

        let previous: Vec<Requested> = self.scene.heard.borrow().requests.clone();
        for previous in previous.iter().filter(|previous| previous.transfer != requested.transfer) {
            let mut headers = Headers::default();
            headers.push(message::TYPE, "beat");
            headers.push(message::TRANSFER, TransferId(Uuid::new_v4()).to_string());
            self.scene.send(previous.transfer, &previous.inbox, headers, Vec::new()).await;
        }
        Ok(())
    }
}

/// Plays a script until nobody listens any more, and then answers probes.
async fn answer(scene: Arc<Scene>, requested: Requested, steps: &[Step]) {
    let id = requested.transfer;
    let mut transfer = Transfer::new(Arc::clone(&scene), requested);
    let mut heard = scene.heard.subscribe();

    let is_over = tokio::select! {
        () = transfer.play(steps) => true,
        // The scene, which holds the sender, outlives this future.
        gone = heard.wait_for(|heard| heard.gone.contains(&id)) => gone.is_err(),
        () = scene.ended.cancelled() => false,
    };
    if is_over && steps.iter().any(|step| matches!(step, Step::End(_) | Step::LoseEnd | Step::Error(..))) {
        tokio::select! {
            () = transfer.answer_probes() => {}
            () = scene.ended.cancelled() => {}
        }
    }
}

/// Returns the next message. Never ready without a subscription.
async fn next(subscription: &mut Option<Subscription>) -> Message {
    match subscription {
        Some(subscription) => match subscription.next().await {
            Some(message) => message,
            None => pending().await,
        },
        None => pending().await,
    }
}
