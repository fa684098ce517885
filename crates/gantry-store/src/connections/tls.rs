//! Decides which certificates are trusted.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use crate::{Error, UnavailableKind};

/// The certificate authorities of the system. Reading them takes milliseconds, and each store needs them.
static OF_SYSTEM: LazyLock<RootCertStore> = LazyLock::new(|| {
    let found = rustls_native_certs::load_native_certs();
    if let Some(error) = found.errors.first() {
        tracing::warn!(%error, "some of the system's certificate authorities can't be read");
    }

    let mut roots = RootCertStore::empty();
    // The system may have certificates that rustls does not accept.
    roots.add_parsable_certificates(found.certs);
    roots
});

/// Returns the settings for TLS: HTTP/1.1 only, and the authorities in the file, or the system's without a file.
pub(super) fn config(ca: Option<&Path>) -> Result<Arc<ClientConfig>, Error> {
    let roots = match ca {
        Some(path) => of_file(path)?,
        None => OF_SYSTEM.clone(),
    };

    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder =
        builder.with_safe_default_protocol_versions().map_err(|error| Error::Invalid(format!("no TLS: {error}")))?;

    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn of_file(path: &Path) -> Result<RootCertStore, Error> {
    let invalid = |problem: String| {
        let message = format!("{}: {problem}", path.display());
        Error::unavailable_because(UnavailableKind::UnusableAuthorities, message)
    };
    let text = std::fs::read(path).map_err(|error| invalid(format!("can't be read: {error}")))?;

    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|error| invalid(format!("is not valid PEM: {error}")))?;
        roots.add(certificate).map_err(|error| invalid(format!("has an invalid certificate: {error}")))?;
    }

    if roots.is_empty() {
        return Err(invalid("has no certificate: must be PEM".to_owned()));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_valid_certificate_is_rejected() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let is_unusable = || {
            let error = config(Some(&path)).unwrap_err();
            matches!(error, Error::Unavailable { kind: UnavailableKind::UnusableAuthorities, .. })
        };
        assert!(is_unusable());

        for text in ["", "text", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            std::fs::write(&path, text).unwrap();
            assert!(is_unusable(), "{text:?}");
        }
    }
}
