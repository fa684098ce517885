//! Reads the bytes of one open file, block by block.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use tokio::task::JoinHandle;

use super::failure::failed;
use super::identity::Identity;
use crate::budget::{Budget, Reservation};
use crate::{Body, Error};
use gantry_proto::ObjectInfo;

/// Reads one block.
type Job = JoinHandle<Result<Bytes, Error>>;

/// Reads a range of a file. While one block is sent, the next one is read, if the budget allows.
///
/// Each block is read by a short job, so a thousand transfers that wait for credit occupy no threads.
#[derive(Debug)]
pub(super) struct Reader {
    source: Arc<Source>,
    /// The first byte that no job was started for.
    next: u64,
    /// The exclusive end of the range.
    end: u64,
    block_bytes: u64,
    budget: Budget,
    ahead: Option<(Job, Reservation)>,
}

#[derive(Debug)]
struct Source {
    file: File,
    identity: Identity,
    /// The key, for messages.
    name: String,
}

impl Reader {
    pub(super) fn new(
        (file, identity): (File, Identity),
        object: &ObjectInfo,
        range: Range<u64>,
        block_bytes: usize,
        budget: Budget,
    ) -> Self {
        let name = format!("key {:?}", object.key.as_str());
        let source = Arc::new(Source { file, identity, name });
        Self { source, next: range.start, end: range.end, block_bytes: block_bytes as u64, budget, ahead: None }
    }

    pub(super) fn into_body(self) -> Body {
        Box::pin(stream::try_unfold(self, async |mut reader| Ok(reader.block().await?.map(|block| (block, reader)))))
    }

    async fn block(&mut self) -> Result<Option<Bytes>, Error> {
        let (job, reservation) = match self.ahead.take() {
            Some((job, reservation)) => (job, Some(reservation)),
            None if self.next == self.end => return Ok(None),
            None => (self.start_block(), None),
        };

        let block = job.await.unwrap_or_else(|error| Err(Error::unavailable(format!("reading: {error}"))))?;
        drop(reservation);

        if self.next < self.end
            && let Some(reservation) = self.budget.try_reserve(self.block_bytes)
        {
            self.ahead = Some((self.start_block(), reservation));
        }

        Ok(Some(block))
    }

    fn start_block(&mut self) -> Job {
        let start = self.next;
        self.next = self.end.min(start + self.block_bytes);

        let (source, len) = (Arc::clone(&self.source), self.next - start);
        tokio::task::spawn_blocking(move || source.read(start, len))
    }
}

impl Source {
    /// Reads exactly `len` bytes at `offset`. Jobs must not run concurrently, because they share the file's cursor.
    fn read(&self, offset: u64, len: u64) -> Result<Bytes, Error> {
        let mut file = &self.file;
        // A block is much smaller than 4 GiB.
        let mut block = Vec::with_capacity(usize::try_from(len).unwrap_or_default());
        file.seek(SeekFrom::Start(offset))
            .and_then(|_| file.take(len).read_to_end(&mut block))
            .map_err(|error| failed(&self.name, &error))?;

        // Checked after the read, when the file's times show all earlier writes.
        let now = self.file.metadata().map_err(|error| failed(&self.name, &error))?;
        if !self.identity.matches(&now) || block.len() as u64 != len {
            return Err(Error::Changed(format!("{} was written to while it was read", self.name)));
        }

        Ok(Bytes::from(block))
    }
}
