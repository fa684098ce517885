//! The bytes of a range, over as many requests as it takes.

use std::ops::Range;
use std::sync::Arc;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use futures_util::stream;
use tokio::time::{Instant, sleep, timeout};

use super::bucket::{Bucket, Cures};
use super::failure::Failure;
use crate::proto::{Key, ObjectInfo, Pin};
use crate::store::{Body, Error};

/// Reads a range of one version of an object.
///
/// A body that breaks, stalls or ends early is asked for again from the first byte that was not handed out.
pub(super) struct Reader {
    bucket: Arc<Bucket>,
    key: Key,
    /// Pins every request after the first to the version that the first one found.
    pin: Pin,
    /// The first byte that was not handed out.
    next: u64,
    end: u64,
    current: Option<ByteStream>,
    client: Arc<Client>,
    trouble: Option<Trouble>,
}

/// Failures since the last byte.
struct Trouble {
    since: Instant,
    cures: Cures,
}

impl Reader {
    /// Reads `range`. `current` is a body that begins where it does and goes at least as far.
    pub(super) fn new(
        bucket: Arc<Bucket>,
        object: &ObjectInfo,
        range: Range<u64>,
        current: Option<ByteStream>,
    ) -> Self {
        let (key, pin) = (object.key.clone(), object.pin());
        let client = bucket.client();
        Self { bucket, key, pin, next: range.start, end: range.end, current, client, trouble: None }
    }

    pub(super) fn into_body(self) -> Body {
        Box::pin(stream::try_unfold(self, async |mut reader| Ok(reader.piece().await?.map(|piece| (piece, reader)))))
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, Error> {
        while self.next < self.end {
            match self.pull().await {
                Ok(mut piece) => {
                    // What a body yields beyond its range is no part of the object.
                    let left = usize::try_from(self.end - self.next).unwrap_or(usize::MAX);
                    piece.truncate(left);
                    self.next += piece.len() as u64;
                    self.trouble = None;
                    return Ok(Some(piece));
                }
                Err(failure) => self.recover(failure).await?,
            }
        }
        Ok(None)
    }

    /// Returns the next bytes, never none, of the current body or of a new one.
    async fn pull(&mut self) -> Result<Bytes, Failure> {
        let mut body = match self.current.take() {
            Some(body) => body,
            None => {
                let range = self.next..self.end;
                self.bucket.resume(&self.client, &self.key, &self.pin, range).await?
            }
        };
        let what = self.bucket.what(&self.key);
        loop {
            let Ok(piece) = timeout(self.bucket.limits().stall_timeout, body.next()).await else {
                return Err(Failure::passing(format!("{what}: S3 stopped sending")));
            };
            match piece {
                Some(Ok(piece)) if piece.is_empty() => {}
                Some(Ok(piece)) => {
                    self.current = Some(body);
                    return Ok(piece);
                }
                Some(Err(_)) => return Err(Failure::passing(format!("{what}: S3 cut the connection"))),
                None => return Err(Failure::passing(format!("{what}: S3 sent too few bytes"))),
            }
        }
    }

    /// Prepares another try, or gives up.
    async fn recover(&mut self, failure: Failure) -> Result<(), Error> {
        let limits = self.bucket.limits();
        let trouble = self.trouble.get_or_insert_with(|| Trouble { since: Instant::now(), cures: Cures::new(limits) });
        let failure =
            self.bucket.cure(&self.client, &mut trouble.cures, failure).await.map_err(|failure| failure.error)?;
        let Some(pause) = trouble.cures.pause(&failure) else { return Err(failure.error) };
        if trouble.since.elapsed() + pause > limits.retry_budget {
            return Err(failure.error);
        }
        tracing::debug!(error = %failure.error, offset = self.next, ?pause, "asking for the rest again");
        sleep(pause).await;
        self.client = self.bucket.client();
        Ok(())
    }
}
