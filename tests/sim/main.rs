//! Simulated worlds: the protocol's two state machines, with a store, relays, a bus and a consumer that fail randomly.
//!
//! There is no real time, no runtime and no socket. A seed determines everything, so a failure can be reproduced.
//! `make sim SEEDS=100000` runs many, `make sim SEED=1234` runs one and prints its log.

#[cfg(test)]
mod bus;
#[cfg(test)]
mod consumer;
#[cfg(test)]
mod context;
#[cfg(test)]
mod event;
#[cfg(test)]
mod model;
#[cfg(test)]
mod plan;
#[cfg(test)]
mod relay;
#[cfg(test)]
mod store;
#[cfg(test)]
mod world;

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use crate::context::{Logging, Tally};
    use crate::world::{self, Report};

    /// Default number of seeds.
    const SEEDS: u64 = 10_000;

    const THREADS: usize = 2;

    fn number(name: &str) -> Option<u64> {
        let text = std::env::var(name).ok()?;
        Some(text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is not a number")))
    }

    /// Runs seeds until all have run, or one has failed on any thread.
    fn run_some(seeds: u64, next: &AtomicU64, failed: &AtomicBool) -> (Tally, Option<(u64, String)>) {
        let mut tally = Tally::default();
        while !failed.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                break;
            }
            let violation = match catch_unwind(AssertUnwindSafe(|| world::run(seed, Logging::Off))) {
                Ok(Report { tally: own, violation, .. }) => {
                    tally.add(&own);
                    violation
                }
                Err(_) => Some("it panicked".to_owned()),
            };
            if let Some(violation) = violation {
                failed.store(true, Ordering::Relaxed);
                return (tally, Some((seed, violation)));
            }
        }

        (tally, None)
    }

    #[test]
    fn the_invariants_hold_in_every_world() {
        if let Some(seed) = number("GANTRY_SIM_SEED") {
            let report = world::run(seed, Logging::On);
            println!("{}{}", report.log, report.tally);
            assert_eq!(report.violation, None, "seed {seed}");
            return;
        }

        let seeds = number("GANTRY_SIM_SEEDS").unwrap_or(SEEDS);
        let next = AtomicU64::new(0);
        let failed = AtomicBool::new(false);
        let mut tally = Tally::default();
        let mut violations = Vec::new();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| run_some(seeds, &next, &failed))).collect();
            for thread in threads {
                let (own, violation) = thread.join().expect("panics were caught");
                tally.add(&own);
                violations.extend(violation);
            }
        });
        println!("{tally}");
        violations.sort();

        if let Some((seed, violation)) = violations.first() {
            panic!("seed {seed}: {violation}\nto see what happened: make sim SEED={seed}");
        }
        assert_eq!(tally.worlds, seeds);
    }

    #[test]
    fn the_same_seed_gives_the_same_log() {
        for seed in 0..100 {
            let first = world::run(seed, Logging::On);
            let second = world::run(seed, Logging::On);
            assert!(!first.log.is_empty());
            assert_eq!(first.log, second.log, "seed {seed}");
            assert_eq!(first.tally, world::run(seed, Logging::Off).tally, "seed {seed}");
        }
    }
}
