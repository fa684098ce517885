//! The result of one process in one measurement, reported to `run.py` as a line of JSON.

use std::io::Write as _;

use anyhow::Context as _;
use crc_fast::CrcAlgorithm::Crc64Nvme;
use crc_fast::{Digest, checksum_combine};
use serde::{Serialize, Serializer};
use tokio::time::Instant;

/// Clock ticks per second, the unit in which Linux reports CPU time to processes on all current architectures.
const TICKS: f64 = 100.0;

/// The sink of a download's bytes: counts and checksums them for comparison, then discards them.
#[derive(Debug)]
pub struct Sink {
    asked: Instant,
    first_byte_s: Option<f64>,
    bytes: u64,
    digest: Digest,
}

impl Default for Sink {
    /// Creates a sink at the moment of the request, from which the first byte is timed.
    fn default() -> Self {
        Self { asked: Instant::now(), first_byte_s: None, bytes: 0, digest: Digest::new(Crc64Nvme) }
    }
}

impl Sink {
    /// Adds the next bytes, in order.
    pub fn take(&mut self, bytes: &[u8]) {
        self.first_byte_s.get_or_insert_with(|| self.asked.elapsed().as_secs_f64());
        self.bytes += bytes.len() as u64;
        self.digest.update(bytes);
    }

    /// Returns the number of bytes added.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the added bytes as a piece of a download.
    #[must_use]
    pub fn finish(self) -> Piece {
        Piece {
            bytes: self.bytes,
            crc: self.digest.finalize(),
            first_byte_s: self.first_byte_s.unwrap_or(f64::INFINITY),
        }
    }
}

/// A part of a download that arrived separately.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    bytes: u64,
    crc: u64,
    first_byte_s: f64,
}

/// A finished download.
#[derive(Clone, Debug)]
pub struct Got {
    /// In order, without gaps.
    pub pieces: Vec<Piece>,
}

impl From<Sink> for Got {
    fn from(sink: Sink) -> Self {
        Self { pieces: vec![sink.finish()] }
    }
}

/// Checksums of pieces are combined only here, after the measurement.
impl Serialize for Got {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut whole = Piece { bytes: 0, crc: crc_fast::checksum(Crc64Nvme, &[]), first_byte_s: f64::INFINITY };
        for piece in &self.pieces {
            whole.crc = checksum_combine(Crc64Nvme, whole.crc, piece.crc, piece.bytes);
            whole.bytes += piece.bytes;
            whole.first_byte_s = whole.first_byte_s.min(piece.first_byte_s);
        }
        (whole.bytes, hexadecimal(whole.crc), whole.first_byte_s).serialize(serializer)
    }
}

/// Writes a checksum as 16 hexadecimal digits.
#[must_use]
pub fn hexadecimal(crc: u64) -> String {
    format!("{crc:016x}")
}

/// A measurement, which starts at its creation.
#[derive(Debug)]
pub struct Clock {
    since: Instant,
    cpu_s: f64,
}

/// The result of one process in one measurement.
#[derive(Debug, Serialize)]
pub struct Sample {
    seconds: f64,
    cpu_s: f64,
    rss_bytes: u64,
    /// Bytes, checksum and seconds to the first byte of each download.
    downloads: Vec<Got>,
}

impl Clock {
    /// Starts a measurement.
    ///
    /// # Errors
    /// If `/proc` can't be read.
    pub fn start() -> anyhow::Result<Self> {
        Ok(Self { cpu_s: cpu_s()?, since: Instant::now() })
    }

    /// Ends the measurement.
    ///
    /// # Errors
    /// If `/proc` can't be read.
    pub fn stop(self, downloads: Vec<Got>) -> anyhow::Result<Sample> {
        let seconds = self.since.elapsed().as_secs_f64();
        Ok(Sample { seconds, cpu_s: cpu_s()? - self.cpu_s, rss_bytes: rss_peak_bytes()?, downloads })
    }
}

/// Prints one line of JSON.
///
/// # Errors
/// If standard output is closed.
pub fn print(value: &impl Serialize) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    let mut output = std::io::stdout().lock();
    output.write_all(&line)?;
    Ok(output.flush()?)
}

/// Returns the CPU time used by this process: fields 14 and 15 of `/proc/self/stat` (`proc_pid_stat(5)`).
fn cpu_s() -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // Field 2, the name, may contain anything but ends at the last parenthesis.
    let (_, fields) = stat.rsplit_once(") ").context("/proc/self/stat has no name")?;
    let ticks: Result<Vec<f64>, _> = fields.split(' ').skip(11).take(2).map(str::parse).collect();
    Ok(ticks?.iter().sum::<f64>() / TICKS)
}

fn rss_peak_bytes() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}
