//! The lengths of the part file at which the trail has marks.

use super::record::{Mark, TRAIL_SLOTS};

/// Spreads the trail's marks over a whole download, whatever its size.
#[derive(Debug)]
pub(super) struct Trail {
    /// The distance of the marks, in bytes.
    spacing: u64,
    /// The slot of the last mark.
    last: Option<usize>,
}

impl Trail {
    /// Spreads the marks over `len` bytes, at distances of at least `spacing_min`.
    pub(super) fn over(len: u64, spacing_min: u64) -> Self {
        let spacing = len.div_ceil(TRAIL_SLOTS as u64);
        Self { spacing: spacing.max(spacing_min).max(1), last: None }
    }

    /// Returns the slot for a mark at `len`, unless an earlier mark has used that slot.
    ///
    /// The lengths must be given in ascending order.
    pub(super) fn due(&mut self, len: u64) -> Option<usize> {
        let index = usize::try_from(len / self.spacing).unwrap_or(usize::MAX).min(TRAIL_SLOTS).checked_sub(1)?;
        if self.last >= Some(index) {
            return None;
        }
        self.last = Some(index);
        Some(index)
    }

    /// Selects as many of the marks as the trail has slots for, in ascending order of length.
    pub(super) fn thin_out(&mut self, marks: &[Mark]) -> Vec<(usize, Mark)> {
        marks.iter().filter_map(|mark| Some((self.due(mark.len)?, *mark))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_due_once_at_each_distance() {
        let mut trail = Trail::over(1000, 10);
        let due: Vec<_> = [1, 9, 10, 11, 19, 20, 45, 46, 50].into_iter().filter_map(|len| trail.due(len)).collect();
        assert_eq!(due, [0, 1, 3, 4]);
    }

    #[test]
    fn the_trail_reaches_the_end_of_any_download() {
        for len in [1, 255, 256, 257, 1000, 1 << 20, (1 << 40) + 1, u64::MAX] {
            let mut trail = Trail::over(len, 1);
            let distance = len.div_ceil(TRAIL_SLOTS as u64);

            let ends = (1..=TRAIL_SLOTS as u64).map(|at| distance.saturating_mul(at).min(len));
            let mut due: Vec<_> = ends.filter_map(|end| trail.due(end)).collect();

            assert!(due.iter().all(|index| *index < TRAIL_SLOTS), "{len}");
            let expected = len / distance;
            due.dedup();
            assert_eq!(due.len() as u64, expected, "{len}");
        }
    }
}
