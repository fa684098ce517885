use std::collections::BTreeMap;
use std::time::Duration;

use gantry_store::Observe as _;
use gantry_store::shared::{Observe as _, Report};
use prometheus_client::registry::Registry;

use super::*;

/// Uses every metric once, so that the page contains all of them.
fn page() -> String {
    let mut registry = Registry::default();
    let reserved = Sampled::new(|| 7);
    let facts = Facts {
        protocol: 1,
        memory_budget_bytes: 9,
        memory_reserved_bytes: reserved,
        log_lines_dropped: Sampled::new(|| 0),
    };
    let metrics = RelayMetrics::register(&mut registry, facts);
    let store = || "s".to_owned();
    metrics.transfers.get_or_create(&OutcomeLabel { store: store(), outcome: "completed" }).inc();
    metrics.requests.get_or_create(&RequestLabel { operation: "get", store: store(), result: "ok" }).inc();
    metrics.refuse("busy");
    metrics.add_store("s");
    metrics.transfer("s").first_byte.observe(0.1);
    metrics.store_up.get_or_create(&StoreLabel { store: store() }).set(1);
    metrics.reloads.get_or_create(&ResultLabel { result: "ok" }).inc();
    metrics.s3.of_store("s").request_ended("get", "ok", Duration::from_millis(1));
    metrics.s3.shared.of_store("s").record(Report::Hit);
    drop(metrics.s3.cache.of_store("s"));

    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    text
}

#[test]
fn the_page_matches_the_documented_metrics() {
    let page = page();
    let mut shown = BTreeMap::new();

    for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        shown.insert(name.to_owned(), kind.to_owned());
    }

    let mut documented = BTreeMap::new();
    for spec in all() {
        let full = spec.full_name();
        let (family, kind) = match spec.kind {
            Kind::Counter => (full.strip_suffix("_total").unwrap(), "counter"),
            Kind::Gauge => (full.as_str(), "gauge"),
            Kind::Histogram => (full.as_str(), "histogram"),
            Kind::Info => (full.strip_suffix("_info").unwrap(), "info"),
        };
        documented.insert(family.to_owned(), kind.to_owned());
        let series: Vec<_> = page.lines().filter(|line| line.starts_with(&full)).collect();
        assert!(!series.is_empty(), "{full} is not on the page:\n{page}");
        for line in series {
            let labels = line.split_once('{').map_or("", |(_, rest)| rest.split('}').next().unwrap());
            let labels: Vec<_> = labels.split(',').filter_map(|label| label.split('=').next()).collect();
            let labels: Vec<_> = labels.into_iter().filter(|label| !["", "le"].contains(label)).collect();
            assert_eq!(labels, spec.labels, "{line}");
        }
    }

    assert_eq!(shown, documented);
}

#[test]
fn the_documentation_contains_the_table() {
    let page = include_str!("../../../../docs/METRICS.md");
    let table = table();
    assert!(page.contains(&table), "docs/METRICS.md must contain this table:\n{table}");
}

/// Returns the page of a relay that has not counted anything.
fn fresh_page() -> String {
    let mut registry = Registry::default();
    let facts = Facts {
        protocol: 1,
        memory_budget_bytes: 9,
        memory_reserved_bytes: Sampled::new(|| 0),
        log_lines_dropped: Sampled::new(|| 0),
    };
    let metrics = RelayMetrics::register(&mut registry, facts);
    metrics.add_store("s");
    drop(metrics.s3.of_store("s"));
    drop(metrics.s3.shared.of_store("s"));
    drop(metrics.s3.cache.of_store("s"));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    text
}

#[test]
fn every_counter_starts_at_zero() {
    let page = fresh_page();
    for spec in all().filter(|spec| spec.kind == Kind::Counter) {
        let name = spec.full_name();
        assert!(page.lines().any(|line| line.starts_with(&name)), "{name} is missing before its first event:\n{page}");
    }
    for series in [
        "gantry_reloads_total{result=\"failed\"} 0",
        "gantry_refused_total{reason=\"reply_subject\"} 0",
        "gantry_refused_total{reason=\"busy\"} 0",
        "gantry_transfers_total{store=\"s\",outcome=\"store_unavailable\"} 0",
        "gantry_requests_total{operation=\"get\",store=\"s\",result=\"denied\"} 0",
        "gantry_s3_requests_total{store=\"s\",operation=\"get\",result=\"store_unavailable\"} 0",
    ] {
        assert!(page.lines().any(|line| line == series), "{series} is not on the page:\n{page}");
    }
}

#[test]
fn queued_transfers_count_until_their_guard_is_dropped() {
    let metrics = RelayMetrics::default();
    let one = metrics.queue();
    let two = metrics.queue();
    drop(one);
    assert_eq!(metrics.transfers_queued.get(), 1);
    drop(two);
    assert_eq!(metrics.transfers_queued.get(), 0);
}

#[test]
fn counters_of_one_store_are_shared() {
    let metrics = RelayMetrics::default();
    metrics.transfer("s").sent_bytes.inc_by(3);
    metrics.transfer("s").sent_bytes.inc_by(4);
    assert_eq!(metrics.sent_bytes.get_or_create(&StoreLabel { store: "s".to_owned() }).get(), 7);
}
