//! The bytes of the part file that are written before the bytes in front of them.

use std::collections::BTreeMap;

use gantry_proto::chunk::join_crcs;

/// Consecutive bytes, with their CRC-64/NVME.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub len: u64,
    pub crc: u64,
}

/// The runs of bytes past the contiguous start of the part file, by their positions. They are neither recorded nor kept,
/// so a download that is interrupted fetches them again.
#[derive(Debug, Default)]
pub(super) struct Ahead(BTreeMap<u64, Run>);

impl Ahead {
    /// Adds bytes at a position that no run covers.
    pub(super) fn add(&mut self, at: u64, bytes: Run) {
        let before = self.0.range_mut(..at).next_back();
        match before.filter(|(start, run)| start.saturating_add(run.len) == at) {
            Some((_, run)) => {
                *run = Run { len: run.len + bytes.len, crc: join_crcs(run.crc, bytes.crc, bytes.len) };
            }
            None => {
                self.0.insert(at, bytes);
            }
        }
    }

    /// Removes and returns the run that starts at a position.
    pub(super) fn take(&mut self, at: u64) -> Option<Run> {
        self.0.remove(&at)
    }
}

#[cfg(test)]
mod tests {
    use gantry_proto::chunk::crc;

    use super::*;

    fn run(bytes: &[u8]) -> Run {
        Run { len: bytes.len() as u64, crc: crc(bytes) }
    }

    #[test]
    fn bytes_that_follow_each_other_become_one_run() {
        let mut ahead = Ahead::default();
        ahead.add(10, run(b"one"));
        ahead.add(20, run(b"other"));
        ahead.add(13, run(b" two"));

        assert_eq!(ahead.take(13), None);
        assert_eq!(ahead.take(10), Some(run(b"one two")));
        assert_eq!(ahead.take(20), Some(run(b"other")));
        assert!(ahead.0.is_empty());
    }
}
