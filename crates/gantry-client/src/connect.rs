//! The short way to a client: connect to nats-server and use the defaults.

use gantry_bus::nats;

use crate::{Client, Error, Options};

impl Client {
    /// Connects to the nats-server at `url`, such as `nats://user:password@host:4222` or `tls://host`, and uses the
    /// default [`Options`]. Several addresses of one cluster are separated by commas.
    ///
    /// The connection is re-established whenever it is lost, for as long as the client or one of its downloads lives.
    ///
    /// # Errors
    /// [`Error::Bus`], after at most four seconds: the address is invalid, no server answers, or the server rejects the
    /// credentials.
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
    /// [`Error::Bus`], after at most `nats.connect_timeout`: an option is invalid, no server answers, or the server
    /// rejects the credentials.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the attempt.
    pub async fn connect_with(nats: nats::Options, options: Options) -> Result<Self, Error> {
        let bus = nats::connect(nats).await?;
        Ok(Self::new(bus, options))
    }
}
