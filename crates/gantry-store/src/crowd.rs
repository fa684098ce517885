//! Counts the readers of the process. The more there are, the less each requests at a time.
//!
//! A response that waits for its consumer fills the socket buffers on both sides with megabytes. If there are many
//! readers, each therefore requests a small range at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Minimum number of readers for which each requests less at a time. With a thousand whole objects in flight over
/// loopback, the kernel ran out of memory for sockets, and all connections became slow.
const CROWD: usize = 100;

/// Maximum number of bytes that all readers of a crowd request at a time. With 512 readers, 1 GiB was as fast as less, and
/// 2 GiB had a quarter of the speed.
const CROWD_BYTES: u64 = 1 << 30;

/// Minimum number of bytes that each reader requests at a time, because each request has a cost.
const CROWD_SHARE_MIN: u64 = 256 * 1024;

/// The number of readers of the process. Clones share one count.
#[derive(Clone, Debug, Default)]
pub struct Crowd(Arc<AtomicUsize>);

/// Counts a reader until it is dropped.
#[derive(Debug)]
pub struct Member(Arc<AtomicUsize>);

impl Drop for Member {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Crowd {
    /// Counts another reader.
    #[must_use]
    pub fn enter(&self) -> Member {
        self.0.fetch_add(1, Ordering::Relaxed);
        Member(Arc::clone(&self.0))
    }

    /// Returns the number of readers.
    #[must_use]
    pub fn readers(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Returns whether there are enough readers that each must request less at a time.
    #[must_use]
    pub fn is_dense(&self) -> bool {
        self.readers() >= CROWD
    }

    /// Returns where a response that begins at the offset `start` should end: at `end`, or after at most a quarter of
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
    fn all_clones_count_the_same_readers() {
        let crowd = Crowd::default();

        let members = [crowd.enter(), crowd.clone().enter()];
        assert_eq!(crowd.readers(), 2);

        drop(members);
        assert_eq!(crowd.readers(), 0);
    }

    #[test]
    fn readers_of_a_larger_crowd_request_less_at_a_time() {
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
