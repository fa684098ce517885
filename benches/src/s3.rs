//! Downloads directly from S3: the bound with which a relay is compared.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, ResponseChecksumValidation, StalledStreamProtectionConfig,
};
use clap::Args;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use gantry_bench::load::Load;
use gantry_bench::sample::{Got, Piece, Sink, print};

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
    /// Write the one object to a file.
    #[arg(long)]
    file: Option<PathBuf>,
    /// Write the one object to a pipe, in one piece, and report nothing.
    #[arg(long)]
    pipe: Option<PathBuf>,
    #[arg(long, env = "AWS_ENDPOINT_URL")]
    endpoint: String,
    #[arg(long, env = "AWS_REGION")]
    region: String,
    #[arg(long, env = "AWS_ACCESS_KEY_ID")]
    access_key_id: String,
    #[arg(long, env = "AWS_SECRET_ACCESS_KEY")]
    secret_access_key: String,
}

/// The data for each request.
struct Source {
    client: Client,
    bucket: String,
    file: Option<File>,
}

impl Get {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let file = self.file.as_ref().map(File::create).transpose()?;
        let source = Arc::new(Source { client: self.client(), bucket: self.bucket.clone(), file });

        if let Some(pipe) = &self.pipe {
            return source.copy(&self.load.key(0), pipe).await;
        }
        let object_bytes = self.object_bytes;
        let range_bytes = self.range_bytes;
        let concurrency = self.concurrency;
        let get = move |_, key: String| {
            let source = Arc::clone(&source);
            async move {
                if object_bytes <= range_bytes {
                    return Ok(Got { pieces: vec![source.piece(&key, None).await?] });
                }
                let ranges = (0..object_bytes.div_ceil(range_bytes)).map(|range| {
                    let source = Arc::clone(&source);
                    let key = key.clone();
                    let start = range * range_bytes;
                    let end = object_bytes.min(start + range_bytes);
                    async move { tokio::spawn(async move { source.piece(&key, Some((start, end))).await }).await? }
                });
                let pieces = stream::iter(ranges).buffered(concurrency).try_collect().await?;
                anyhow::Ok(Got { pieces })
            }
        };

        print(&self.load.measure(get).await?)
    }

    /// Creates a client with the relay's settings.
    fn client(&self) -> Client {
        let keys = Credentials::new(&self.access_key_id, &self.secret_access_key, None, None, "bench");
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .endpoint_url(&self.endpoint)
            .region(Region::new(self.region.clone()))
            .credentials_provider(keys)
            .force_path_style(true)
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .build();
        Client::from_conf(config)
    }
}

impl Source {
    /// Downloads a range or the whole object, to the file or to nowhere.
    async fn piece(&self, key: &str, range: Option<(u64, u64)>) -> anyhow::Result<Piece> {
        let mut sink = Sink::default();
        let header = range.map(|(start, end)| format!("bytes={start}-{}", end - 1));
        let get = self.client.get_object().bucket(&self.bucket).key(key).set_range(header);
        let mut body = get.send().await?.body;
        while let Some(bytes) = body.try_next().await? {
            if let Some(file) = &self.file {
                // Writes to the page cache, which is faster than handing the bytes to a blocking thread.
                file.write_all_at(&bytes, range.map_or(0, |(start, _)| start) + sink.bytes())?;
            }
            sink.take(&bytes);
        }
        Ok(sink.finish())
    }

    async fn copy(&self, key: &str, pipe: &Path) -> anyhow::Result<()> {
        let mut output = File::options().write(true).open(pipe)?;
        let mut body = self.client.get_object().bucket(&self.bucket).key(key).send().await?.body;
        while let Some(bytes) = body.try_next().await? {
            output.write_all(&bytes)?;
        }
        Ok(())
    }
}
