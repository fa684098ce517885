//! Test data and addresses.

use std::io::Write;
use std::net::TcpListener;
use std::path::Path;

use bytes::Bytes;

/// Returns `len` pseudo-random bytes that depend on the seed only (`SplitMix64`, public domain).
pub(crate) fn random_bytes(seed: u64, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    let mut state = seed;
    for chunk in bytes.chunks_mut(8) {
        let word = split_mix(&mut state).to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
    Bytes::from(bytes)
}

/// Writes a file of `len` pseudo-random bytes that depend on the seed only, block by block.
pub(crate) fn random_file(path: &Path, seed: u64, len: u64) {
    const BLOCK: u64 = 1 << 20;
    let mut file = std::fs::File::create_new(path).unwrap();
    let mut left = len;
    let mut block = seed << 32;
    while left > 0 {
        let now = left.min(BLOCK);
        file.write_all(&random_bytes(block, usize::try_from(now).unwrap())).unwrap();
        left -= now;
        block += 1;
    }
}

/// Creates a sparse file of `len` zeros.
pub(crate) fn sparse_file(path: &Path, len: u64) {
    std::fs::File::create_new(path).unwrap().set_len(len).unwrap();
}

/// Asserts that both files have the same contents.
pub(crate) fn assert_same_file(one: &Path, other: &Path) {
    let status = std::process::Command::new("cmp").args([one, other]).status().unwrap();
    assert!(status.success(), "{} and {} differ", one.display(), other.display());
}

/// Returns a free loopback port, for programs that can't choose one themselves.
///
/// It lies below the range from which Linux takes the ports of outgoing connections: a port from that range can be
/// taken between its choice here and the moment when a server listens on it.
pub(crate) fn free_port() -> u16 {
    free_ports::<1>()[0]
}

/// Returns several different free loopback ports.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    let held: [TcpListener; N] = std::array::from_fn(|_| listener());
    held.map(|listener| listener.local_addr().unwrap().port())
}

fn listener() -> TcpListener {
    // Ends below ip_local_port_range of ip(7).
    const PORTS: std::ops::Range<u16> = 10_000..32_768;
    const TRIES: usize = 1000;
    (0..TRIES).find_map(|_| TcpListener::bind(("127.0.0.1", fastrand::u16(PORTS))).ok()).expect("most ports are free")
}

/// A folder that is deleted when dropped.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("gantry-it-").tempdir().unwrap()
}

fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
