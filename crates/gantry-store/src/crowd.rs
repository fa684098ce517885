//! The readers of the process, which ask for less at a time the more of them there are.
//!
//! A response that waits for its consumer fills the buffers of the sockets on both sides, with megabytes. So each of
//! many readers asks for a little at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// From how many readers in the process on each asks for less at a time. With a thousand whole objects in flight over
/// loopback, the kernel ran out of memory for sockets and every connection crawled.
const CROWD: usize = 100;

/// What the readers of a crowd ask for at a time, together, in bytes, if that is less. With 512 readers, 1 GiB in all
/// was as fast as less, and 2 GiB a quarter as fast.
const CROWD_BYTES: u64 = 1 << 30;

/// The least that a reader asks for in an even larger crowd, in bytes: a request is not free.
const CROWD_SHARE_MIN: u64 = 256 * 1024;

/// A count of the readers of the process. Clones share one count.
#[derive(Clone, Debug, Default)]
pub struct Crowd(Arc<AtomicUsize>);

/// A reader that is counted until this is dropped.
#[derive(Debug)]
pub struct Member(Arc<AtomicUsize>);

impl Drop for Member {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Crowd {
    /// Counts one more reader.
    #[must_use]
    pub fn enter(&self) -> Member {
        self.0.fetch_add(1, Ordering::Relaxed);
        Member(Arc::clone(&self.0))
    }

    /// Returns how many readers there are.
    #[must_use]
    pub fn readers(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Returns whether there are so many readers that each must ask for less at a time.
    #[must_use]
    pub fn is_dense(&self) -> bool {
        self.readers() >= CROWD
    }

    /// Returns where a response that begins at `start` should end: at `end`, or after at most a quarter of
    /// `range_bytes` if the crowd is dense. Ends are exclusive; `None` is the end of the object.
    #[must_use]
    pub fn response_end(&self, range_bytes: u64, start: u64, end: Option<u64>) -> Option<u64> {
        if !self.is_dense() {
            return end;
        }

        let share = (CROWD_BYTES / u64::try_from(self.readers().max(1)).unwrap_or(u64::MAX)).max(CROWD_SHARE_MIN);
        let near = start.saturating_add((range_bytes / 4).min(share).max(1));
        Some(end.map_or(near, |end| end.min(near)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_are_counted_over_all_clones() {
        let crowd = Crowd::default();

        let members = [crowd.enter(), crowd.clone().enter()];
        assert_eq!(crowd.readers(), 2);

        drop(members);
        assert_eq!(crowd.readers(), 0);
    }

    #[test]
    fn the_larger_a_crowd_the_less_each_reader_asks_for_at_a_time() {
        const MIB: u64 = 1 << 20;
        let crowd = Crowd::default();
        let mut members = Vec::new();
        let mut end = |readers: usize, end| {
            members.resize_with(readers, || crowd.enter());
            crowd.response_end(8 * MIB, MIB, end)
        };

        assert_eq!((end(99, None), end(99, Some(100 * MIB))), (None, Some(100 * MIB)));
        for (readers, share) in [(100, 2 * MIB), (512, 2 * MIB), (1024, MIB), (10_000, MIB / 4)] {
            assert_eq!(end(readers, None), Some(MIB + share), "{readers}");
            assert_eq!(end(readers, Some(MIB + 7)), Some(MIB + 7), "{readers}");
        }
    }
}
