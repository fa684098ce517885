//! Runs one transfer, from the request to the last message.

mod context;
mod delivery;
mod drive;
mod report;
mod source;
#[cfg(test)]
mod tests;

pub(crate) use self::context::Context;

use std::sync::Arc;

use tracing::debug;

use self::delivery::Delivery;
use self::drive::Drive;
use crate::registry::Entry;
use crate::requester::Requester;
use gantry_proto::GetRequest;
use gantry_store::Store;

/// Serves one `get`.
pub(crate) async fn run(
    context: Arc<Context>,
    requester: Requester,
    store: Arc<dyn Store>,
    request: GetRequest,
    entry: Entry,
) {
    let delivery = Delivery::new(context, requester, entry.transfer, request.context.clone());
    debug!(key = %request.key, start = request.start, "opening");

    let mut drive = Drive::new(&delivery, &*store, &request, entry);
    let outcome = drive.run().await;
    drive.end(outcome.as_ref());
}
