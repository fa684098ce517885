//! Downloads that share a thin link which none of them can see: many `Receiver`s and `Sender`s on one virtual clock.
//!
//! `cargo test -p gantry-proto --test thin_links -- --nocapture` prints the results.

#[cfg(test)]
mod consumer;
#[cfg(test)]
mod link;
#[cfg(test)]
mod relay;
#[cfg(test)]
mod report;
#[cfg(test)]
mod world;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::relay::Health;
    use crate::report::Report;
    use crate::world::{Change, Scenario, World};

    const MB: u64 = 1_000_000;
    const MS: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    fn run(name: &str, scenario: &Scenario, seed: u64) -> Report {
        let report = World::run(scenario, seed);
        println!("{name:32} {report}");
        report
    }

    #[test]
    fn a_run_can_be_repeated() {
        let scenario = Scenario::new(4, MB, MB, 10 * MS);
        let runs = [1, 1, 2].map(|seed| World::run(&scenario, seed).total);

        assert_eq!(runs[0], runs[1]);
        assert_ne!(runs[0], runs[2]);
    }

    #[test]
    fn one_consumer_fills_a_fast_link() {
        let report = run("1 × 100 MB, 1 GB/s, 0.2 ms", &Scenario::new(1, 100 * MB, 1000 * MB, MS / 5), 1);

        assert_eq!((report.failed, report.recoveries_max), (0, 0));
        assert!(report.total_over_ideal < 1.05, "{report}");
    }

    #[test]
    fn another_relay_continues_after_one_is_lost() {
        for health in [Health::Dead, Health::Frozen] {
            let mut scenario = Scenario::new(1, 100 * MB, 10 * MB, 10 * MS);
            scenario.relays = 2;
            scenario.changes = vec![(2 * SECOND, Change::Relay(0, health)), (3 * SECOND, Change::Rate(20 * MB))];
            let report = run(&format!("1 × 100 MB, 1 of 2 relays {health:?}"), &scenario, 1);

            assert_eq!(report.failed, 0);
            assert!(report.total < 10 * SECOND, "{report}");
        }
    }

    /// Windows of 2 MiB fill the queue before the first delay is measured. Answers then take longer than their timeout,
    /// and consumers abandon what is in flight.
    #[test]
    fn consumers_that_share_a_thin_link_starve_each_other() {
        for consumers in [12, 24] {
            let name = format!("{consumers} × 6 MB, 1 MB/s, 10 ms");
            let report = run(&name, &Scenario::new(consumers, 6 * MB, MB, 10 * MS), 1);

            assert!(report.total_over_ideal > 1.5, "{report}");
            assert!(report.recoveries_max > 10, "{report}");
            assert!(report.probe_p99 > Duration::from_secs(10), "{report}");
        }
    }
}
