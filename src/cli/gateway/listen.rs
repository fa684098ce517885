//! Where the front accepts connections: TCP or a Unix socket, opened here or by systemd, with or without TLS.

use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt as _};
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
    socket: Socket,
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
    /// Takes over the socket that systemd has opened for this process, if there is one.
    pub(super) fn inherited() -> io::Result<Option<Self>> {
        let mut inherited = ListenFd::from_env();
        if inherited.len() == 0 {
            return Ok(None);
        }

        if let Ok(Some(listener)) = inherited.take_tcp_listener(0) {
            listener.set_nonblocking(true)?;
            return Ok(Some(Self::Tcp(TcpListener::from_std(listener)?)));
        }
        let Some(listener) = inherited.take_unix_listener(0)? else { return Ok(None) };
        listener.set_nonblocking(true)?;
        Ok(Some(Self::Unix { listener: UnixListener::from_std(listener)?, _remove: None }))
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
    pub(super) const fn new(socket: Socket, tls: Option<TlsAcceptor>) -> Self {
        Self { socket, tls }
    }
}

impl Listener for Connections {
    type Io = Box<dyn Stream>;
    type Handshake = BoxFuture<'static, io::Result<Established<Self::Io>>>;

    async fn accept(&mut self) -> io::Result<(Self::Handshake, Peer)> {
        let (stream, peer): (Self::Io, Peer) = match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // The end of a response must not wait for the acknowledgement of its start. A failure must not delay
                // other clients, as a failed `accept` does.
                stream.set_nodelay(true).ok();
                (Box::new(stream), address.into())
            }
            Socket::Unix { listener, .. } => (Box::new(listener.accept().await?.0), Peer::UNIX),
        };

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
