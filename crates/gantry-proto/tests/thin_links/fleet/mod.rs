//! A fleet: a store, relays at a hub, and sites of devices behind thin links, with and without edge relays.
//!
//! Every download is a real `Receiver`, and every transfer a real `Sender`: those of the devices, and those between edge
//! relays and the hub. `make fleet` runs 1,000 sites of 100 devices; `docs/BENCHMARKS.md` has the assumptions and the
//! results.
//!
//! | module | concern |
//! |---|---|
//! | `plan` | the numbers of a fleet |
//! | `world` | consumers, links and other traffic |
//! | `relays` | how relays open the object, and where its bytes come from |
//! | `questions` | descriptions that several wait for |
//! | `hub`, `site` | what the relays at the hub and at a site have |
//! | `fifo`, `events` | links and the clock |
//! | `report` | the results |

mod events;
mod fifo;
mod hub;
mod plan;
mod questions;
mod relays;
mod report;
mod site;
mod world;

use std::time::Duration;

use self::plan::Plan;
use self::report::Report;
use self::world::World;

const MB: u64 = 1_000_000;

/// 2, 5, 10 and 100 Mbit/s, in bytes per second.
const MIXED_RATES: [u64; 4] = [250_000, 625_000, 1_250_000, 12_500_000];

fn run(name: &str, plan: &Plan) -> Report {
    let report = World::run(plan, 1);
    println!("{name:60} {report}");
    report
}

#[test]
fn an_edge_relay_carries_an_object_across_its_link_once() {
    for shares_reads in [true, false] {
        let mut plan = Plan::new(4, 25, true, 2 * MB);
        plan.shares_reads = shares_reads;
        let report = run(&format!("4 × 25, 2 MB, edge relays, shared reads {shares_reads}"), &plan);

        assert_eq!((report.failed, report.recoveries), (0, 0), "{report}");
        assert!(report.busiest_link_bytes < 1.02, "{report}");
        assert!(report.last < Duration::from_secs(7), "{report}");
        assert!(report.store_bytes <= 4.001, "{report}");
    }
}

#[test]
fn shared_reads_ask_the_store_once_per_relay() {
    let mut plan = Plan::new(4, 25, false, 2 * MB);
    for (shares_reads, most) in [(true, 4.0), (false, 110.0)] {
        plan.shares_reads = shares_reads;
        let report = run(&format!("4 × 25, 2 MB, no edge relays, shared reads {shares_reads}"), &plan);

        assert_eq!(report.failed, 0, "{report}");
        assert!(report.store_bytes <= most, "{report}");
        assert!((100.0..105.0).contains(&report.egress_bytes), "{report}");
        assert!(report.last < Duration::from_secs(46), "{report}");
        assert!(report.probe_p99 < Duration::from_secs(1), "{report}");
    }
}

/// The counterpart of `tests/field/edge.py`, where the link carried 1.0029 to 1.0038 times the object.
#[test]
fn an_edge_relay_serves_fifty_devices_as_measured() {
    let mut plan = Plan::new(1, 50, true, 10 * MB);
    plan.round_trip = Duration::from_millis(1);
    plan.starts_within = Duration::from_millis(500);
    let report = run("1 × 50, 10 MB, edge relay, as edge.py", &plan);

    assert_eq!((report.failed, report.recoveries), (0, 0), "{report}");
    assert!((1.002..1.01).contains(&report.busiest_link_bytes), "{report}");
    assert!(report.last < Duration::from_millis(8000 * 21 / 20), "{report}");
}

/// The counterpart of `tests/field/thin_leaf.py`.
#[test]
fn a_site_without_an_edge_relay_shares_its_link_as_measured() {
    let mut plan = Plan::new(1, 24, false, 6 * MB);
    plan.rates = vec![MB];
    plan.round_trip = Duration::from_millis(1);
    plan.starts_within = Duration::from_millis(500);
    plan.hub_relays = 1;
    let report = run("1 × 24, 6 MB, 1 MB/s, no edge relay, as thin_leaf.py", &plan);

    assert_eq!((report.failed, report.recoveries), (0, 0), "{report}");
    assert!(report.last < Duration::from_secs(144 * 23 / 20), "{report}");
    assert!(report.probe_p99 < Duration::from_secs(1), "{report}");
}

/// Runs a plan of `docs/BENCHMARKS.md`.
fn run_fleet(name: &str, plan: &Plan) -> Report {
    let with = if plan.has_edges { "edge relays" } else { "no edge relays" };
    run(&format!("{} × {}, {} MB, {with}, {name}", plan.sites, plan.devices, plan.size / MB), plan)
}

#[test]
#[ignore = "takes minutes: make fleet"]
fn a_thousand_sites_with_edge_relays() {
    let report = run_fleet("10 Mbit/s", &Plan::new(1000, 100, true, 6 * MB));

    assert_eq!((report.failed, report.recoveries), (0, 0), "{report}");
    assert!(report.store_bytes <= 4.001, "{report}");
    assert!(report.busiest_link_bytes < 1.02, "{report}");
    assert!(report.last < Duration::from_secs(9), "{report}");
}

/// The object is smaller, because each link carries it a hundred times.
#[test]
#[ignore = "takes many minutes: make fleet"]
fn a_thousand_sites_without_edge_relays() {
    let report = run_fleet("10 Mbit/s", &Plan::new(1000, 100, false, MB));

    assert_eq!(report.failed, 0, "{report}");
    assert!(report.store_bytes <= 4.001, "{report}");
    assert!(report.egress_bytes > 100_000.0, "{report}");
}

/// Other links, an egress of 1 Gbit/s for 1,000 sites, and relays that do not share reads.
#[test]
#[ignore = "takes minutes: make fleet"]
fn twenty_sites() {
    for (has_edges, size) in [(true, 6 * MB), (false, 6 * MB), (false, MB)] {
        let plan = Plan::new(20, 100, has_edges, size);
        let mixed = Plan { rates: MIXED_RATES.to_vec(), ..plan.clone() };
        let thin = Plan { egress_rate: 2_500_000, ..plan.clone() };
        let own = Plan { shares_reads: false, ..plan.clone() };

        let mut plans = vec![("10 Mbit/s", plan)];
        if has_edges || size == MB {
            plans.extend([("mixed links", mixed), ("thin egress", thin), ("own reads", own)]);
        }
        for (name, plan) in plans {
            let report = run_fleet(name, &plan);
            let copies = if has_edges { plan.sites } else { plan.sites * plan.devices };
            assert!(report.egress_bytes > copies as f64, "{report}");
        }
    }
}
