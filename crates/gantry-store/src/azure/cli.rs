//! Tokens from the command `az`, for a developer's machine.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use object_store::CredentialProvider;
use object_store::azure::AzureCredential;
use serde::Deserialize;
use time::OffsetDateTime;
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// Maximum duration of the command. It starts a Python interpreter, and may ask a server.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// How long before its expiry a token is replaced.
const MARGIN: time::Duration = time::Duration::minutes(5);

const ARGUMENTS: [&str; 6] = ["account", "get-access-token", "--output", "json", "--scope", SCOPE];
const SCOPE: &str = "https://storage.azure.com/.default";

/// Runs the command, and keeps its token until shortly before the token expires.
#[derive(Debug, Default)]
pub(super) struct Cli(Mutex<Option<Token>>);

#[derive(Debug)]
struct Token {
    credential: Arc<AzureCredential>,
    expires: OffsetDateTime,
}

/// The output of the command. Since version 2.54, it contains the number of seconds since 1970.
#[derive(Deserialize)]
struct Output {
    #[serde(rename = "accessToken")]
    access_token: String,
    expires_on: Option<i64>,
}

#[async_trait]
impl CredentialProvider for Cli {
    type Credential = AzureCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AzureCredential>> {
        let mut kept = self.0.lock().await;
        if let Some(token) = kept.as_ref().filter(|token| OffsetDateTime::now_utc() + MARGIN < token.expires) {
            return Ok(Arc::clone(&token.credential));
        }

        let token =
            token().await.map_err(|problem| object_store::Error::Generic { store: "az", source: problem.into() })?;
        let credential = Arc::clone(&token.credential);
        *kept = Some(token);
        Ok(credential)
    }
}

/// Runs the command. An error contains no output but the line with the reason.
async fn token() -> Result<Token, String> {
    let run = Command::new("az").args(ARGUMENTS).stdin(Stdio::null()).kill_on_drop(true).output();
    let run = timeout(COMMAND_TIMEOUT, run).await.map_err(|_| "the command az did not end in time".to_owned())?;
    let output = run.map_err(|error| format!("the command az can't be run, install it: {error}"))?;

    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("the command az failed, run `az login`: {}", reason(&said)));
    }

    let output: Output =
        serde_json::from_slice(&output.stdout).map_err(|_| "the command az printed no token".to_owned())?;
    let expires = output.expires_on.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    // An older version prints a local time. Its tokens are used only once.
    let expires = expires.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    Ok(Token { credential: Arc::new(AzureCredential::BearerToken(output.access_token)), expires })
}

/// Returns the line with the reason of a failure. The command may print warnings first.
fn reason(said: &str) -> &str {
    let lines = || said.lines().map(str::trim).filter(|line| !line.is_empty());
    lines().find(|line| line.starts_with("ERROR")).or_else(|| lines().next()).unwrap_or("it gives no reason")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_reported_instead_of_a_warning() {
        assert_eq!(reason("WARNING: old\n\nERROR: no account\nERROR: more\n"), "ERROR: no account");
        assert_eq!(reason("\n az: broken \n"), "az: broken");
        assert_eq!(reason(""), "it gives no reason");
    }
}
