//! What a node reports of itself to another member, to be shown.
//!
//! Why: an operator asks one node how the cluster is, and only each node itself knows its disk, its version and why it is not ready.
//!
//! Invariants: nothing is decided by a report. A received one is bounded and printable ([`NodeReport::check`]). It is encoded by
//! [`crate::model::codec`]; a node that cannot decode it shows no figures.
//!
//! See also: `transport::rpc::member_reports` (the question), `http::metrics::overview` (the answer).

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The maximum bytes of a version.
const VERSION_BYTES: usize = 64;
/// The maximum bytes of a code.
const CODE_BYTES: usize = 64;
/// The maximum bytes of a detail.
pub const DETAIL_BYTES: usize = 1_024;
/// The maximum members in a report.
pub const REPORTED_MEMBERS: usize = 256;

/// The role of a node in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportedRole {
    /// It leads.
    Leader,
    /// It follows, or has no leader.
    Follower,
    /// It follows without a vote.
    Learner,
    /// It stands for election.
    Candidate,
}

/// The report of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// The version of its huskv.
    pub version: String,
    /// Its role.
    pub role: ReportedRole,
    /// Its term.
    pub term: u64,
    /// The last index of its log.
    pub last_index: u64,
    /// Its applied index.
    pub applied_index: u64,
    /// The free bytes of its disk.
    pub disk_free_bytes: Option<u64>,
    /// The bytes of its disk.
    pub disk_total_bytes: Option<u64>,
    /// The seconds since its process started.
    pub uptime_seconds: u64,
    /// Code and detail of why it takes no requests; None if it does.
    pub not_ready: Option<(String, String)>,
    /// What only a leader knows.
    pub leads: Option<LeaderReport>,
    /// The snapshot streams that it sends.
    pub transfers: Vec<TransferReport>,
}

/// What a leader knows of its followers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderReport {
    /// How many more voters may fail.
    pub failure_tolerance: u64,
    /// The other members: raft id and match index.
    pub matched: Vec<(u64, u64)>,
}

/// A snapshot stream under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferReport {
    /// The raft id of the receiver.
    pub to: u64,
    /// The bytes sent.
    pub bytes: u64,
    /// About the bytes that it will have.
    pub total_bytes: u64,
    /// The bytes a second.
    pub bytes_per_second: u64,
}

/// What a member said to a question: for its report, or for its latest events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked<T = NodeReport> {
    /// What it was asked for.
    Answered(Box<T>),
    /// It is there, but has none: it starts, or its version does not know the question.
    WithoutReport,
    /// Nothing in time.
    NoAnswer,
}

/// A member as another one has found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskedMember<T = NodeReport> {
    /// Its raft id.
    pub raft_id: u64,
    /// The last round trip between the two nodes; None before the first.
    pub round_trip: Option<Duration>,
    /// What it said.
    pub asked: Asked<T>,
}

impl NodeReport {
    /// Checks that a received report is bounded and printable.
    ///
    /// # Errors
    /// What is wrong with it, for the log.
    pub fn check(&self) -> Result<(), &'static str> {
        let is_text = |text: &str, most| text.len() <= most && !text.chars().any(char::is_control);
        let (code, detail) = self.not_ready.as_ref().map_or(("", ""), |(code, detail)| (code, detail));
        if !is_text(&self.version, VERSION_BYTES) || !is_text(code, CODE_BYTES) || !is_text(detail, DETAIL_BYTES) {
            return Err("a text that is too long or not printable");
        }
        let matched = self.leads.as_ref().map_or(0, |leads| leads.matched.len());
        if matched > REPORTED_MEMBERS || self.transfers.len() > REPORTED_MEMBERS {
            return Err("more members than a report has");
        }
        Ok(())
    }

    /// Returns a text that fits into a report: printable, and at most `DETAIL_BYTES` long.
    #[must_use]
    pub fn clip(text: &str) -> String {
        let mut clipped: String = text.chars().filter(|char| !char.is_control()).collect();
        clipped.truncate(clipped.floor_char_boundary(DETAIL_BYTES));
        clipped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> NodeReport {
        NodeReport {
            version: "1.2.3".into(),
            role: ReportedRole::Leader,
            term: 1,
            last_index: 2,
            applied_index: 2,
            disk_free_bytes: Some(1 << 40),
            disk_total_bytes: None,
            uptime_seconds: 3,
            not_ready: Some(("no_leader".into(), NodeReport::clip(&"long\n".repeat(1_000)))),
            leads: Some(LeaderReport { failure_tolerance: 1, matched: vec![(1, 2); REPORTED_MEMBERS] }),
            transfers: vec![],
        }
    }

    #[test]
    fn a_report_is_bounded_and_printable() {
        assert_eq!(report().check(), Ok(()));
        let mut long = report();
        long.version = "v".repeat(65);
        let mut control = report();
        control.not_ready = Some(("a\u{1b}[2J".into(), String::new()));
        let mut many = report();
        many.leads = Some(LeaderReport { failure_tolerance: 0, matched: vec![(1, 2); REPORTED_MEMBERS + 1] });
        for bad in [long, control, many] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_clipped_text_ends_at_a_character() {
        assert_eq!(NodeReport::clip("a\tb\u{7f}"), "ab");
        let clipped = NodeReport::clip(&"\u{e4}".repeat(DETAIL_BYTES));
        assert_eq!(clipped.len(), DETAIL_BYTES);
        let odd = NodeReport::clip(&format!("a{}", "\u{e4}".repeat(DETAIL_BYTES)));
        assert_eq!(odd.len(), DETAIL_BYTES - 1);
    }
}
