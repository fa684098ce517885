//! The events of the simulated world.

use gantry_proto::TransferId;

use crate::bus::Packet;

/// The owner of a connection.
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

/// A scheduled event.
pub(crate) enum Event {
    /// A packet from the connection of `from` in its `epoch` reaches the server.
    AtServer { from: Node, epoch: u64, packet: Packet },
    /// A packet on the connection of `to` in its `epoch` reaches the client.
    AtClient { to: Node, epoch: u64, packet: Packet },
    /// An event inside a relay's process.
    Relay { index: usize, generation: u64, event: RelayEvent },
    /// The receiver's timer expires.
    ConsumerTimer { generation: u64 },
    /// The disk has finished writing a chunk.
    WriteDone { generation: u64 },
    /// The consumer's process restarts.
    ConsumerStart,
    /// A planned fault begins.
    Fault(Fault),
    /// A planned fault ends.
    Heal(Fault),
    /// No faults occur from now on, and everything works again.
    HealAll,
}

/// An event inside a relay's process.
pub(crate) enum RelayEvent {
    /// The store responds.
    Store(TransferId),
    /// A transfer's timer expires.
    Timer(TransferId),
    /// The grace period of a drain is over.
    GraceOver,
}

/// A planned fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection is lost, and its owner is notified.
    Cut(Node),
    /// The connection silently carries nothing.
    Blackhole(Node),
    /// The relay's process is killed, and restarted later.
    Crash(usize),
    /// The relay's process is frozen, and resumed later.
    Freeze(usize),
    /// The relay drains, and is restarted later.
    Drain(usize),
    /// The consumer's process is killed, and restarted later.
    CrashConsumer,
    /// The consumer's process is frozen, and resumed later.
    FreezeConsumer,
    /// The consumer's disk stalls for a while.
    FreezeWriter,
    /// This download's share of the connection's budget changes.
    Share(u64),
    /// Another version replaces the object.
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
