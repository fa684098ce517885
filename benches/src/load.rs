//! Runs a number of downloads with a given concurrency.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::Args;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::sample::{Clock, Got, Sample};

/// Which objects to download, how often, and with which concurrency.
#[derive(Args, Clone, Debug)]
pub struct Load {
    /// The prefix of the objects' keys.
    #[arg(long)]
    pub set: String,
    /// Number of objects with that prefix.
    #[arg(long, default_value_t = 1)]
    pub objects: usize,
    /// Number of downloads, cycling through the objects.
    #[arg(long, default_value_t = 1)]
    pub downloads: usize,
    /// Number of concurrent downloads.
    #[arg(long, default_value_t = 1)]
    pub in_flight: usize,
    /// Number of downloads before the measurement starts, to open connections and warm caches.
    #[arg(long, default_value_t = 0)]
    pub warm_up: usize,
    /// Pause before each download, in milliseconds, so that work left over from one does not slow down the next.
    #[arg(long, default_value_t = 0)]
    pub pause_ms: u64,
}

impl Load {
    /// Returns the key of a download's object.
    #[must_use]
    pub fn key(&self, download: usize) -> String {
        format!("{}/{}", self.set, download % self.objects)
    }

    /// Runs and measures all downloads. `get` receives the number of its worker and the object's key.
    ///
    /// # Errors
    /// The error of the first download that failed.
    pub async fn measure<F, Getting>(&self, get: F) -> anyhow::Result<Sample>
    where
        F: Fn(usize, String) -> Getting + Clone + Send + 'static,
        Getting: Future<Output = anyhow::Result<Got>> + Send,
    {
        self.run(self.warm_up, &get).await?;
        let clock = Clock::start()?;
        let downloads = self.run(self.downloads, &get).await?;
        clock.stop(downloads)
    }

    async fn run<F, Getting>(&self, downloads: usize, get: &F) -> anyhow::Result<Vec<Got>>
    where
        F: Fn(usize, String) -> Getting + Clone + Send + 'static,
        Getting: Future<Output = anyhow::Result<Got>> + Send,
    {
        let next = Arc::new(AtomicUsize::new(0));
        let mut workers = JoinSet::new();

        for worker in 0..self.in_flight {
            let load = self.clone();
            let next = Arc::clone(&next);
            let get = get.clone();
            workers.spawn(async move {
                let mut done = Vec::new();
                loop {
                    let download = next.fetch_add(1, Ordering::Relaxed);
                    if download >= downloads {
                        return anyhow::Ok(done);
                    }
                    if load.pause_ms > 0 {
                        sleep(Duration::from_millis(load.pause_ms)).await;
                    }
                    done.push((download, get(worker, load.key(download)).await?));
                }
            });
        }

        let mut all = Vec::new();
        while let Some(done) = workers.join_next().await {
            all.extend(done??);
        }
        all.sort_by_key(|(download, _)| *download);

        Ok(all.into_iter().map(|(_, got)| got).collect())
    }
}
