//! Reads the bytes of one open file, block by block.

use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::failure::failed;
use super::identity::Identity;
use crate::budget::{Budget, Reservation};
use crate::jobs::{Abandoned, Handle, Job, Jobs};
use crate::release::{self, ReadsAhead};
use crate::{Body, Error};
use gantry_proto::ObjectInfo;

/// Reads a range of a file. While one block is sent, the next one is read, if the budget allows.
///
/// Each block is read by a short job, so a thousand transfers that wait for credit occupy no threads.
#[derive(Debug)]
pub(super) struct Reader {
    source: Arc<Source>,
    /// The offset of the next byte to return.
    next: u64,
    /// The exclusive end of the range.
    end: u64,
    block_bytes: u64,
    budget: Budget,
    jobs: Arc<Jobs>,
    /// The block at `next`, if it has been read ahead.
    ahead: Option<Ahead>,
}

/// A block that is read before it is requested.
#[derive(Debug)]
struct Ahead {
    job: Job<Bytes>,
    _reservation: Reservation,
}

#[derive(Debug)]
struct Source {
    file: Handle,
    identity: Identity,
    /// The key, for messages.
    name: String,
}

impl Reader {
    pub(super) fn new(
        (file, identity): (Handle, Identity),
        object: &ObjectInfo,
        range: Range<u64>,
        block_bytes: usize,
        budget: Budget,
        jobs: Arc<Jobs>,
    ) -> Self {
        let name = format!("key {:?}", object.key.as_str());
        let source = Arc::new(Source { file, identity, name });
        Self { source, next: range.start, end: range.end, block_bytes: block_bytes as u64, budget, jobs, ahead: None }
    }

    pub(super) fn into_body(self) -> Body {
        release::body(self)
    }

    /// Starts to read the next block, if the budget allows and a thread is available.
    fn read_ahead(&mut self) {
        if self.next == self.end {
            return;
        }

        let Some(reservation) = self.budget.try_reserve(self.block_bytes) else { return };
        let Some(job) = self.jobs.try_start(self.block()) else { return };
        self.ahead = Some(Ahead { job, _reservation: reservation });
    }

    /// Returns the work that reads the next block.
    fn block(&self) -> impl FnOnce(&Abandoned) -> Result<Bytes, Error> + Send + use<> {
        let (source, start) = (Arc::clone(&self.source), self.next);
        let len = self.block_bytes.min(self.end - start);
        move |_: &Abandoned| source.read(start, len)
    }
}

impl ReadsAhead for Reader {
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if self.next == self.end {
            return Ok(None);
        }

        let block = match self.ahead.take() {
            Some(ahead) => ahead.job.end().await?,
            None => self.jobs.run(self.block()).await?,
        };
        self.next += block.len() as u64;
        self.read_ahead();

        Ok(Some(block))
    }

    fn release(&mut self) {
        // Jobs share the file's cursor, so a running job must end first.
        self.ahead.take_if(|ahead| ahead.job.has_ended());
    }
}

impl Source {
    /// Reads exactly `len` bytes at `offset`. Jobs must not run concurrently, because they share the file's cursor.
    fn read(&self, offset: u64, len: u64) -> Result<Bytes, Error> {
        let mut file = self.file.file();
        // A block is much smaller than 4 GiB.
        let mut block = Vec::with_capacity(usize::try_from(len).unwrap_or_default());
        file.seek(SeekFrom::Start(offset))
            .and_then(|_| file.take(len).read_to_end(&mut block))
            .map_err(|error| failed(&self.name, &error))?;

        // Checked after the read, when the file's times reflect all earlier writes.
        let now = self.file.file().metadata().map_err(|error| failed(&self.name, &error))?;
        if !self.identity.matches(&now) || block.len() as u64 != len {
            return Err(Error::Changed(format!("{} was written to while it was read", self.name)));
        }

        Ok(Bytes::from(block))
    }
}
