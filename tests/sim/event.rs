//! What can happen in the simulated world.

use gantry_proto::TransferId;

use crate::bus::Packet;

/// Whose connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    Consumer,
    Relay(usize),
}

impl std::fmt::Display for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Consumer => f.write_str("consumer"),
            Self::Relay(index) => write!(f, "relay{index}"),
        }
    }
}

/// An event, due at a time.
pub(crate) enum Event {
    /// A packet reaches the server from the connection of `from` in its `epoch`.
    AtServer { from: Node, epoch: u64, packet: Packet },
    /// A packet reaches `to` over its connection in its `epoch`.
    AtClient { to: Node, epoch: u64, packet: Packet },
    /// Something of a relay's process.
    Relay { index: usize, generation: u64, event: RelayEvent },
    /// The receiver's timer.
    ConsumerTimer { generation: u64 },
    /// The disk has taken a chunk.
    WriteDone { generation: u64 },
    /// The consumer's process begins anew.
    ConsumerStart,
    /// A fault of the plan.
    Fault(Fault),
    /// A fault of the plan ends.
    Heal(Fault),
    /// No fault happens from now on, and all that was broken works again.
    HealAll,
}

/// What happens inside of a relay's process.
pub(crate) enum RelayEvent {
    /// The store answers.
    Store(TransferId),
    /// A transfer's timer.
    Timer(TransferId),
    /// The grace of a drain is over.
    GraceOver,
}

/// A fault that the plan schedules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection is lost; its owner learns it.
    Cut(Node),
    /// Nothing passes the connection; nobody knows.
    Blackhole(Node),
    /// The relay's process is killed, and started anew later.
    Crash(usize),
    /// The relay's process stops, and goes on later.
    Freeze(usize),
    /// The relay drains, and is started anew later.
    Drain(usize),
    /// The consumer's process is killed, and started anew later.
    CrashConsumer,
    /// The consumer's process stops, and goes on later.
    FreezeConsumer,
    /// The consumer's disk takes nothing for a while.
    FreezeWriter,
    /// The connection's budget for this download changes.
    Share(u64),
    /// The object is replaced by another version.
    Replace,
}

impl Fault {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Cut(Node::Consumer) => "cut consumer",
            Self::Cut(Node::Relay(_)) => "cut relay",
            Self::Blackhole(Node::Consumer) => "blackhole consumer",
            Self::Blackhole(Node::Relay(_)) => "blackhole relay",
            Self::Crash(_) => "crash relay",
            Self::Freeze(_) => "freeze relay",
            Self::Drain(_) => "drain relay",
            Self::CrashConsumer => "crash consumer",
            Self::FreezeConsumer => "freeze consumer",
            Self::FreezeWriter => "freeze writer",
            Self::Share(_) => "share changed",
            Self::Replace => "replace object",
        }
    }
}
