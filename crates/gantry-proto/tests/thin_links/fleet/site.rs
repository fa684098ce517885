//! A site: its link to the hub, and its edge relay.

use std::time::Duration;

use super::fifo::Fifo;
use super::plan::Plan;
use super::questions::Questions;

pub(super) struct Site {
    /// The link from the hub.
    pub(super) link: Fifo,
    pub(super) edge: Edge,
    /// How many devices have not ended.
    pub(super) active: usize,
    /// When the last device ended.
    pub(super) ended_at: Duration,
}

/// An edge relay. It downloads the object once, for the first device, and serves what it has.
pub(super) struct Edge {
    pub(super) questions: Questions,
    /// The link from the edge relay to the devices.
    pub(super) link: Fifo,
    /// Whether a device has requested the object.
    pub(super) has_begun: bool,
    /// Whether a relay at the hub has described the object.
    pub(super) is_open: bool,
    /// The bytes that it has, from the object's start.
    pub(super) kept: u64,
    /// The transfers that wait for the description.
    pub(super) opening: Vec<usize>,
    /// The transfers that may wait for bytes.
    pub(super) filling: Vec<usize>,
}

impl Site {
    pub(super) fn new(plan: &Plan, site: usize) -> Self {
        let edge = Edge {
            questions: Questions::default(),
            link: Fifo::new(plan.local_rate),
            has_begun: false,
            is_open: false,
            kept: 0,
            opening: Vec::new(),
            filling: Vec::new(),
        };
        Self { link: Fifo::new(plan.rate(site)), edge, active: plan.devices, ended_at: Duration::ZERO }
    }
}
