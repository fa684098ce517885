//! The result of `gantry get`: one line for people, or one JSON object.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::super::output;
use gantry_client::ServedBy;
use gantry_client::verify::Proof;
use gantry_proto::TransferId;

/// The result of a download.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Summary {
    pub(super) store: String,
    pub(super) key: String,
    /// The file, or `-` for stdout.
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    /// The number of these bytes that were fetched now, not by an earlier download.
    pub(super) fetched_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) resumed_from: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) restarted: Option<String>,
    #[serde(rename = "elapsed_ms", serialize_with = "milliseconds")]
    pub(super) elapsed: Duration,
    /// The part of it in which the download waited for the disk, or for the reader of its output.
    #[serde(rename = "output_ms", serialize_with = "milliseconds")]
    pub(super) output: Duration,
    pub(super) proof: Proof,
    pub(super) etag: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) version_id: Option<String>,
    /// How long ago the version was known to be current, if a relay served it without its store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stale_s: Option<u64>,
    pub(super) recoveries: u64,
    /// The last transfer, as in the relay's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) transfer: Option<TransferId>,
    /// The id that the logs and traces of both sides contain.
    pub(super) correlation: String,
    /// The relay of the last transfer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) relay: Option<ServedBy>,
}

fn milliseconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u128(duration.as_millis())
}

impl Summary {
    /// Returns the line that states what was written, and how it was verified.
    pub(super) fn line(&self) -> String {
        let path = if self.path == Path::new("-") { "stdout".into() } else { self.path.to_string_lossy() };
        let rate = output::rate(self.fetched_bytes, self.elapsed);
        let mut line = format!("wrote {path}: {} bytes in {} ({rate})", self.bytes, output::seconds(self.elapsed));

        if let Some(offset) = self.resumed_from {
            line += &format!(", resumed at {offset}");
        }
        if let Some(reason) = &self.restarted {
            line += &format!(", restarted: {reason}");
        }
        match self.recoveries {
            0 => {}
            1 => line += ", recovered once",
            count => line += &format!(", recovered {count} times"),
        }

        line += &match self.proof {
            Proof::Transport => ", verified in transport only".to_owned(),
            Proof::InvalidChecksum { algorithm } => {
                format!(", verified in transport only: the stated {} is invalid", algorithm.name())
            }
            Proof::Unverified { algorithm } => {
                format!(", verified in transport only: the object has {}, which is not verified", algorithm.name())
            }
            proof @ (Proof::FullObject { .. } | Proof::Composite { .. } | Proof::Etag { .. }) => {
                format!(", verified by {proof}")
            }
        };
        if let Some(stale_s) = self.stale_s {
            line += &format!(", served from a cache that could not ask its store for {stale_s} s");
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_proto::ChecksumAlgorithm;

    fn summary() -> Summary {
        Summary {
            store: "files".to_owned(),
            key: "a/model.bin".to_owned(),
            path: "model.bin".into(),
            bytes: 268_435_456,
            fetched_bytes: 268_435_456,
            resumed_from: None,
            restarted: None,
            elapsed: Duration::from_millis(1200),
            output: Duration::from_millis(200),
            proof: Proof::FullObject { algorithm: ChecksumAlgorithm::Crc64Nvme },
            etag: "\"x\"".to_owned(),
            version_id: None,
            stale_s: None,
            recoveries: 0,
            transfer: None,
            correlation: "order-7".to_owned(),
            relay: None,
        }
    }

    #[test]
    fn line_states_how_the_file_was_verified() {
        let line = "wrote model.bin: 268435456 bytes in 1.2 s (213 MiB/s), verified by CRC64NVME (full object)";
        assert_eq!(summary().line(), line);

        let invalid = Proof::InvalidChecksum { algorithm: ChecksumAlgorithm::Sha1 };
        let line = Summary { proof: invalid, ..summary() }.line();
        assert!(line.ends_with(", verified in transport only: the stated SHA1 is invalid"), "{line}");

        let other = Summary { proof: Proof::Transport, resumed_from: Some(7), recoveries: 2, ..summary() }.line();
        assert!(other.ends_with(", resumed at 7, recovered 2 times, verified in transport only"), "{other}");

        let stale = Summary { stale_s: Some(312), ..summary() }.line();
        assert!(stale.ends_with(", served from a cache that could not ask its store for 312 s"), "{stale}");
    }

    #[test]
    fn json_contains_what_the_line_states() {
        let json = serde_json::to_value(summary()).unwrap();
        assert_eq!(json["proof"], serde_json::json!({"kind": "full_object", "algorithm": "crc64nvme"}));
        assert_eq!((json["elapsed_ms"].as_u64(), json["bytes"].as_u64()), (Some(1200), Some(268_435_456)));
        assert_eq!(json.get("resumed_from"), None);
    }
}
