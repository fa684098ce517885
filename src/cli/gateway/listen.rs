//! Where the front accepts connections: TCP or a Unix socket, opened here or by systemd, with or without TLS.

use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt as _, select_all};
use gantry_http::{Established, Listener, Peer, Protocol};
use listenfd::ListenFd;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio_rustls::TlsAcceptor;

use crate::config::ListenAddress;

/// The name of HTTP/2 in ALPN. Source: RFC 9113, section 3.1.
const HTTP2: &[u8] = b"h2";

/// A connection of any kind.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// The source of the front's connections.
pub(super) struct Connections {
    /// At least one.
    sockets: Vec<Socket>,
    /// The index of the socket that is asked first, so that none is neglected.
    first: usize,
    tls: Option<TlsAcceptor>,
}

/// A socket that accepts connections.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        /// Removes the file, if this process has created it.
        _remove: Option<Remove>,
    },
}

/// Removes the file of a Unix socket when dropped.
#[derive(Debug)]
pub(super) struct Remove(PathBuf);

impl Drop for Remove {
    fn drop(&mut self) {
        // Somebody else may have removed it.
        std::fs::remove_file(&self.0).ok();
    }
}

impl Socket {
    /// Takes over the sockets that systemd has opened for this process.
    pub(super) fn inherited() -> io::Result<Vec<Self>> {
        let mut inherited = ListenFd::from_env();
        let sockets = (0..inherited.len()).map(|index| Self::inherited_at(&mut inherited, index));
        sockets.collect()
    }

    fn inherited_at(inherited: &mut ListenFd, index: usize) -> io::Result<Self> {
        if let Ok(Some(listener)) = inherited.take_tcp_listener(index) {
            listener.set_nonblocking(true)?;
            return Ok(Self::Tcp(TcpListener::from_std(listener)?));
        }

        let listener = inherited.take_unix_listener(index)?;
        let listener = listener.ok_or_else(|| io::Error::other(format!("descriptor {index} is in use")))?;
        listener.set_nonblocking(true)?;
        Ok(Self::Unix { listener: UnixListener::from_std(listener)?, _remove: None })
    }

    async fn accept(&self) -> io::Result<(Box<dyn Stream>, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // The end of a response must not wait for the acknowledgement of its start. A failure must not delay
                // other clients, as a failed `accept` does.
                stream.set_nodelay(true).ok();
                Ok((Box::new(stream), address.into()))
            }
            Self::Unix { listener, .. } => Ok((Box::new(listener.accept().await?.0), Peer::UNIX)),
        }
    }

    /// Opens a socket.
    pub(super) async fn bind(address: &ListenAddress) -> io::Result<Self> {
        match address {
            ListenAddress::Tcp(address) => Ok(Self::Tcp(TcpListener::bind(address).await?)),
            ListenAddress::Unix(path) => {
                remove_unused(path).await?;
                let listener = UnixListener::bind(path)?;
                Ok(Self::Unix { listener, _remove: Some(Remove(path.clone())) })
            }
        }
    }

    /// Returns the address, and whether only this host can reach it.
    pub(super) fn describe(&self) -> (String, bool) {
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => (address.to_string(), address.ip().is_loopback()),
                Err(error) => (error.to_string(), false),
            },
            Self::Unix { listener, .. } => {
                let address = listener.local_addr().ok();
                let path = address.as_ref().and_then(|address| address.as_pathname());
                (path.map_or_else(|| "a Unix socket".to_owned(), |path| format!("unix:{}", path.display())), true)
            }
        }
    }
}

/// Removes the file of a Unix socket on which nobody listens, as a process leaves it behind that was killed.
async fn remove_unused(path: &Path) -> io::Result<()> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    if !is_socket {
        return Ok(());
    }

    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        _ => Ok(()),
    }
}

impl Connections {
    /// Accepts the connections of all `sockets`, of which there must be one at least.
    pub(super) const fn new(sockets: Vec<Socket>, tls: Option<TlsAcceptor>) -> Self {
        Self { sockets, first: 0, tls }
    }
}

impl Listener for Connections {
    type Io = Box<dyn Stream>;
    type Handshake = BoxFuture<'static, io::Result<Established<Self::Io>>>;

    async fn accept(&mut self) -> io::Result<(Self::Handshake, Peer)> {
        let count = self.sockets.len();
        let order = self.sockets.iter().cycle().skip(self.first).take(count);
        let (accepted, at, _) = select_all(order.map(|socket| socket.accept().boxed())).await;
        self.first = (self.first + at + 1) % count;
        let (stream, peer) = accepted?;

        let tls = self.tls.clone();
        let handshake = async move {
            let Some(tls) = tls else { return Ok(Established::http1(stream)) };

            let stream = tls.accept(stream).await?;
            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
            let protocol = if is_http2 { Protocol::Http2 } else { Protocol::Http1 };
            let io: Self::Io = Box::new(stream);
            Ok(Established { io, protocol })
        };
        Ok((handshake.boxed(), peer))
    }
}

/// Prepares TLS with a certificate chain and its key, both in PEM.
///
/// # Errors
/// A text that names the file and the problem.
pub(super) fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor, String> {
    let unusable = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());

    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(certificate).map_err(|error| unusable(certificate, &error))?.collect();
    let chain = chain.map_err(|error| unusable(certificate, &error))?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, &error))?;

    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, secret);
    let mut config = config.map_err(|error| unusable(certificate, &error))?;
    config.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn every_socket_is_served() {
        let any = || async { TcpListener::bind("127.0.0.1:0").await.unwrap() };
        let listeners = [any().await, any().await, any().await];
        let addresses = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
        let mut connections = Connections::new(listeners.map(Socket::Tcp).into(), None);

        // The first one always has a client that waits.
        let mut clients = Vec::new();
        for address in [addresses[0], addresses[0], addresses[0], addresses[0], addresses[1], addresses[2]] {
            clients.push(TcpStream::connect(address).await.unwrap());
        }
        let mut served = Vec::new();
        for _ in 0..3 {
            served.push(connections.accept().await.unwrap().1.address.unwrap());
        }
        for address in &addresses[1..] {
            let client = clients.iter().find(|client| client.peer_addr().unwrap() == *address).unwrap();
            assert!(served.contains(&client.local_addr().unwrap()), "{address}");
        }
    }
}
