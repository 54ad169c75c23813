//! `/cluster/overview`, `/cluster/events` and `/load`: all members as one node sees them, and the load of that node.
//!
//! See also: what the figures mean (`docs/monitoring.md`).

use hyper::Method;
use serde::Deserialize;

use super::api_methods::{parse_data, path};
use super::cluster_client::Client;
use super::failure::Failure;
use super::http_client::ApiRequest;
use super::retry::RequestKind;

/// A cluster as one node sees it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ClusterOverview {
    /// The node that has answered.
    pub asked: String,
    /// The leader that it knows.
    pub leader: Option<String>,
    /// The highest term of all members that answered it.
    pub term: u64,
    /// The number of voters.
    pub voters: u64,
    /// How many more voters may fail; None where writes have stopped or it is not known.
    pub failure_tolerance: Option<u64>,
    /// The same in words.
    pub tolerance: String,
    /// The members by name.
    pub members: Vec<MemberOverview>,
}

/// A member; None is what is not known.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct MemberOverview {
    /// Its name.
    pub name: String,
    /// `leader`, `follower`, `learner`, `candidate` or `unreachable`.
    pub role: String,
    /// The version of its huskv.
    pub version: Option<String>,
    /// Its term.
    pub term: Option<u64>,
    /// Its applied index.
    pub applied_index: Option<u64>,
    /// The entries that it lacks.
    pub lag_entries: Option<u64>,
    /// The last round trip from the node asked, in milliseconds.
    pub round_trip_ms: Option<f64>,
    /// The free bytes of its disk.
    pub disk_free_bytes: Option<u64>,
    /// The bytes of its disk.
    pub disk_total_bytes: Option<u64>,
    /// The seconds since its start.
    pub uptime_seconds: Option<u64>,
    /// Whether it takes requests.
    pub ready: Option<bool>,
    /// Why it takes none.
    pub not_ready: Option<ReasonOverview>,
    /// The address for clients.
    pub http_address: String,
    /// Whether it answered.
    pub reachable: bool,
    /// The snapshot that is sent to it now.
    pub snapshot: Option<TransferOverview>,
}

/// Why a member takes no requests.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ReasonOverview {
    /// For programs.
    pub code: String,
    /// For people.
    pub detail: String,
}

/// A snapshot on its way to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct TransferOverview {
    /// The bytes sent.
    pub bytes: u64,
    /// About the bytes that it will have.
    pub total_bytes: u64,
    /// The bytes a second.
    pub bytes_per_second: u64,
}

/// The load of a node.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct NodeLoad {
    /// The node that has answered.
    pub node: String,
    /// A point a second, the oldest first.
    pub points: Vec<LoadPoint>,
}

/// The load of a second; None where there was no request.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct LoadPoint {
    /// Its end, in seconds since 1970.
    pub at: u64,
    /// Requests that write keys.
    pub puts: u64,
    /// Requests that read keys.
    pub gets: u64,
    /// The median duration of the writes in milliseconds.
    pub put_p50_ms: Option<f64>,
    /// Their 99th percentile.
    pub put_p99_ms: Option<f64>,
    /// The median duration of the reads in milliseconds.
    pub get_p50_ms: Option<f64>,
    /// Their 99th percentile.
    pub get_p99_ms: Option<f64>,
    /// Syncs of the journal.
    pub syncs: u64,
}

/// The latest events of all members as one node has gathered them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ClusterEvents {
    /// The node that has answered.
    pub asked: String,
    /// The events by the clocks of their nodes, the oldest first.
    pub events: Vec<ClusterEvent>,
    /// The members whose events are not here.
    pub missing: Vec<String>,
}

/// An event of a member, without the fields of its kind.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ClusterEvent {
    /// The member.
    pub node: String,
    /// Its number since the start of that node.
    pub id: u64,
    /// The clock of that node, RFC 3339.
    pub at: String,
    /// The term of that node then.
    pub term: u64,
    /// What happened, such as `leader_changed`.
    pub kind: String,
    /// One sentence with all figures.
    pub detail: String,
}

impl Client {
    /// Reads all members as one of the endpoints sees them.
    ///
    /// # Errors
    /// As [`Client::get`]; `not_found` where the node is of an earlier version, `forbidden` without a token for figures.
    pub async fn overview(&self) -> Result<ClusterOverview, Failure> {
        let request = ApiRequest::new(Method::GET, "/cluster/overview");
        parse_data(RequestKind::Local, &self.send(RequestKind::Local, &request).await?)
    }

    /// Reads the latest events of all members, at most `limit`, from 1 to 1 000.
    ///
    /// # Errors
    /// As [`Client::overview`].
    pub async fn cluster_events(&self, limit: u32) -> Result<ClusterEvents, Failure> {
        let request = ApiRequest::new(Method::GET, path("/cluster/events", &[("limit", limit.to_string())]));
        parse_data(RequestKind::Local, &self.send(RequestKind::Local, &request).await?)
    }

    /// Reads the load of one of the endpoints over the last `seconds`, from 1 to 600.
    ///
    /// # Errors
    /// As [`Client::overview`].
    pub async fn load(&self, seconds: u32) -> Result<NodeLoad, Failure> {
        let request = ApiRequest::new(Method::GET, path("/load", &[("seconds", seconds.to_string())]));
        parse_data(RequestKind::Local, &self.send(RequestKind::Local, &request).await?)
    }
}
