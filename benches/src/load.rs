//! So many downloads, so many of them at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::Args;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::sample::{Clock, Got, Sample};

/// Which objects to download, how often, how many at once.
#[derive(Args, Clone, Debug)]
pub struct Load {
    /// The folder that the objects' keys begin with.
    #[arg(long)]
    pub set: String,
    /// How many objects it holds.
    #[arg(long, default_value_t = 1)]
    pub objects: usize,
    /// How many downloads to make, going round the objects.
    #[arg(long, default_value_t = 1)]
    pub downloads: usize,
    /// How many downloads to make at once.
    #[arg(long, default_value_t = 1)]
    pub in_flight: usize,
    /// How many to make before the clock starts, so that connections stand and caches are warm.
    #[arg(long, default_value_t = 0)]
    pub warm_up: usize,
    /// How long to wait before each, in milliseconds, so that one does not pay for what another left to be done.
    #[arg(long, default_value_t = 0)]
    pub pause_ms: u64,
}

impl Load {
    /// Returns the key of a download's object.
    #[must_use]
    pub fn key(&self, download: usize) -> String {
        format!("{}/{}", self.set, download % self.objects)
    }

    /// Runs and measures all downloads. `get` is given the number of the worker that runs it and the object's key.
    ///
    /// # Errors
    /// The first download's that failed.
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
            let (load, next, get) = (self.clone(), Arc::clone(&next), get.clone());
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
