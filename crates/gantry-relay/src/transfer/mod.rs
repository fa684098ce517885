//! Runs one transfer, from the opened store to the last message.

mod context;
mod delivery;
mod drive;
mod opening;
mod report;

pub(crate) use self::context::Context;

use std::ops::Range;
use std::sync::Arc;

use tracing::debug;

use self::delivery::Delivery;
use self::drive::{Clock, Drive};
use self::opening::Opening;
use self::report::{Report, as_millis};
use crate::pacer::Pacer;
use crate::registry::Entry;
use crate::requester::Requester;
use gantry_proto::sender::{Sender, Settings};
use gantry_proto::{Accepted, Body, GetRequest, OFFSET_MAX, ObjectInfo, TransferId, check};
use gantry_store::{self as store, Opened, Store};

/// Serves one `get`.
pub(crate) async fn run(
    context: Arc<Context>,
    requester: Requester,
    store: Arc<dyn Store>,
    request: GetRequest,
    mut entry: Entry,
) {
    let delivery = Delivery::new(context, requester, entry.transfer, request.context.clone());
    debug!(key = %request.key, start = request.start, context = request.context.as_deref(), "opening");

    match opening::open(&delivery, &*store, &request, &mut entry).await {
        Ok(Opening::Done(opened)) => serve(&delivery, *opened, request, entry).await,
        Ok(Opening::Ended(outcome)) => {
            note_unheard(&delivery, &entry);
            report::end_before_start(&delivery, outcome);
        }
        Err(error) => delivery.requester.refuse(request.context, &error.to_wire()).await,
    }
}

/// Sends an opened object.
async fn serve(delivery: &Delivery, mut opened: Opened, request: GetRequest, entry: Entry) {
    if let Err(error) = check::make_sendable(&mut opened.object) {
        return delivery.requester.refuse(request.context, &error).await;
    }
    let Some(range) = request.span().resolve(opened.object.size) else {
        let error = store::Error::Range { start: request.start, size: opened.object.size };
        return delivery.requester.refuse(request.context, &error.to_wire()).await;
    };

    let settings = delivery.settings(&request);
    let clock = Clock::start();
    let mut sender = Sender::new(settings, range.clone(), request.credit.unwrap_or(OFFSET_MAX), clock.now());
    let pacer = Pacer::new(&delivery.context.options, &mut sender);
    let report = Report::new(delivery, &opened.object, range.clone());
    let accepted = accepted(delivery, entry.transfer, opened.object, range, &sender, &settings);
    let mut drive = Drive { sender, clock, body: opened.body, store_ended: false, entry, pacer, report };

    // Pieces that are ready now are sent right behind the acceptance.
    drive.take_ready_pieces();
    if !delivery.publish(Body::Accepted(Box::new(accepted))).await {
        return report::end_before_start(delivery, "aborted");
    }

    delivery.requester.count(None);
    if request.start > 0 && request.pin.if_match.is_some() {
        delivery.context.metrics.resume(delivery.requester.store().as_str());
    }

    let outcome = drive.run(delivery).await;
    note_unheard(delivery, &drive.entry);
    drive.report.end(delivery, &drive.sender, outcome.as_ref());
}

fn accepted(
    delivery: &Delivery,
    transfer: TransferId,
    object: ObjectInfo,
    range: Range<u64>,
    sender: &Sender,
    settings: &Settings,
) -> Accepted {
    Accepted {
        transfer,
        instance: delivery.context.subjects.instance().to_owned(),
        control: delivery.control.clone(),
        object,
        start: range.start,
        end: range.end,
        credit: sender.credit(),
        window_max: settings.window_max,
        chunk_max: u64::try_from(settings.chunk_max).unwrap_or(u64::MAX),
        beat_ms: as_millis(settings.beat_interval),
        idle_ms: as_millis(settings.idle_timeout),
    }
}

/// Records, at the end of a transfer, if nobody ever received its messages.
fn note_unheard(delivery: &Delivery, entry: &Entry) {
    let took = delivery.requester.elapsed();
    if entry.was_unheard(took, delivery.context.options.beat_interval) {
        delivery.context.caution.note_unheard(took);
    }
}
