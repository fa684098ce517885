//! Downloads that share a thin link which none of them can see: many `Receiver`s and `Sender`s on one virtual clock.
//!
//! `cargo test -p gantry-proto --test thin_links -- --nocapture` prints the results.

#[cfg(test)]
mod consumer;
#[cfg(test)]
mod fleet;
#[cfg(test)]
mod link;
#[cfg(test)]
mod random;
#[cfg(test)]
mod relay;
#[cfg(test)]
mod report;
#[cfg(test)]
mod world;

#[cfg(test)]
mod tests {
    use std::ops::RangeInclusive;
    use std::time::Duration;

    use crate::relay::Health;
    use crate::report::Report;
    use crate::world::{Change, Scenario, World};

    const MB: u64 = 1_000_000;
    const MS: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    /// The seeds of each scenario: they vary when the consumers start.
    const SEEDS: RangeInclusive<u64> = 1..=6;

    /// A link of 100 Mbit/s, in bytes per second.
    const FAST_ETHERNET: u64 = 12_500_000;

    /// Runs a scenario with all seeds, prints the worst of each number, and returns them.
    fn worst(name: &str, scenario: &Scenario) -> Report {
        let reports = SEEDS.map(|seed| World::run(scenario, seed));
        let worst = reports.reduce(|worst, report| worst.worse_of(&report)).expect("some seeds");
        println!("{name:36} {worst}");
        worst
    }

    /// Checks what every scenario must show: all files arrive, the link is used, and other traffic passes.
    fn assert_bars(report: &Report) {
        assert_eq!(report.failed, 0, "{report}");
        assert!(report.total_over_ideal <= 1.15, "{report}");
        assert!(report.recoveries_max <= 1, "{report}");
        assert!(report.probe_p99 < SECOND, "{report}");
    }

    fn assert_fair(report: &Report) {
        assert!(report.slowest_over_fastest <= 1.5, "{report}");
    }

    #[test]
    fn a_run_can_be_repeated() {
        let scenario = Scenario::new(4, MB, MB, 10 * MS);
        let runs = [1, 1, 2].map(|seed| World::run(&scenario, seed).total);

        assert_eq!(runs[0], runs[1]);
        assert_ne!(runs[0], runs[2]);
    }

    /// Windows of 2 MiB each, as in version 0.1, filled the queue before the first delay was measured. 12 consumers took
    /// 1.77 times as long as the link needed, sent up to 15 requests again, and delayed other traffic by 48 s.
    #[test]
    fn consumers_share_a_thin_link_evenly() {
        for round_trip in [MS, 10 * MS] {
            for consumers in [1, 4, 12, 24, 48] {
                let name = format!("{consumers} × 6 MB, 1 MB/s, {round_trip:?}");
                let report = worst(&name, &Scenario::new(consumers, 6 * MB, MB, round_trip));

                assert_bars(&report);
                assert_fair(&report);
                assert_eq!(report.recoveries_max, 0, "{report}");
            }
        }
    }

    #[test]
    fn consumers_share_a_very_thin_link_evenly() {
        for round_trip in [MS, 10 * MS] {
            let mut scenario = Scenario::new(3, MB, 20_000, round_trip);
            scenario.probe_every = SECOND;
            let report = worst(&format!("3 × 1 MB, 20 KB/s, {round_trip:?}"), &scenario);

            assert_bars(&report);
            assert_fair(&report);
        }
    }

    #[test]
    fn consumers_share_a_long_path_evenly() {
        for (consumers, size) in [(1, 200 * MB), (4, 100 * MB), (12, 30 * MB), (24, 15 * MB), (48, 6 * MB)] {
            let name = format!("{consumers} × {} MB, 100 Mbit/s, 100 ms", size / MB);
            let report = worst(&name, &Scenario::new(consumers, size, FAST_ETHERNET, 100 * MS));

            assert_bars(&report);
            assert_fair(&report);
        }
    }

    /// The first ones are alone for some round trips. With an aim that falls by 30 ms for each doubling of the rate, they
    /// kept so much of the link that the last of 12 took 1.9 times as long as they.
    #[test]
    fn a_head_start_on_a_long_path_does_not_last() {
        for consumers in [12, 24, 48] {
            let mut scenario = Scenario::new(consumers, 6 * MB, FAST_ETHERNET, 100 * MS);
            scenario.start_within = SECOND / 5;
            let report = worst(&format!("{consumers} × 6 MB, 100 Mbit/s, within 0.2 s"), &scenario);

            assert_bars(&report);
            assert_fair(&report);
        }
    }

    #[test]
    fn a_hundred_consumers_do_not_starve_each_other() {
        let report = worst("100 × 2 MB, 1 MB/s, 10 ms", &Scenario::new(100, 2 * MB, MB, 10 * MS));

        assert_bars(&report);
        assert_fair(&report);
    }

    #[test]
    fn consumers_that_start_one_after_another_share_the_link() {
        let mut scenario = Scenario::new(24, 6 * MB, MB, 10 * MS);
        scenario.apart = Some(SECOND);
        let report = worst("24 × 6 MB, 1 MB/s, one a second", &scenario);

        assert_bars(&report);
    }

    /// Bytes in flight at the old rate take ten times as long at the new one.
    #[test]
    fn a_link_whose_rate_changes_is_neither_abandoned_nor_left_idle() {
        let mut scenario = Scenario::new(12, 6 * MB, MB, 10 * MS);
        scenario.changes = [(15, MB / 10), (75, MB), (85, 10 * MB), (86, MB), (95, MB / 10), (155, MB)]
            .map(|(at, rate)| (at * SECOND, Change::Rate(rate)))
            .to_vec();
        let report = worst("12 × 6 MB, 1 .1 1 10 1 .1 1 MB/s", &scenario);

        // By 155 s, the link has carried 56 MB.
        let ideal = Duration::from_secs(155 + 16);
        assert_eq!((report.failed, report.recoveries_max), (0, 0), "{report}");
        assert!(report.total < ideal * 23 / 20, "{report}");
        assert!(report.probe_max < 7 * SECOND, "{report}");
    }

    #[test]
    fn slow_disks_leave_the_link_to_others() {
        let mut scenario = Scenario::new(12, 3 * MB, MB, 10 * MS);
        scenario.write_rate = Some(30_000);
        let report = worst("12 × 3 MB, 6 disks of 30 KB/s", &scenario);

        assert_eq!((report.failed, report.recoveries_max), (0, 0), "{report}");
        assert!(report.total < 110 * SECOND, "{report}");
        assert!(report.probe_p99 < SECOND, "{report}");
    }

    #[test]
    fn a_lost_relay_costs_each_consumer_one_recovery() {
        for health in [Health::Dead, Health::Frozen] {
            let mut scenario = Scenario::new(12, 6 * MB, MB, 10 * MS);
            scenario.relays = 2;
            scenario.changes = vec![
                (Duration::ZERO, Change::Relay(1, Health::Dead)),
                (10 * SECOND, Change::Relay(1, Health::Up)),
                (20 * SECOND, Change::Relay(0, health)),
                // nats-server notices after a while that a frozen relay does not answer.
                (21 * SECOND, Change::Relay(0, Health::Dead)),
            ];
            let report = worst(&format!("12 × 6 MB, 1 MB/s, relay {health:?}"), &scenario);

            assert_bars(&report);
            assert_eq!(report.recoveries_max, 1, "{report}");
        }
    }

    /// A fast link gets whole chunks and few control messages, although the window starts small.
    #[test]
    fn a_fast_link_carries_whole_chunks_and_few_messages() {
        let report = worst("1 × 100 MB, 1 GB/s, 0.2 ms", &Scenario::new(1, 100 * MB, 1000 * MB, MS / 5));

        assert_bars(&report);
        assert!(report.total_over_ideal < 1.02, "{report}");
        assert!(report.chunks < 200 && report.controls < 110, "{report}");
    }

    /// A cold start costs two more round trips than a first window of 2 MiB.
    #[test]
    fn a_megabyte_on_a_fast_link_takes_three_round_trips() {
        let round_trip = MS / 5;
        let report = worst("1 × 1 MB, 1 GB/s, 0.2 ms", &Scenario::new(1, MB, 1000 * MB, round_trip));

        assert_eq!(report.failed, 0);
        assert!(report.total < MS + 3 * round_trip + round_trip / 2, "{report}");
    }
}
