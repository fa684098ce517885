//! Decides whether a consumer has followed the rules, by its exit code, its file and its messages.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::case::{Check, Expect, Level, Stage};
use super::process::Ended;
use super::scene::{Controlled, ETAG, Heard, IDLE, Scene, VERSION_ID};

/// The tolerance for a message that is later than expected.
const SLACK: Duration = Duration::from_millis(250);

/// Returns every rule that was broken.
pub(super) fn problems(scene: &Scene, level: Level, ended: &Ended, file: &Path) -> Vec<String> {
    let heard = scene.heard.borrow().clone();
    let mut problems = heard.problems.clone();

    problems.extend(end(scene, level, ended, file));
    problems.extend(control_messages(scene, &heard));
    if level >= Level::Resuming {
        problems.extend(recoveries(&heard));
    }
    problems.extend(scene.case.checks.iter().filter_map(|check| check_problem(*check, &heard, level)));
    problems.dedup();
    problems
}

/// Compares how the consumer ended, and its file.
fn end(scene: &Scene, level: Level, ended: &Ended, file: &Path) -> Option<String> {
    let (code, printed) = match ended {
        Ended::Exited { code, printed } => (*code, printed),
        Ended::TimedOut => return Some("did not end in time".to_owned()),
        Ended::NotStarted(reason) => return Some(format!("could not be started: {reason}")),
    };

    let content = std::fs::read(file).ok();
    let is_complete = content.as_deref() == Some(&scene.bytes[..]);
    let is_failure = code != Some(0);
    if !is_failure && !is_complete {
        let has = content.map_or("no file".to_owned(), |content| format!("a file of {} bytes", content.len()));
        return Some(format!("exited with 0, but left {has} instead of the object"));
    }

    let must_fail = match scene.case.expect {
        Expect::File => false,
        Expect::Failure => true,
        Expect::Recovery => level == Level::Bare,
        Expect::Tolerance if level > Level::Bare => false,
        Expect::Tolerance | Expect::NoWrongFile => return None,
    };
    if must_fail && !is_failure {
        return Some("exited with 0 instead of a failure".to_owned());
    }

    let requests = scene.heard.borrow().requests.len();
    if requests == 0 && scene.case.stage != Stage::Empty {
        return Some(format!("sent no request: {printed}"));
    }
    if scene.case.expect == Expect::Recovery && !must_fail && !is_failure && requests < 2 {
        return Some("ended with the file, but did not notice what was wrong with the first transfer".to_owned());
    }
    if must_fail && level >= Level::Full && content.is_some() {
        return Some("gave the file its final name, although the download failed".to_owned());
    }
    (!must_fail && is_failure).then(|| format!("failed: {printed}"))
}

/// Compares each control message with the rules that hold at every level.
fn control_messages(scene: &Scene, heard: &Heard) -> Vec<String> {
    let mut problems = Vec::new();
    for Controlled { transfer, reply, control, .. } in &heard.controls {
        let Some(requested) = heard.requests.iter().find(|requested| Some(requested.transfer) == *transfer) else {
            problems.push("sent a control message for a transfer that was never accepted".to_owned());
            continue;
        };

        if reply.as_ref() != Some(&requested.inbox) {
            problems.push(format!("sent a control message with the reply subject {reply:?}"));
        }
        if requested.request.window.is_some() && control.written > scene.bytes.len() as u64 {
            problems.push(format!("reported {} written bytes of {}", control.written, scene.bytes.len()));
        }
    }
    problems
}

/// Compares further requests with the first one, and with what the consumer had received.
fn recoveries(heard: &Heard) -> Vec<String> {
    let mut problems = Vec::new();
    for (earlier, requested) in heard.requests.iter().zip(heard.requests.iter().skip(1)) {
        let request = &requested.request;
        if heard.requests.iter().filter(|other| other.inbox == requested.inbox).count() > 1 {
            problems.push("used a delivery subject for more than one request".to_owned());
        } else if !heard.gone.contains(&earlier.transfer) {
            problems.push("did not unsubscribe from the previous delivery subject".to_owned());
        }
        if request.start > requested.delivered {
            problems.push(format!(
                "requested the rest from offset {}, but had received {} bytes",
                request.start, requested.delivered
            ));
        }
        if requested.is_pinned {
            let pin = (request.pin.if_match.as_deref(), request.pin.version_id.as_deref());
            if pin != (Some(ETAG), Some(VERSION_ID)) {
                problems.push(format!("requested the rest with `if_match` and `version_id` {pin:?}"));
            }
        }
    }
    problems.dedup();
    problems
}

fn check_problem(check: Check, heard: &Heard, level: Level) -> Option<String> {
    let requests = heard.requests.len();
    let second_after = || heard.requests.get(1).map(|second| second.at - heard.requests[0].at);

    match check {
        Check::Requests(expected) => {
            (requests != expected).then(|| format!("sent {requests} requests instead of {expected}"))
        }
        Check::ResumesExactly if level >= Level::Resuming => heard
            .requests
            .iter()
            .skip(1)
            .find(|requested| requested.request.start != requested.delivered)
            .map(|wrong| format!("requested the rest from {} instead of {}", wrong.request.start, wrong.delivered)),
        Check::WaitsBeforeRetry(ms) if level >= Level::Resuming => {
            let waited = second_after()?;
            (waited + SLACK / 5 < Duration::from_millis(ms))
                .then(|| format!("sent the next request after {} ms instead of {ms}", waited.as_millis()))
        }
        Check::RetriesWithin(ms) if level >= Level::Resuming => {
            let Some(waited) = second_after() else { return Some("sent no further request".to_owned()) };
            (waited > Duration::from_millis(ms))
                .then(|| format!("sent the next request only after {} ms, later than {ms}", waited.as_millis()))
        }
        Check::SpacesRetries if level >= Level::Resuming => spacing(heard),
        Check::ControlsAtMost(most) => {
            let count = heard.controls.len();
            (count > most).then(|| format!("sent {count} control messages, more than {most}"))
        }
        Check::Probes => {
            let probes = heard.controls.iter().any(|control| control.control.probe);
            (!probes).then(|| "sent no control message with `probe`".to_owned())
        }
        Check::KeepsAlive => keep_alive(heard),
        Check::Cancels if level >= Level::Resuming => {
            let first = heard.requests.first()?.transfer;
            let cancels = |control: &Controlled| control.transfer == Some(first) && control.control.cancel;
            (!heard.controls.iter().any(cancels)).then(|| "did not cancel the transfer".to_owned())
        }
        Check::ResumesExactly
        | Check::WaitsBeforeRetry(_)
        | Check::RetriesWithin(_)
        | Check::SpacesRetries
        | Check::Cancels => None,
    }
}

/// Compares the pauses between requests without progress: about 100 ms, doubling, with jitter.
fn spacing(heard: &Heard) -> Option<String> {
    let first = heard.requests.get(1)?.at;
    let last = heard.requests.last()?.at;
    let pauses = u32::try_from(heard.requests.len()).unwrap_or(u32::MAX).saturating_sub(2);

    // Even with the shortest jitter, the doubled pauses add up to more than this.
    let least = Duration::from_millis(50) * pauses * pauses.max(1) / 2;
    let took = last - first;
    (took < least).then(|| format!("sent {pauses} requests without progress within {} ms", took.as_millis()))
}

/// Compares the gaps between control messages with the promise of the request.
fn keep_alive(heard: &Heard) -> Option<String> {
    let requested = heard.requests.first()?;
    if !requested.request.keeps_alive {
        return None;
    }

    let mut previous: Instant = requested.at;
    for control in heard.controls.iter().filter(|control| control.transfer == Some(requested.transfer)) {
        let gap = control.at - previous;
        if gap > IDLE {
            return Some(format!("sent no control message for {} ms, despite `keeps_alive`", gap.as_millis()));
        }
        previous = control.at;
    }
    (heard.controls.is_empty()).then(|| "sent no control message, despite `keeps_alive`".to_owned())
}
