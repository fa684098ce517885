//! TLS with the other members of a cluster. Their certificates contain names that are known only from the options.

use std::path::Path;
use std::sync::Arc;

use async_nats::rustls::client::WebPkiServerVerifier;
use async_nats::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use async_nats::rustls::pki_types::pem::PemObject as _;
use async_nats::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use async_nats::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
};

use super::options::{OptionKind, Options, read};
use crate::Error;

/// Creates the configuration for a server that another one has named by its IP address. Its certificate may be for that
/// address or for one of `hosts`.
///
/// # Errors
/// [`Error::Options`] if a certificate or key can't be read, or if no authority is trusted.
pub(super) async fn config_for_member(options: &Options, hosts: &[String]) -> Result<ClientConfig, Error> {
    let roots = Arc::new(roots(options).await?);
    let verifier = WebPkiServerVerifier::builder(roots)
        .build()
        .map_err(|error| Error::option(OptionKind::TlsAuthorities, format!("no TLS authority is usable: {error}")))?;
    let hosts = hosts.iter().filter_map(|host| ServerName::try_from(host.clone()).ok()).collect();

    // rustls calls every verifier of an application dangerous. This one only tries several names.
    let builder =
        ClientConfig::builder().dangerous().with_custom_certificate_verifier(Arc::new(AnyHost { verifier, hosts }));
    let (Some(cert), Some(key)) = (&options.tls_cert, &options.tls_key) else {
        return Ok(builder.with_no_client_auth());
    };

    let chain = certificates(OptionKind::TlsCertificate, cert).await?;
    let text = read("TLS key", OptionKind::TlsKey, key).await?;
    let secret =
        PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| unusable(OptionKind::TlsKey, key, error))?;
    builder.with_client_auth_cert(chain, secret).map_err(|error| unusable(OptionKind::TlsCertificate, cert, error))
}

/// Returns the trusted authorities: those in the options, or the system's.
async fn roots(options: &Options) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    let Some(path) = &options.tls_ca else {
        let native = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
        // Certificates that can't be parsed are not trusted.
        roots.add_parsable_certificates(native.map(|native| native.certs).unwrap_or_default());
        return Ok(roots);
    };

    for cert in certificates(OptionKind::TlsAuthorities, path).await? {
        roots.add(cert).map_err(|error| unusable(OptionKind::TlsAuthorities, path, error))?;
    }
    Ok(roots)
}

async fn certificates(option: OptionKind, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = read("TLS certificate", option, path).await?;
    let certificates = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
    certificates.map_err(|error| unusable(option, path, error))
}

fn unusable(option: OptionKind, path: &Path, error: impl std::fmt::Display) -> Error {
    Error::option(option, format!("TLS file {} is unusable: {error}", path.display()))
}

/// Accepts a certificate for the name that was dialled, or for one of the hosts in the options.
#[derive(Debug)]
struct AnyHost {
    verifier: Arc<WebPkiServerVerifier>,
    hosts: Vec<ServerName<'static>>,
}

impl ServerCertVerifier for AnyHost {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let verify = |name| self.verifier.verify_server_cert(end_entity, intermediates, name, ocsp_response, now);

        let dialled = verify(server_name);
        if !matches!(&dialled, Err(error) if is_about_name(error)) {
            return dialled;
        }
        self.hosts.iter().find_map(|host| verify(host).ok()).map_or(dialled, Ok)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

const fn is_about_name(error: &TlsError) -> bool {
    matches!(
        error,
        TlsError::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
        )
    )
}
