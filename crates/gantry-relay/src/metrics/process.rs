//! Metrics of this process on Linux, with the names that the official Prometheus clients use.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::spec::{Kind, Spec};

/// Clock ticks per second in `/proc` (`USER_HZ`), on every architecture of Rust's Linux targets.
const TICKS_PER_S: f64 = 100.0;

const CPU: Spec =
    Spec::new("process_cpu", Kind::Counter, &[], "CPU time used by the process (Linux only)").unit("seconds");
const MEMORY: Spec =
    Spec::new("process_resident_memory", Kind::Gauge, &[], "Resident memory of the process (Linux only)").unit("bytes");
const OPEN_FDS: Spec = Spec::new(
    "process_open_fds",
    Kind::Gauge,
    &[],
    "Open file descriptors of the process, including connections (Linux only)",
);
const START: Spec = Spec::new(
    "process_start_time",
    Kind::Gauge,
    &[],
    "Start time of the process, in seconds since the Unix epoch (Linux only)",
)
.unit("seconds");

pub(super) const SPECS: &[Spec] = &[CPU, MEMORY, OPEN_FDS, START];

/// Reads `/proc` for every scrape. Exports nothing where `/proc` is missing.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let Some(seen) = Seen::now() else { return Ok(()) };
        let mut show = |spec: &Spec, metric: &dyn Shown| {
            let unit = spec.unit.map(|unit| Unit::Other(unit.to_owned()));
            metric.show(&mut encoder, spec, unit.as_ref())
        };
        show(&CPU, &ConstCounter::new(seen.cpu_s))?;
        show(&MEMORY, &ConstGauge::new(seen.resident_bytes))?;
        show(&OPEN_FDS, &ConstGauge::new(seen.open_fds))?;
        seen.started_s.map_or(Ok(()), |started_s| show(&START, &ConstGauge::new(started_s)))
    }
}

/// A metric of any type.
trait Shown {
    fn show(&self, encoder: &mut DescriptorEncoder, spec: &Spec, unit: Option<&Unit>) -> fmt::Result;
}

impl<M: EncodeMetric> Shown for M {
    fn show(&self, encoder: &mut DescriptorEncoder, spec: &Spec, unit: Option<&Unit>) -> fmt::Result {
        let help = format!("{}.", spec.help);
        self.encode(encoder.encode_descriptor(spec.name, &help, unit, self.metric_type())?)
    }
}

#[derive(Debug)]
struct Seen {
    cpu_s: f64,
    resident_bytes: u64,
    open_fds: u64,
    /// `None` where `/proc/stat` is hidden, for example by systemd's `ProcSubset=pid`.
    started_s: Option<f64>,
}

impl Seen {
    /// Reads the values, whose layout proc(5) describes.
    fn now() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The name in parentheses may contain anything; the third field follows.
        let fields: Vec<_> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let ticks = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let resident_kib: u64 = word_after(&status, "VmRSS:")?.parse().ok()?;
        let booted_s = || word_after(&fs::read_to_string("/proc/stat").ok()?, "btime ")?.parse::<f64>().ok();
        Some(Self {
            cpu_s: (ticks(14)? + ticks(15)?) / TICKS_PER_S,
            resident_bytes: resident_kib * 1024,
            // Not counting the descriptor that is open for this listing.
            open_fds: (fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1),
            started_s: booted_s().zip(ticks(22)).map(|(booted_s, ticks)| booted_s + ticks / TICKS_PER_S),
        })
    }
}

fn word_after<'a>(text: &'a str, begin: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(begin))?.split_whitespace().next()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn values_of_this_process_are_plausible() {
        let seen = Seen::now().unwrap();
        assert!(seen.resident_bytes > 1 << 20 && seen.open_fds >= 3 && seen.cpu_s >= 0.0, "{seen:?}");
        // The time must be after July 2017.
        assert!(seen.started_s.is_some_and(|started_s| started_s > 1.5e9), "{seen:?}");
    }
}
