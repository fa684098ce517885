//! TLS in front of a server, with a certificate of a private authority, and with HTTP/2 offered.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// Accepts TLS, and passes the bytes on to a server without TLS. It ends when dropped.
#[derive(Debug)]
pub(crate) struct TlsFront {
    port: u16,
    folder: TempDir,
    protocols: Arc<Mutex<Vec<Option<String>>>>,
    task: AbortHandle,
}

impl TlsFront {
    /// Starts a front for the server at an `http://` URL. Its certificate is for `name`.
    pub(crate) async fn start(url: &str, name: &str) -> Self {
        Self::start_valid(url, name, 1975..4096).await
    }

    /// Starts a front like [`Self::start`], whose certificate is valid from the beginning of one year to that of another.
    pub(crate) async fn start_valid(url: &str, name: &str, years: Range<i32>) -> Self {
        let target = url.strip_prefix("http://").expect("the server has no TLS").to_owned();
        let (authority, config) = certificate(name, years);
        let folder = super::data::folder();
        std::fs::write(folder.path().join("ca.pem"), authority).unwrap();

        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let protocols = Arc::new(Mutex::new(Vec::new()));

        let task = tokio::spawn({
            let protocols = Arc::clone(&protocols);
            async move {
                let mut connections = JoinSet::new();
                let acceptor = TlsAcceptor::from(Arc::new(config));
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let (acceptor, target) = (acceptor.clone(), target.clone());
                    connections.spawn(pass_on(stream, acceptor, target, Arc::clone(&protocols)));
                }
            }
        });
        Self { port, folder, protocols, task: task.abort_handle() }
    }

    /// Returns the URL by an IP address.
    pub(crate) fn endpoint(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Returns the file with the certificate of the authority.
    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Returns the application protocol of every connection so far.
    pub(crate) fn protocols(&self) -> Vec<Option<String>> {
        self.protocols.lock().unwrap().clone()
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass_on(stream: TcpStream, acceptor: TlsAcceptor, target: String, protocols: Arc<Mutex<Vec<Option<String>>>>) {
    // A client that does not trust the certificate leaves.
    let Ok(mut client) = acceptor.accept(stream).await else { return };
    let protocol = client.get_ref().1.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned());
    protocols.lock().unwrap().push(protocol);

    let Ok(mut server) = TcpStream::connect(target).await else { return };
    // Either end may cut the connection.
    drop(copy_bidirectional(&mut client, &mut server).await);
}

/// Creates an authority, and a server certificate for `name` in these years. Returns the authority as PEM.
fn certificate(name: &str, years: Range<i32>) -> (String, ServerConfig) {
    let mut authority = rcgen::CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let pem = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(authority, authority_key);

    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(years.start, 1, 1);
    params.not_after = rcgen::date_time_ymd(years.end, 1, 1);
    let certificate = params.signed_by(&key, &issuer).unwrap();

    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let mut config = builder.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    (pem, config)
}
