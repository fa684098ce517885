//! Credentials that are loaded again when a file changes, or when the cloud rejects them.
//!
//! A token is requested in a task of its own. It arrives even if it takes longer than the request that needed it first.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use futures_util::FutureExt as _;
use object_store::{CredentialProvider, StaticCredentialProvider};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio::time::Instant;

use super::failure::Failure;
use super::tokens::{Problem, Tokens};
use super::unusable_credentials;
use crate::connections::{innermost, links};
use crate::ranged::{About, Retry};
use crate::{Error, UnavailableKind, misplaced, secret_text};

/// Minimum time between two loads of tokens, unless their file has changed.
const RELOAD_INTERVAL: Duration = Duration::from_secs(2);

/// Provides the credentials for a request.
pub(crate) type Source<T> = Arc<dyn CredentialProvider<Credential = T>>;

/// Credentials, and what distinguishes them from others.
pub(crate) struct Loaded<T> {
    pub(crate) source: Source<T>,
    /// The digest of the file from which they were read. Other credentials have none.
    digest: Option<[u8; 32]>,
    /// Whether they are tokens, so that another one can be requested. Keys and signatures stay the same.
    are_tokens: bool,
    /// What issues the tokens, unless it is a service.
    issuer: Option<&'static str>,
}

impl<T: fmt::Debug + Send + Sync + 'static> Loaded<T> {
    /// A key or a signature.
    pub(crate) fn constant(credential: T) -> Self {
        let source = Arc::new(StaticCredentialProvider::new(credential));
        Self { source, digest: None, are_tokens: false, issuer: None }
    }

    /// Tokens, which `source` requests when they are needed.
    pub(crate) fn tokens(source: Source<T>) -> Self {
        Self { source, digest: None, are_tokens: true, issuer: None }
    }

    /// Names what issues the tokens in messages, if it is not a service.
    #[cfg(feature = "azure")]
    pub(crate) fn issued_by(self, issuer: &'static str) -> Self {
        Self { issuer: Some(issuer), ..self }
    }

    /// Marks these credentials as read from a file with this text.
    pub(crate) fn of_text(self, text: &str) -> Self {
        Self { digest: Some(Sha256::digest(text).into()), ..self }
    }
}

type Load<T> = Box<dyn Fn() -> Result<Loaded<T>, Error> + Send + Sync>;

/// The credentials in use. `Debug` does not show them.
pub(crate) struct Credentials<T> {
    load: Load<T>,
    current: RwLock<Current<T>>,
    /// Locked while the credentials are loaded again.
    reloaded: Mutex<Instant>,
    /// Asks the services that issue tokens.
    tokens: Option<Tokens>,
}

struct Current<T> {
    loaded: Loaded<T>,
    number: u64,
    /// The last request for a token that took time.
    requested: Mutex<Option<Requested<T>>>,
}

/// A credential, or why it can't be obtained.
type Obtained<T> = Result<Arc<T>, Missing>;

/// Why no credential can be obtained.
#[derive(Clone, Debug)]
struct Missing {
    reason: String,
    kind: UnavailableKind,
}

impl Missing {
    fn because(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), kind: UnavailableKind::Credentials }
    }

    fn of(error: &object_store::Error) -> Self {
        let problem = links(error).find_map(|link| link.downcast_ref::<Problem>());
        let kind = problem.map_or(UnavailableKind::Credentials, |problem| problem.kind);
        Self { reason: innermost(error), kind }
    }
}

/// Receives the result of a request for a token, once. It is `None` until then.
type Requested<T> = watch::Receiver<Option<Obtained<T>>>;

impl<T: Send + Sync + 'static> Current<T> {
    fn new(loaded: Loaded<T>, number: u64) -> Self {
        Self { loaded, number, requested: Mutex::default() }
    }

    /// Returns the credential if it is at hand. Otherwise, returns the request for it, which all who wait share.
    fn obtain(&self) -> Result<Obtained<T>, Requested<T>> {
        let mut requested = self.requested.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = requested.as_ref().filter(|requested| is_running(requested)) {
            return Err(running.clone());
        }

        let source = Arc::clone(&self.loaded.source);
        let request = async move { source.get_credential().await.map_err(|error| Missing::of(&error)) };
        // The first poll is the caller's, which a panic must not end.
        let request = AssertUnwindSafe(request).catch_unwind();
        let panicked = || Err(Missing::because("the request for a token panicked"));
        let mut request = request.map(move |obtained| obtained.unwrap_or_else(|_| panicked())).boxed();
        if let Some(obtained) = (&mut request).now_or_never() {
            return Ok(obtained);
        }

        let (sender, receiver) = watch::channel(None);
        tokio::spawn(async move { sender.send_replace(Some(request.await)) });
        *requested = Some(receiver.clone());
        Err(receiver)
    }
}

/// Returns whether a request for a token has no result yet. Its sender is dropped if its task panics.
fn is_running<T>(requested: &Requested<T>) -> bool {
    requested.borrow().is_none() && requested.has_changed().is_ok()
}

impl<T> fmt::Debug for Credentials<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> Credentials<T> {
    /// Loads the credentials for the first time.
    ///
    /// # Errors
    /// Those of `load`.
    pub(crate) fn new(load: impl Fn() -> Result<Loaded<T>, Error> + Send + Sync + 'static) -> Result<Self, Error> {
        let current = RwLock::new(Current::new(load()?, 0));
        Ok(Self { load: Box::new(load), current, reloaded: Mutex::new(Instant::now()), tokens: None })
    }

    /// Names the service that `tokens` asks in messages.
    pub(crate) fn asking(self, tokens: Tokens) -> Self {
        Self { tokens: Some(tokens), ..self }
    }

    /// Returns the number of the current credentials.
    pub(crate) fn number(&self) -> u64 {
        self.current.read().unwrap_or_else(PoisonError::into_inner).number
    }

    /// Returns the credentials for a request. A token may have to be requested first, which goes on if this future is
    /// dropped. If that fails, and the file from which the credentials were read has changed, those of the new file are
    /// tried.
    ///
    /// # Errors
    /// A failure with [`UnavailableKind::Credentials`], with the kind of an id that is unknown, or with
    /// [`UnavailableKind::TokenService`] if the service that issues tokens is unavailable.
    pub(crate) async fn get(&self, cloud: &str, about: &About) -> Result<Arc<T>, Failure> {
        let used = self.number();
        let problem = match self.obtain().await {
            Ok(credential) => return Ok(credential),
            Err(problem) => problem,
        };

        let problem = match self.reload(used, true) {
            Ok(false) => problem,
            Ok(true) => match self.obtain().await {
                Ok(credential) => return Ok(credential),
                Err(problem) => problem,
            },
            Err(error) => Missing::because(error.to_string()),
        };

        let error = if problem.kind == UnavailableKind::TokenService {
            outage(cloud, about, &problem.reason)
        } else {
            let text = format!("the relay can't obtain credentials for {cloud}");
            Error::unavailable_because(problem.kind, about.with_cause(&text, &problem.reason))
        };
        // An administrator may be correcting it.
        Err(Failure { error, retry: Retry::Later })
    }

    /// Returns the key or signature in use. Returns `None` if the credentials are tokens.
    pub(crate) fn constant(&self) -> Option<Arc<T>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        if current.loaded.are_tokens {
            return None;
        }
        current.loaded.source.get_credential().now_or_never()?.ok()
    }

    /// Returns a credential of the current source.
    async fn obtain(&self) -> Obtained<T> {
        let obtained = self.current.read().unwrap_or_else(PoisonError::into_inner).obtain();
        let mut requested = match obtained {
            Ok(obtained) => return obtained,
            Err(requested) => requested,
        };

        let result = requested.wait_for(Option::is_some).await.ok().and_then(|result| result.clone());
        result.unwrap_or_else(|| Err(Missing::because("the request for a token was abandoned")))
    }

    /// Returns what is asked for a token at the moment, such as the name of a service. Requests wait for it.
    pub(crate) fn awaited(&self) -> Option<String> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let requested = current.requested.lock().unwrap_or_else(PoisonError::into_inner);
        if !requested.as_ref().is_some_and(is_running) {
            return None;
        }

        let issuer = current.loaded.issuer.map(str::to_owned);
        let asked = issuer.or_else(|| self.tokens.as_ref().and_then(Tokens::asked));
        Some(asked.unwrap_or_else(|| "the source of the tokens".to_owned()))
    }

    /// Loads the credentials again, as [`Cloud::reload`](super::Cloud::reload) describes.
    pub(crate) fn reload(&self, used: u64, only_other: bool) -> Result<bool, Error> {
        let mut reloaded = self.reloaded.lock().unwrap_or_else(PoisonError::into_inner);
        if self.number() != used {
            return Ok(true);
        }

        let fresh = (self.load)()?;
        let digest = self.current.read().unwrap_or_else(PoisonError::into_inner).loaded.digest;
        if fresh.digest == digest {
            if only_other || !fresh.are_tokens {
                return Ok(false);
            }
            if used > 0 && reloaded.elapsed() < RELOAD_INTERVAL {
                return Ok(true);
            }
        }

        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Current::new(fresh, used + 1);
        *reloaded = Instant::now();
        Ok(true)
    }
}

/// Returns the error for a service that issues tokens and is unavailable.
pub(super) fn outage(cloud: &str, about: &About, problem: &str) -> Error {
    let text = format!("the relay can't obtain credentials for {cloud}, the service that issues tokens is unavailable");
    Error::unavailable_because(UnavailableKind::TokenService, about.with_cause(&text, problem))
}

/// Reads a file with a secret, without what surrounds it.
///
/// # Errors
/// [`Error::Unavailable`] if it can't be read or is empty. The message contains the path.
pub(crate) fn secret_file(path: &Path) -> Result<String, Error> {
    let unusable = |problem: &str| unusable_credentials(format!("{}: {problem}", shown_path(path)));
    let text = secret_text::read(path).map_err(|error| {
        if is_pasted(path) { unusable(misplaced::CURE) } else { unusable(&secret_text::unreadable(path, &error)) }
    })?;
    match secret_text::trimmed(&text) {
        "" => Err(unusable("the file is empty")),
        text => Ok(text.to_owned()),
    }
}

/// Returns the path for a message, unless it looks like a secret that was pasted in its place.
pub(crate) fn shown_path(path: &Path) -> String {
    if is_pasted(path) { "[redacted]".to_owned() } else { path.display().to_string() }
}

fn is_pasted(path: &Path) -> bool {
    misplaced::is_secret(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;

    use super::*;

    fn about() -> About {
        About::Operator("bucket".to_owned())
    }

    fn of_file(path: std::path::PathBuf) -> impl Fn() -> Result<Loaded<String>, Error> {
        move || secret_file(&path).map(|text| Loaded::constant(text.clone()).of_text(&text))
    }

    /// Issues a token for any secret except `old`.
    #[derive(Debug)]
    struct Issuer {
        secret: String,
        requests: Arc<AtomicUsize>,
    }

    #[async_trait]
    impl CredentialProvider for Issuer {
        type Credential = String;

        async fn get_credential(&self) -> object_store::Result<Arc<String>> {
            self.requests.fetch_add(1, Ordering::Relaxed);
            if self.secret == "old" {
                return Err(object_store::Error::Generic { store: "issuer", source: "no such secret".into() });
            }
            Ok(Arc::new(format!("token of {}", self.secret)))
        }
    }

    /// Creates credentials whose secret is in a file, and the number of requests for tokens.
    fn issued(path: std::path::PathBuf) -> (Credentials<String>, Arc<AtomicUsize>) {
        let requests = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&requests);
        let load = move || {
            let secret = secret_file(&path)?;
            let issuer = Issuer { secret: secret.clone(), requests: Arc::clone(&counted) };
            Ok(Loaded::tokens(Arc::new(issuer)).of_text(&secret))
        };
        (Credentials::new(load).unwrap(), requests)
    }

    #[tokio::test]
    async fn a_rotated_file_is_read_again_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "old\n").unwrap();
        let credentials = Credentials::new(of_file(path.clone())).unwrap();
        assert_eq!(*credentials.get("a cloud", &about()).await.unwrap(), "old");

        for only_other in [true, false] {
            assert!(!credentials.reload(0, only_other).unwrap(), "the file is the same, so another attempt is useless");
        }
        std::fs::write(&path, "new").unwrap();
        assert!(credentials.reload(0, true).unwrap());
        assert_eq!(*credentials.get("a cloud", &about()).await.unwrap(), "new");
        assert!(credentials.reload(0, true).unwrap(), "another request has reloaded it");
        assert_eq!(credentials.number(), 1);

        std::fs::write(&path, " ").unwrap();
        let unusable = credentials.reload(1, true).unwrap_err();
        assert!(matches!(unusable, Error::Unavailable { kind: UnavailableKind::UnusableCredentials, .. }));
        assert_eq!(*credentials.get("a cloud", &about()).await.unwrap(), "new");
    }

    #[tokio::test]
    async fn a_rotated_secret_is_read_again_when_no_token_is_issued_for_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "old").unwrap();
        let (credentials, requests) = issued(path.clone());

        let failure = credentials.get("a cloud", &about()).await.unwrap_err();
        assert_eq!(failure.retry, Retry::Later);
        assert!(failure.error.to_string().contains("can't obtain credentials for a cloud: no such secret"));
        assert_eq!(requests.load(Ordering::Relaxed), 1, "the file is the same");

        std::fs::write(&path, "new").unwrap();
        assert_eq!(*credentials.get("a cloud", &about()).await.unwrap(), "token of new");

        std::fs::write(&path, "old").unwrap();
        assert!(credentials.reload(1, true).unwrap());
        std::fs::remove_file(&path).unwrap();
        let failure = credentials.get("a cloud", &about()).await.unwrap_err();
        assert_eq!(failure.retry, Retry::Later, "the file may be written again");
        assert!(failure.error.to_string().contains("secret: can't be read"), "{failure:?}");
    }

    #[test]
    fn a_secret_in_place_of_a_path_is_not_shown_and_has_a_cure() {
        for secret in [r#"{"private_key":"hush"}"#, "eyJhush", "abc8Q~hush", "AKIAIOSFODNN7EXAMPLE"] {
            let shown = secret_file(Path::new(secret)).unwrap_err().to_string();
            assert_eq!(shown, format!("[redacted]: {}", misplaced::CURE));
        }
        for path in ["/etc/gantry/a.json", "./key", "key.txt"] {
            assert_eq!(shown_path(Path::new(path)), path);
        }
    }

    #[derive(Debug)]
    struct Panicking;

    #[async_trait]
    impl CredentialProvider for Panicking {
        type Credential = String;

        async fn get_credential(&self) -> object_store::Result<Arc<String>> {
            panic!("a defect")
        }
    }

    #[tokio::test]
    async fn a_panic_does_not_end_the_request_that_needs_a_token() {
        let credentials = Credentials::new(|| Ok(Loaded::tokens(Arc::new(Panicking) as _))).unwrap();
        let failure = credentials.get("a cloud", &about()).await.unwrap_err();
        assert!(failure.error.to_string().contains("panicked"), "{failure:?}");
    }

    /// Issues a token after six seconds, and keeps it.
    #[derive(Debug, Default)]
    struct Slow {
        kept: tokio::sync::Mutex<Option<Arc<String>>>,
        requests: AtomicUsize,
    }

    #[async_trait]
    impl CredentialProvider for Slow {
        type Credential = String;

        async fn get_credential(&self) -> object_store::Result<Arc<String>> {
            let mut kept = self.kept.lock().await;
            if let Some(token) = &*kept {
                return Ok(Arc::clone(token));
            }
            self.requests.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(6)).await;
            Ok(Arc::clone(kept.insert(Arc::new("token".to_owned()))))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_arrives_although_the_first_request_for_it_was_dropped() {
        let slow = Arc::new(Slow::default());
        let source = Arc::clone(&slow);
        let credentials = Credentials::new(move || Ok(Loaded::tokens(Arc::clone(&source) as _))).unwrap();
        let about = about();
        let began = Instant::now();
        let waited = |secs| tokio::time::timeout(Duration::from_secs(secs), credentials.get("a cloud", &about));

        let (first, second) = tokio::join!(waited(4), waited(4));
        assert!(first.is_err() && second.is_err() && credentials.awaited().is_some());
        assert_eq!(*waited(4).await.unwrap().unwrap(), "token");
        assert_eq!(began.elapsed().as_secs(), 6);
        assert!(credentials.awaited().is_none());
        assert_eq!(*waited(4).await.unwrap().unwrap(), "token");
        assert_eq!(slow.requests.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rejected_token_is_replaced_although_its_secret_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "secret").unwrap();
        let (credentials, _) = issued(path);

        assert!(!credentials.reload(0, true).unwrap(), "the token is not rejected");
        for (used, expected) in [(0, 1), (1, 1)] {
            assert!(credentials.reload(used, false).unwrap());
            assert_eq!(credentials.number(), expected, "tokens are requested only every two seconds");
        }

        tokio::time::advance(RELOAD_INTERVAL).await;
        assert!(credentials.reload(1, false).unwrap());
        assert_eq!(credentials.number(), 2);
    }
}
