//! Authentication, which the server requests on each connection.

use std::path::{Path, PathBuf};

use async_nats::{AuthError, ConnectOptions};
use nkeys::KeyPair;

use super::options::{Auth, OptionKind, read};
use crate::Error;

/// Creates async-nats' options with the configured credentials.
///
/// Files are read once now, so that mistakes are reported early, and again at each connection, so that a renewed file
/// takes effect without a restart.
///
/// # Errors
/// [`Error::Options`] if the file can't be read or contains no credentials.
pub(super) async fn authenticate(auth: &Auth) -> Result<ConnectOptions, Error> {
    let file = match auth {
        Auth::None => return Ok(ConnectOptions::new()),
        Auth::UserPassword { user, password } => {
            return Ok(ConnectOptions::with_user_and_password(user.clone(), password.clone()));
        }
        Auth::Token(token) => return Ok(ConnectOptions::with_token(token.clone())),
        Auth::UserPasswordFile { user, password } => return secret(password.clone(), Some(user.clone())).await,
        Auth::TokenFile(token) => return secret(token.clone(), None).await,
        Auth::Credentials(path) => IdentityFile { path: path.clone(), parse: Identity::from_credentials },
        Auth::Nkey(path) => IdentityFile { path: path.clone(), parse: Identity::from_seed_file },
    };

    file.load().await?;
    Ok(ConnectOptions::with_auth_callback(move |nonce| {
        let file = file.clone();
        async move { file.load().await.and_then(|identity| identity.sign(&nonce)).map_err(AuthError::new) }
    }))
}

/// Authenticates with the secret in a file: the password of `user`, or a token.
async fn secret(path: PathBuf, user: Option<String>) -> Result<ConnectOptions, Error> {
    read_secret(&path).await?;
    Ok(ConnectOptions::with_auth_callback(move |_| {
        let (path, user) = (path.clone(), user.clone());
        async move {
            let secret = Some(read_secret(&path).await.map_err(AuthError::new)?);
            let mut auth = async_nats::Auth::new();
            match user {
                Some(user) => (auth.username, auth.password) = (Some(user), secret),
                None => auth.token = secret,
            }
            Ok(auth)
        }
    }))
}

async fn read_secret(path: &Path) -> Result<String, Error> {
    match read("secret", OptionKind::Credentials, path).await?.trim() {
        "" => Err(Error::option(OptionKind::Credentials, format!("secret file {} is empty", path.display()))),
        secret => Ok(secret.to_owned()),
    }
}

#[derive(Clone)]
struct IdentityFile {
    path: PathBuf,
    parse: fn(&str) -> Result<Identity, String>,
}

impl IdentityFile {
    async fn load(&self) -> Result<Identity, Error> {
        let text = read("credentials", OptionKind::Credentials, &self.path).await?;
        (self.parse)(&text).map_err(|reason| unusable(&self.path, &reason))
    }
}

fn unusable(path: &Path, reason: &str) -> Error {
    Error::option(OptionKind::Credentials, format!("credentials file {} is unusable: {reason}", path.display()))
}

/// A key and, from a credentials file, the JWT for it.
pub(super) struct Identity {
    jwt: Option<String>,
    key: KeyPair,
}

impl Identity {
    /// Parses a file that `nsc` has written: the user's JWT and seed, each between lines of dashes.
    pub(super) fn from_credentials(text: &str) -> Result<Self, String> {
        let jwt = block(text, "NATS USER JWT")?;
        let seed = block(text, "USER NKEY SEED")?;
        Ok(Self { jwt: Some(jwt.to_owned()), key: key(seed)? })
    }

    /// Parses a seed on a line of its own, or between the lines that `nsc` writes.
    pub(super) fn from_seed_file(text: &str) -> Result<Self, String> {
        let mut lines = text.lines().map(str::trim);
        let seed = lines.find(|line| line.starts_with('S')).ok_or("it contains no nkey seed")?;
        Ok(Self { jwt: None, key: key(seed)? })
    }

    fn sign(self, nonce: &[u8]) -> Result<async_nats::Auth, Error> {
        let refused = |error: nkeys::error::Error| {
            Error::option(OptionKind::Credentials, format!("the nkey can't sign: {error}"))
        };
        let mut auth = async_nats::Auth::new();
        auth.signature = Some(self.key.sign(nonce).map_err(refused)?);
        match self.jwt {
            Some(jwt) => auth.jwt = Some(jwt),
            None => auth.nkey = Some(self.key.public_key()),
        }
        Ok(auth)
    }
}

/// Returns the line that follows `-----BEGIN {name}-----`.
fn block<'a>(text: &'a str, name: &str) -> Result<&'a str, String> {
    let mut lines = text.lines().map(str::trim).skip_while(|line| line.trim_matches('-') != format!("BEGIN {name}"));
    let content = lines.nth(1).filter(|line| !line.is_empty() && !line.starts_with('-'));
    content.ok_or_else(|| format!("it contains no {name}"))
}

fn key(seed: &str) -> Result<KeyPair, String> {
    KeyPair::from_seed(seed).map_err(|error| format!("its nkey seed is invalid: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(seed: &str) -> String {
        format!(
            "-----BEGIN NATS USER JWT-----\nabc.def\n------END NATS USER JWT------\n\n*** IMPORTANT ***\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
    }

    #[test]
    fn parses_credentials_and_seeds() {
        let key = KeyPair::new_user();
        let seed = key.seed().unwrap();
        let identity = Identity::from_credentials(&credentials(&seed)).unwrap();
        assert_eq!((identity.jwt.as_deref(), identity.key.public_key()), (Some("abc.def"), key.public_key()));
        for text in [seed.clone(), format!("# a comment\n {seed}\n"), credentials(&seed)] {
            let identity = Identity::from_seed_file(&text).unwrap();
            assert_eq!((identity.jwt, identity.key.public_key()), (None, key.public_key()));
        }
    }

    #[test]
    fn errors_about_invalid_files_contain_no_secret() {
        let broken = "SUAIO3FHUX5PNV2LQIIP7TZ3N4L7TX3W53MQGEIVYFIGA635OZCKEYHFLX";
        for text in ["", "x", &credentials(broken), "-----BEGIN NATS USER JWT-----\n------END NATS USER JWT------"] {
            let reason = Identity::from_credentials(text).err().unwrap();
            assert!(!reason.contains(broken), "{reason}");
        }
        assert!(Identity::from_seed_file(broken).is_err());
    }
}
