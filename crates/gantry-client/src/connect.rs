//! The short way to a client: connect to nats-server, with the default options.

use gantry_bus::nats;

use crate::client::Client;
use crate::error::Error;
use crate::options::Options;

impl Client {
    /// Connects to the nats-server at `url`, such as `nats://user:password@host:4222` or `tls://host`, and uses the
    /// default [`Options`]. Several addresses of one cluster are separated by commas.
    ///
    /// The connection is re-established whenever it is lost, for as long as the client or one of its downloads lives.
    ///
    /// # Errors
    /// [`Error::Bus`], after at most four seconds. Retryable if no server answers. Not retryable if the address is invalid
    /// or the server refuses the credentials.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the attempt.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn run() -> Result<(), gantry_client::Error> {
    /// let client = gantry_client::Client::connect("nats://127.0.0.1:4222").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn connect(url: impl Into<String>) -> Result<Self, Error> {
        let nats = nats::Options { servers: vec![url.into()], ..nats::Options::default() };
        Self::connect_with(nats, Options::default()).await
    }

    /// Connects with these NATS options, which include credentials and TLS, and uses these client options.
    ///
    /// # Errors
    /// [`Error::Bus`], after at most `nats.connect_timeout`. Retryable if no server answers. Not retryable if an option is
    /// invalid or the server refuses the credentials.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the attempt.
    ///
    /// # Examples
    /// ```no_run
    /// use gantry_client::{Client, Options, nats};
    ///
    /// # async fn run() -> Result<(), gantry_client::Error> {
    /// let nats = nats::Options {
    ///     servers: vec!["tls://nats.example.com".to_owned()],
    ///     auth: nats::Auth::Credentials("/etc/app/nats.creds".into()),
    ///     ..nats::Options::default()
    /// };
    /// let client = Client::connect_with(nats, Options::default()).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn connect_with(nats: nats::Options, options: Options) -> Result<Self, Error> {
        let bus = nats::connect(nats).await?;
        Ok(Self::new(bus, options))
    }
}
