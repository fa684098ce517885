//! Values that stay fixed for the lifetime of a relay's process, or that are sampled from it.

use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::spec::{Kind, Spec};
use super::values::{Sampled, SampledCounter};

/// The commit of this build, if the build set it.
const REVISION: &str = match option_env!("GANTRY_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

const BUILD: Spec = Spec::new(
    "build",
    Kind::Info,
    &["version", "revision", "protocol"],
    "Version, revision and protocol of the running relay; always 1",
);
const BUDGET: Spec =
    Spec::new("memory_budget", Kind::Gauge, &[], "Memory budget for object bytes, as configured").unit("bytes");
const RESERVED: Spec = Spec::new(
    "memory_reserved",
    Kind::Gauge,
    &[],
    "Part of the memory budget that is reserved by transfers, read-ahead, shared reads and listings",
)
.unit("bytes");
const LOG_LINES_DROPPED: Spec =
    Spec::new("log_lines_dropped", Kind::Counter, &[], "Log lines dropped because stderr was not read in time");

pub(super) const SPECS: &[Spec] = &[BUILD, BUDGET, RESERVED, LOG_LINES_DROPPED];

/// Values that stay fixed for the lifetime of a relay's process, or that are sampled from it.
#[derive(Debug)]
pub struct Facts {
    /// The version of the protocol.
    pub protocol: u32,
    /// The memory budget for object bytes.
    pub memory_budget_bytes: u64,
    /// The reserved part of the memory budget, in bytes.
    pub memory_reserved_bytes: Sampled,
    /// Log lines that were lost.
    pub log_lines_dropped: Sampled,
}

impl Facts {
    pub(super) fn register(self, registry: &mut Registry) {
        let build = [
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("revision", REVISION.to_owned()),
            ("protocol", self.protocol.to_string()),
        ];
        BUILD.register(registry, Info::new(build.to_vec()));
        BUDGET.register(registry, ConstGauge::new(self.memory_budget_bytes));
        RESERVED.register(registry, self.memory_reserved_bytes);
        LOG_LINES_DROPPED.register(registry, SampledCounter(self.log_lines_dropped));
    }
}
