//! Downloads directly from Google Cloud Storage with the crate `object_store`: the bound with which a relay over such a
//! store is compared.

use std::sync::Arc;

use async_trait::async_trait;
use clap::Args;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use gantry_bench::load::Load;
use gantry_bench::sample::{Got, Piece, Sink, print};
use http_body_util::BodyExt as _;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector as TcpConnector;
use hyper_util::rt::TokioExecutor;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody,
    HttpService,
};
use object_store::gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder};
use object_store::path::Path;
use object_store::{ClientOptions, GetOptions, GetRange, ObjectStore as _, RetryConfig};

#[derive(Args, Debug)]
pub(crate) struct Get {
    #[command(flatten)]
    load: Load,
    #[arg(long)]
    bucket: String,
    /// The size of every object.
    #[arg(long)]
    object_bytes: u64,
    /// The size of a range; a smaller object is requested in one piece.
    #[arg(long, default_value_t = 8 << 20)]
    range_bytes: u64,
    /// Number of concurrent ranges of one object.
    #[arg(long, default_value_t = 4)]
    concurrency: usize,
    /// The address of the emulator.
    #[arg(long)]
    endpoint: String,
}

impl Get {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let store = Arc::new(self.store()?);
        let (object_bytes, range_bytes, concurrency) = (self.object_bytes, self.range_bytes, self.concurrency);

        let get = move |_, key: String| {
            let store = Arc::clone(&store);
            async move {
                let path = Path::parse(&key)?;
                let ranges = (0..object_bytes.div_ceil(range_bytes)).map(|range| {
                    let (store, path) = (Arc::clone(&store), path.clone());
                    let start = range * range_bytes;
                    let end = object_bytes.min(start + range_bytes);
                    async move { tokio::spawn(async move { piece(&store, &path, start..end).await }).await? }
                });
                let pieces = stream::iter(ranges).buffered(concurrency).try_collect().await?;
                anyhow::Ok(Got { pieces })
            }
        };

        print(&self.load.measure(get).await?)
    }

    fn store(&self) -> anyhow::Result<GoogleCloudStorage> {
        let store = GoogleCloudStorageBuilder::new()
            .with_bucket_name(&self.bucket)
            .with_base_url(&self.endpoint)
            .with_skip_signature(true)
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .with_http_connector(Plain(Client::builder(TokioExecutor::new()).build_http()));
        Ok(store.build()?)
    }
}

async fn piece(store: &GoogleCloudStorage, path: &Path, range: std::ops::Range<u64>) -> anyhow::Result<Piece> {
    let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
    let mut body = store.get_opts(path, options).await?.into_stream();
    let mut sink = Sink::default();
    while let Some(bytes) = body.try_next().await? {
        sink.take(&bytes);
    }
    Ok(sink.finish())
}

/// The HTTP client that Gantry uses, too, without TLS.
#[derive(Clone, Debug)]
struct Plain(Client<TcpConnector, HttpRequestBody>);

impl HttpConnector for Plain {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Plain {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let answer = self.0.request(request).await.map_err(|error| HttpError::new(HttpErrorKind::Connect, error))?;
        Ok(answer
            .map(|body| HttpResponseBody::new(body.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error)))))
    }
}
