//! The text of `huskv top`: the members, the tolerance, the load of the node asked, and the latest events of all.
//!
//! Invariants: a style repeats what a word says, and never says more. Control characters of names and details are escaped.
//!
//! See also: [`super::screen`], which draws it.

use crate::cli::kv::render::escape_control;
use crate::client::{ClusterEvent, ClusterEvents, ClusterOverview, LoadPoint, MemberOverview, NodeLoad};

/// The seconds of a sparkline.
pub(super) const SPARK_SECONDS: usize = 60;
/// The heights of a sparkline.
const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// What is not known.
const UNKNOWN: &str = "-";
/// The titles of the columns.
const TITLES: [&str; 10] = ["node", "role", "ready", "lag", "term", "applied", "rtt", "disk free", "up", "version"];
/// The columns with numbers, which are aligned to the right.
const NUMBERS: [usize; 4] = [3, 4, 5, 6];

/// How a line is shown, where there is more than text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// As it is.
    Plain,
    /// A title.
    Title,
    /// What is of less weight.
    Dim,
    /// What is well.
    Good,
    /// What needs a look.
    Bad,
}

/// A line of the view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) style: Style,
    pub(super) text: String,
}

/// What the view is made of; the last two are not there where the node does not know the question.
#[derive(Debug, Clone)]
pub(super) struct Answers {
    pub(super) overview: ClusterOverview,
    pub(super) load: Option<NodeLoad>,
    pub(super) events: Option<ClusterEvents>,
}

/// Returns the lines of the view; the events fill what is left of `height` lines.
pub(super) fn render(answers: &Answers, height: usize) -> Vec<Line> {
    let overview = &answers.overview;
    let leader = overview.leader.as_deref().unwrap_or("none");
    let head =
        format!("asked {}, leader {}, term {}", escape_control(&overview.asked), escape_control(leader), overview.term);
    let mut lines = vec![line(Style::Title, head), empty()];
    lines.extend(table(&overview.members));
    let is_safe = overview.failure_tolerance.is_some_and(|more| more > 0);
    let tolerance = escape_control(&overview.tolerance);
    lines.extend([empty(), line(if is_safe { Style::Good } else { Style::Bad }, tolerance)]);
    if let Some(load) = &answers.load {
        lines.push(empty());
        lines.extend(load_lines(load));
    }
    if let Some(events) = &answers.events {
        lines.push(empty());
        let room = height.saturating_sub(lines.len());
        lines.extend(event_lines(events).into_iter().take(room));
    }
    lines
}

pub(super) fn line(style: Style, text: impl Into<String>) -> Line {
    Line { style, text: text.into() }
}

fn empty() -> Line {
    line(Style::Plain, "")
}

fn table(members: &[MemberOverview]) -> Vec<Line> {
    let rows: Vec<_> = members.iter().map(columns).collect();
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).chain([TITLES[at].len()]).max().unwrap_or(0);
    let widths: [usize; 10] = std::array::from_fn(width);
    let aligned = |row: &[String; 10]| {
        let padded = row.iter().zip(widths).enumerate().map(|(at, (cell, width))| {
            if NUMBERS.contains(&at) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(Style::Title, aligned(&TITLES.map(str::to_owned)))];
    for (member, row) in members.iter().zip(&rows) {
        lines.push(line(if member.ready == Some(true) { Style::Plain } else { Style::Bad }, aligned(row)));
        lines.extend(details(member));
    }
    lines
}

fn columns(member: &MemberOverview) -> [String; 10] {
    let number = |value: Option<u64>| value.map_or(UNKNOWN.to_owned(), |value| value.to_string());
    let free = match (member.disk_free_bytes, member.disk_total_bytes) {
        (Some(free), Some(total)) => format!("{} of {}", size(free), size(total)),
        (Some(free), None) => size(free),
        (None, _) => UNKNOWN.to_owned(),
    };
    let ready = match (member.ready, &member.not_ready) {
        (Some(true), _) => "yes".to_owned(),
        (Some(false), Some(reason)) => format!("no: {}", escape_control(&reason.code)),
        (Some(false), None) => "no".to_owned(),
        (None, _) => UNKNOWN.to_owned(),
    };
    [
        escape_control(&member.name),
        escape_control(&member.role),
        ready,
        number(member.lag_entries),
        number(member.term),
        number(member.applied_index),
        member.round_trip_ms.map_or(UNKNOWN.to_owned(), |ms| format!("{ms:.1} ms")),
        free,
        member.uptime_seconds.map_or(UNKNOWN.to_owned(), span),
        member.version.as_deref().map_or(UNKNOWN.to_owned(), escape_control),
    ]
}

/// The lines below the row of a member: why it is not ready, and how far its snapshot is.
fn details(member: &MemberOverview) -> Vec<Line> {
    let reason = member.not_ready.as_ref().map(|reason| format!("  {}", escape_control(&reason.detail)));
    let snapshot = member.snapshot.map(|it| {
        let (bytes, total) = (size(it.bytes), size(it.total_bytes));
        format!("  receives a snapshot: {bytes} of about {total}, {}/s", size(it.bytes_per_second))
    });
    reason.into_iter().chain(snapshot).map(|text| line(Style::Dim, text)).collect()
}

fn load_lines(load: &NodeLoad) -> Vec<Line> {
    let latest = &load.points[load.points.len().saturating_sub(SPARK_SECONDS)..];
    let last = latest.last();
    let row = |title: &str, of: fn(&LoadPoint) -> u64, percentiles: String| {
        let values: Vec<u64> = latest.iter().map(of).collect();
        let now = values.last().copied().unwrap_or(0);
        let text = format!("{title:<6}{now:>8}  {}{percentiles}", sparkline(&values));
        line(Style::Plain, text)
    };
    let durations = |half: fn(&LoadPoint) -> Option<f64>, most: fn(&LoadPoint) -> Option<f64>| {
        let ms = |of: fn(&LoadPoint) -> Option<f64>| {
            last.and_then(of).map_or(UNKNOWN.to_owned(), |ms| format!("{ms:.1} ms"))
        };
        format!("  p50 {}, p99 {}", ms(half), ms(most))
    };
    let title = format!("load of {} a second, the last minute", escape_control(&load.node));
    vec![
        line(Style::Title, title),
        row("puts", |point| point.puts, durations(|point| point.put_p50_ms, |point| point.put_p99_ms)),
        row("gets", |point| point.gets, durations(|point| point.get_p50_ms, |point| point.get_p99_ms)),
        row("syncs", |point| point.syncs, String::new()),
    ]
}

/// The title, and an event a line, the newest first.
fn event_lines(events: &ClusterEvents) -> Vec<Line> {
    let missing: Vec<_> = events.missing.iter().map(|name| escape_control(name)).collect();
    let missing = if missing.is_empty() { String::new() } else { format!(", without those of {}", missing.join(", ")) };
    let mut lines = vec![line(Style::Title, format!("latest events, UTC{missing}"))];
    lines.extend(events.events.iter().rev().map(event_line));
    lines
}

fn event_line(event: &ClusterEvent) -> Line {
    // `2026-11-29T20:50:01.000Z`
    let at = event.at.get(11..19).unwrap_or(&event.at);
    let text = format!("{at} {} {}: {}", event.node, event.kind, event.detail);
    line(if event.kind == "checkpoint" { Style::Dim } else { Style::Plain }, escape_control(&text))
}

/// Draws values as bars, the largest of which is the highest.
fn sparkline(values: &[u64]) -> String {
    let most = values.iter().copied().max().unwrap_or(0).max(1);
    let steps = HEIGHTS.len() - 1;
    let height = |value: u64| usize::try_from(u128::from(value) * steps as u128 / u128::from(most)).unwrap_or(steps);
    values.iter().map(|value| HEIGHTS[height(*value).min(steps)]).collect()
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut at, mut tenths) = (0, bytes.saturating_mul(10));
    while tenths >= 10_240 && at + 1 < UNITS.len() {
        tenths /= 1024;
        at += 1;
    }
    if at == 0 { format!("{bytes} B") } else { format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[at]) }
}

fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, ..) => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answers() -> Answers {
        let member = |name: &str| {
            json!({"name": name, "role": "follower", "version": "0.5.0", "term": 4, "applied_index": 90, "lag_entries": 0,
                "round_trip_ms": 1.25, "disk_free_bytes": 3_u64 << 30, "disk_total_bytes": 8_u64 << 30, "uptime_seconds": 3_700,
                "ready": true, "not_ready": null, "http_address": "h:1", "reachable": true, "snapshot": null})
        };
        let mut late = member("node3");
        late["ready"] = false.into();
        late["not_ready"] = json!({"code": "no_leader", "detail": "none\u{1b}[2J"});
        late["snapshot"] = json!({"bytes": 10_240, "total_bytes": 20_480, "bytes_per_second": 512});
        let gone = json!({"name": "node4", "role": "unreachable", "http_address": "h:4", "reachable": false});
        let overview = json!({"asked": "node2", "leader": null, "term": 4, "voters": 4, "failure_tolerance": 0,
            "tolerance": "no node may fail: node4 does not answer", "members": [member("node2"), late, gone]});
        let point =
            |puts: u64| json!({"at": 1, "puts": puts, "gets": 0, "put_p50_ms": 1.5, "put_p99_ms": 9.0, "syncs": 3});
        let event = |second: u64, kind: &str| {
            json!({"node": "node2", "id": second, "at": format!("2026-11-29T20:50:0{second}.000Z"), "term": 4, "kind": kind,
                "detail": "a\nb", "index": 1})
        };
        Answers {
            overview: serde_json::from_value(overview).unwrap(),
            load: serde_json::from_value(json!({"node": "node2", "points": [point(0), point(7), point(14)]})).unwrap(),
            events: serde_json::from_value(json!({"asked": "node2", "missing": ["node4"],
                "events": [event(1, "peer_lost"), event(2, "checkpoint")]}))
            .unwrap(),
        }
    }

    #[test]
    fn a_view_has_members_tolerance_load_and_events() {
        let lines = render(&answers(), 100);
        let text: Vec<_> = lines.iter().map(|line| line.text.as_str()).collect();
        let expected = [
            "asked node2, leader none, term 4",
            "",
            "node   role         ready          lag  term  applied     rtt  disk free           up    version",
            "node2  follower     yes              0     4       90  1.2 ms  3.0 GiB of 8.0 GiB  1h1m  0.5.0",
            "node3  follower     no: no_leader    0     4       90  1.2 ms  3.0 GiB of 8.0 GiB  1h1m  0.5.0",
            "  none\\u{1b}[2J",
            "  receives a snapshot: 10.0 KiB of about 20.0 KiB, 512 B/s",
            "node4  unreachable  -                -     -        -       -  -                   -     -",
            "",
            "no node may fail: node4 does not answer",
            "",
            "load of node2 a second, the last minute",
            "puts        14  ▁▄█  p50 1.5 ms, p99 9.0 ms",
            "gets         0  ▁▁▁  p50 -, p99 -",
            "syncs        3  ███",
            "",
            "latest events, UTC, without those of node4",
            "20:50:02 node2 checkpoint: a\\nb",
            "20:50:01 node2 peer_lost: a\\nb",
        ];
        assert_eq!(text, expected);
        assert_eq!([3, 4, 7, 9].map(|at| lines[at].style), [Style::Plain, Style::Bad, Style::Bad, Style::Bad]);
        assert_eq!(render(&answers(), 18).len(), 18, "the newest events that there is room for");
        let bare = Answers { load: None, events: None, ..answers() };
        assert_eq!(render(&bare, 100).len(), 10);
    }

    #[test]
    fn sizes_and_spans_are_short() {
        assert_eq!([0, 1_023, 1_024, u64::MAX].map(size), ["0 B", "1023 B", "1.0 KiB", "1677721.5 TiB"]);
        assert_eq!([0, 59, 61, 7_260, 90_000].map(span), ["0s", "59s", "1m1s", "2h1m", "1d1h"]);
        assert_eq!((sparkline(&[]), sparkline(&[u64::MAX, 0]).as_str()), (String::new(), "█▁"));
    }
}
