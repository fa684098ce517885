//! How many bytes may be in flight. This window follows the measured delay, so that downloads that share a slow link
//! divide it evenly and keep its queue short, although none of them can see the others.
//!
//! The delay of a grant is the time from giving the credit to the arrival of its last byte. All downloads behind one link
//! measure about the same delay, but each aims at its own: the faster the download, the shorter its aim. One that gets
//! more than its share measures a delay above its aim, and shrinks its window. One that gets less is still below its aim,
//! and grows.

use std::time::Duration;

use super::super::super::limits::SILENCE_MAX;

/// The smallest window, in bytes, and the one after silence. 100 downloads at 1 MB/s then still queue less than half a
/// second.
pub(super) const SIZE_MIN: u64 = 4 * 1024;

/// Up to this size, in bytes, a window needs only a short delay to grow. A larger one grows only while the relay waits
/// for credit, so that it occupies no more memory than the link needs.
pub(super) const SIZE_FREE: u64 = 2 * 1024 * 1024;

/// The longest delay to aim at, at [`AIM_MAX_RATE`] or less. With overshoot, other traffic on the link waits for less than
/// a second.
const AIM_MAX: Duration = Duration::from_millis(600);

/// In bytes per second.
const AIM_MAX_RATE: u64 = 20_000;

/// By how much the aim falls for each doubling of the rate. If it falls less, a download that has begun 0.2 s before the
/// others keeps more than its share for many seconds.
const AIM_PER_DOUBLING: Duration = Duration::from_millis(44);

/// The shortest delay to aim at. It is above usual round trips.
const AIM_MIN: Duration = Duration::from_millis(200);

/// By how much the aim exceeds the link's own delay. With a larger margin, downloads that start late would take the queue
/// for the link's own delay.
const AIM_ABOVE_LEAST: Duration = Duration::from_millis(100);

/// The link's own delay counts up to this.
const LEAST_MAX: Duration = Duration::from_secs(1);

/// How long a least delay counts: for one to two of these periods.
const LEAST_PERIOD: Duration = Duration::from_secs(15);

/// A window may grow at once to the size whose delay is this, if delays are proportional to sizes. If many downloads
/// start together, the first ones see a shorter queue; their windows sum to a few times this delay.
const LEAP_TO: Duration = Duration::from_millis(20);

/// The bounds on the change of a window by one measurement, in thousandths. A step down to 0.7 lets downloads that start
/// late see less than the longest queue.
const LEAP_MAX: u64 = 128_000;
const DOUBLE: u64 = 2_000;
const SHRINK_MIN: u64 = 300;
const SHRINK_MAX: u64 = 700;

/// How often the timeout for silence may double.
const DOUBLINGS_MAX: u32 = 5;

/// How many times slower than measured a link may suddenly become, without its relay counting as lost.
const SLOWER: u32 = 12;

/// The same while only the rate of the first chunk is known.
const SLOWER_THAN_FIRST: u32 = 2;

/// A grant of credit that is used to measure the delay.
#[derive(Clone, Copy, Debug)]
struct Mark {
    /// The absolute offset of the credit, exclusive.
    limit: u64,
    at: Duration,
    /// Whether the window limited the credit. If slow writing or the end of the range did, its delay shows nothing about a
    /// larger window.
    is_full: bool,
    /// The window before it shrank because this grant is late.
    before_late: Option<u64>,
}

/// The first credit of a transfer.
#[derive(Clone, Copy, Debug)]
struct First {
    /// The next offset to arrive when the relay accepted.
    from: u64,
    /// The absolute offset of the credit, exclusive.
    limit: u64,
    accepted_at: Duration,
}

/// The window, and the delays that have been measured.
#[derive(Debug)]
pub(in super::super) struct Window {
    size: u64,
    mark: Option<Mark>,
    /// A moving average of the delay.
    smoothed: Option<Duration>,
    /// The least delays of this period and of the previous one, and when this period began.
    least: Option<Duration>,
    least_before: Option<Duration>,
    period_began: Duration,
    /// Whether the last measured delay permits a window above [`SIZE_FREE`] to grow.
    may_grow: bool,
    /// How often the timeout for silence has doubled.
    doublings: u32,
    /// The first credit of a transfer, until all of it has arrived.
    first: Option<First>,
    /// How long the rest of the first credit takes at the rate of its first bytes. A relay that counts as near may have
    /// sent all of it onto a slow link.
    first_takes: Option<Duration>,
}

impl First {
    /// Returns how long the bytes from `next` on take at the rate of those before.
    fn rest(self, next: u64, now: Duration) -> Option<Duration> {
        let arrived = next.checked_sub(self.from).filter(|arrived| *arrived > 0)?;
        let took = now.saturating_sub(self.accepted_at);
        let micros = u128::from(self.limit.saturating_sub(next)) * took.as_micros() / u128::from(arrived);
        Some(Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)))
    }
}

impl Window {
    pub(super) const fn new(size: u64) -> Self {
        Self {
            size,
            mark: None,
            smoothed: None,
            least: None,
            least_before: None,
            period_began: Duration::ZERO,
            may_grow: false,
            doublings: 0,
            first: None,
            first_takes: None,
        }
    }

    /// Returns the window, in bytes.
    pub(in super::super) const fn size(&self) -> u64 {
        self.size
    }

    /// Returns the moving average of the delay, if there was a measurement.
    pub(in super::super) const fn delay(&self) -> Option<Duration> {
        self.smoothed
    }

    /// Returns the silence after which a relay counts as lost. `timeout` is the one on a fast link, and `beat` the longest
    /// silence of a live relay.
    pub(in super::super) fn silence_timeout(&self, timeout: Duration, beat: Duration) -> Duration {
        let measured = self.smoothed.map(|delay| delay.saturating_mul(SLOWER));
        let first = self.first_takes.map(|takes| takes.saturating_mul(SLOWER_THAN_FIRST));
        let slow = measured.or(first).map_or(Duration::ZERO, |longest| longest.saturating_add(beat));
        timeout.max(slow).saturating_mul(1_u32 << self.doublings).min(SILENCE_MAX.max(timeout))
    }

    /// Applies a relay's limit, above which it ignores credit.
    pub(in super::super) fn handle_relay_max(&mut self, max: u64) {
        self.size = self.size.min(max.max(1));
    }

    /// Records that a relay's limit no longer applies, so that a very low one does not slow down the next relay.
    pub(in super::super) fn handle_relay_left(&mut self, initial: u64) {
        self.size = self.size.max(SIZE_MIN.min(initial));
    }

    /// Records credit up to `limit`, given when bytes had arrived up to `next`. `is_full` means that the window limits it.
    pub(super) const fn handle_granted(&mut self, limit: u64, next: u64, is_full: bool, now: Duration) {
        if self.mark.is_none() && limit > next {
            self.mark = Some(Mark { limit, at: now, is_full, before_late: None });
        }
    }

    /// Records that a relay has accepted a request, with credit up to `limit`. Bytes from `next` on have not arrived.
    /// `is_full` means that the window limits it.
    pub(super) const fn handle_accepted(&mut self, limit: u64, next: u64, is_full: bool, now: Duration) {
        if let Some(mark) = &mut self.mark {
            mark.limit = limit;
            mark.is_full = mark.is_full && is_full;
        }
        self.first = Some(First { from: next, limit, accepted_at: now });
        self.first_takes = None;
    }

    /// Records that the relay is near, and may send `size` bytes at once.
    pub(super) fn handle_near(&mut self, size: u64) {
        self.size = self.size.max(size);
    }

    /// Records that a relay that is not near follows one that is. Nothing is known about its link.
    pub(super) fn handle_left_near(&mut self, size: u64) {
        *self = Self { mark: self.mark, doublings: self.doublings, ..Self::new(self.size.min(size)) };
    }

    /// Records that bytes arrived up to `next`. The window may become at most `max`.
    pub(super) fn handle_arrived(&mut self, next: u64, max: u64, now: Duration) {
        self.first = self.first.filter(|first| first.limit > next);
        self.first_takes = self.first.and_then(|first| first.rest(next, now));
        let Some(mark) = self.mark else { return };

        let delay = now.saturating_sub(mark.at);
        if mark.limit > next {
            self.shrink_if_late(mark, delay);
            return;
        }

        self.mark = None;
        self.doublings = 0;
        self.record(delay, now);

        let late = mark.before_late.map(|before| std::mem::replace(&mut self.size, before));
        self.adjust(delay, mark.is_full, max);
        if let Some(late) = late {
            self.size = self.size.min(late);
            self.may_grow = false;
        }
    }

    /// Doubles a large window up to `max`, because the relay waits for credit and the last delay was short.
    pub(super) fn grow(&mut self, max: u64) {
        if std::mem::take(&mut self.may_grow) {
            self.set(scale(self.size, DOUBLE), max);
            // Credit given before shows nothing about the larger window.
            self.mark = None;
        }
    }

    /// Records the end of a transfer: what it was measuring does not arrive.
    pub(in super::super) const fn handle_end(&mut self) {
        self.mark = None;
        self.first = None;
        self.first_takes = None;
        self.may_grow = false;
    }

    /// Records that the relay waits for its store. What is being measured then shows nothing about the link.
    pub(in super::super) const fn handle_store_slow(&mut self) {
        self.mark = None;
    }

    /// Records that messages in flight to the consumer were lost, or that the next link may be slower. The next transfer
    /// starts with a small window.
    pub(in super::super) fn handle_lost(&mut self) {
        self.size = self.size.min(SIZE_MIN);
    }

    /// Records that a relay fell silent, or did not answer.
    pub(in super::super) fn handle_silence(&mut self) {
        self.size = self.size.min(SIZE_MIN);
    }

    /// Records that a relay answered, but no byte arrived before the timeout for silence.
    pub(in super::super) fn handle_nothing_arrived(&mut self) {
        self.doublings = self.doublings.saturating_add(1).min(DOUBLINGS_MAX);
    }

    /// Shrinks the window once for a grant whose bytes are overdue, before all of them have arrived.
    fn shrink_if_late(&mut self, mark: Mark, delay: Duration) {
        let aim = self.aim(delay);
        if mark.before_late.is_some() || delay <= aim.saturating_mul(3) / 2 {
            return;
        }

        self.mark = Some(Mark { before_late: Some(self.size), ..mark });
        self.may_grow = false;
        self.shrink(thousandths(aim, delay).saturating_mul(SHRINK_MAX) / 1000);
    }

    /// Shrinks the window if the delay is above the aim. Otherwise lets it grow to the size whose delay is the aim, if
    /// delays are proportional to sizes, or, if the delay is short, by more.
    fn adjust(&mut self, delay: Duration, is_full: bool, max: u64) {
        let aim = self.aim(delay);
        self.may_grow = false;
        if delay > aim {
            return self.shrink(thousandths(aim, delay).min(SHRINK_MAX));
        }
        if !is_full {
            return;
        }

        let growth = if delay <= aim / 2 {
            thousandths(LEAP_TO, delay).clamp(DOUBLE, LEAP_MAX)
        } else {
            1_010_u64.saturating_add(thousandths(aim.saturating_sub(delay), delay))
        };
        self.may_grow = self.size >= SIZE_FREE && growth >= DOUBLE;
        if self.size < SIZE_FREE {
            self.set(scale(self.size, growth).min(SIZE_FREE), max);
        } else if growth < DOUBLE {
            self.set(scale(self.size, growth), max);
        }
    }

    /// Returns the delay to aim at. It falls with the rate that the window and its `delay` amount to.
    fn aim(&self, delay: Duration) -> Duration {
        let micros = micros(delay).max(1);
        let rate = self.size.saturating_mul(1_000_000) / micros;
        let doublings = log2_thousandths(rate.max(AIM_MAX_RATE)).saturating_sub(log2_thousandths(AIM_MAX_RATE));
        let falls = Duration::from_micros(micros_per(AIM_PER_DOUBLING, doublings));

        let least = self.least.into_iter().chain(self.least_before).min().unwrap_or(delay);
        AIM_MAX.saturating_sub(falls).max(AIM_MIN).max(least.min(LEAST_MAX).saturating_add(AIM_ABOVE_LEAST))
    }

    fn record(&mut self, delay: Duration, now: Duration) {
        if now.saturating_sub(self.period_began) >= LEAST_PERIOD {
            self.period_began = now;
            self.least_before = self.least.take();
        }
        self.least = Some(self.least.map_or(delay, |least| least.min(delay)));

        self.smoothed = Some(match self.smoothed {
            Some(smoothed) => smoothed.saturating_mul(7).saturating_add(delay) / 8,
            None => delay,
        });
    }

    /// Multiplies the window by `factor`, in thousandths.
    fn shrink(&mut self, factor: u64) {
        let size = scale(self.size, factor.clamp(SHRINK_MIN, 1000));
        self.size = size.max(SIZE_MIN).min(self.size);
    }

    fn set(&mut self, size: u64, max: u64) {
        self.size = size.min(max.max(self.size));
    }
}

/// Returns `size` times `factor`, which is in thousandths.
const fn scale(size: u64, factor: u64) -> u64 {
    size.saturating_mul(factor) / 1000
}

/// Returns `part` divided by `whole`, in thousandths.
fn thousandths(part: Duration, whole: Duration) -> u64 {
    micros(part).saturating_mul(1000) / micros(whole).max(1)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Returns the microseconds of `duration` times `factor`, which is in thousandths.
fn micros_per(duration: Duration, factor: u64) -> u64 {
    micros(duration).saturating_mul(factor) / 1000
}

/// Returns the base-2 logarithm of `value`, in thousandths, interpolated linearly between powers of two.
fn log2_thousandths(value: u64) -> u64 {
    let whole = value.max(1).ilog2();
    let mantissa = (u128::from(value.max(1)) << 10) >> whole;
    let fraction = u64::try_from(mantissa).unwrap_or(1024).saturating_sub(1024);
    u64::from(whole) * 1000 + fraction * 1000 / 1024
}
