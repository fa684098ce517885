//! A link with high latency but full bandwidth.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use clap::Args;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// Maximum number of bytes per read.
const PIECE_BYTES: usize = 256 << 10;

/// Maximum number of pieces in flight in one direction; full pieces hold more than any window used here.
const PIECES: usize = 1024;

#[derive(Args, Debug)]
pub(crate) struct Delay {
    /// The address to forward to.
    to: SocketAddr,
    /// The delay of each byte, in each direction.
    #[arg(long)]
    ms: u64,
}

impl Delay {
    /// Prints the address on which it listens, and serves until the process ends.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        gantry_bench::sample::print(&listener.local_addr()?)?;
        let delay = Duration::from_millis(self.ms);
        loop {
            let (near, _) = listener.accept().await?;
            let far = TcpStream::connect(self.to).await?;
            near.set_nodelay(true)?;
            far.set_nodelay(true)?;
            let (near_read, near_write) = near.into_split();
            let (far_read, far_write) = far.into_split();
            carry(near_read, far_write, delay);
            carry(far_read, near_write, delay);
        }
    }
}

/// Forwards one direction until either end closes it.
fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (sender, mut pieces) = mpsc::channel::<(Instant, Bytes)>(PIECES);
    tokio::spawn(async move {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(PIECE_BYTES);
            let Ok(1..) = from.read_buf(&mut buffer).await else { return };
            if sender.send((Instant::now() + delay, buffer.split().freeze())).await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        while let Some((due, bytes)) = pieces.recv().await {
            sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
}
