//! The sections of the settings, as they stand in the file.
//!
//! See also: [`super::keys`] (their keys, bounds and defaults), [`super::tls`] (that of certificates).

use std::path::PathBuf;

use ipnet::IpNet;

/// `[server]`: the HTTP port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Server {
    /// The HTTP port; 0: picked and stored at the first start.
    pub port: u16,
    /// The advertised HTTP port; 0: the bound one.
    pub advertise_port: u16,
}

/// `[raft]`: name, peer port, directory and timing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Raft {
    /// The node's name.
    pub node_id: String,
    /// The address that the peer port binds, without brackets; never empty once checked.
    pub host: String,
    /// The host that peers dial, without brackets: `advertise_host`, or else the address above.
    pub advertise_host: String,
    /// The peer port; 0: picked and stored at the first start.
    pub port: u16,
    /// The advertised peer port; 0: the bound one.
    pub advertise_port: u16,
    /// The data directory; once checked, with the name in it.
    pub vol_dir: PathBuf,
    /// The length of a tick in milliseconds.
    pub tick_ms: u64,
    /// Ticks between two heartbeats.
    pub heartbeat_ticks: u64,
    /// Ticks without contact to a leader until a follower campaigns.
    pub election_ticks: u64,
}

/// `[network]`: what is open to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// Whether ports without TLS may be bound beyond loopback.
    pub insecure: bool,
}

/// `[cluster]`: trust between members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Whether peers dial a member at the address that it reports itself.
    pub follow_moves: bool,
}

/// `[snapshot]`: checkpoints and snapshot streams.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Entries between two checkpoints.
    pub every_entries: u64,
    /// Bytes of log between two checkpoints.
    pub every_bytes: u64,
    /// Entries kept behind a checkpoint.
    pub keep_entries: u64,
    /// The maximum size of a spool file in MiB.
    pub spool_mb: u64,
    /// The maximum rate of a snapshot stream in MiB a second; 0: unbounded.
    pub mb_per_second: u64,
}

/// `[storage]`: cache and disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Storage {
    /// The tree's cache in MiB; 0: derived from the memory.
    pub cache_mb: u64,
    /// The memtables in MiB; 0: derived from the memory.
    pub memtable_mb: u64,
    /// Disk space to leave free in MiB; None: derived from the disk.
    pub reserve_mb: Option<u64>,
}

/// `[limits]`: bounds of memory and requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// The node's memory in MiB; 0: derived from the limits of the system.
    pub memory_mb: u64,
    /// The maximum size of a key in bytes.
    pub key_bytes: u64,
    /// The maximum size of a value in bytes.
    pub value_bytes: u64,
    /// The maximum size of a body in bytes.
    pub body_bytes: u64,
    /// The maximum number of pending requests.
    pub pending_requests: u64,
    /// The maximum number of watchers.
    pub watchers: u64,
    /// The number of events in the change feed.
    pub watch_events: u64,
    /// The maximum memory of the change feed in MiB; 0: derived from the memory.
    pub watch_mb: u64,
    /// The default timeout of requests in milliseconds.
    pub request_timeout_ms: u64,
    /// Requests per second of one caller; 0: no limit.
    pub requests_per_second: u64,
    /// Requests of one caller at once; 0: as many as per second.
    pub request_burst: u64,
}

/// `[http]`: browsers and connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Http {
    /// Origins whose web pages may send requests, in lower case.
    pub allowed_origins: Vec<String>,
    /// Accepted values of the Host header, in lower case; `*` is any.
    pub allowed_hosts: Vec<String>,
    /// The proxies whose X-Forwarded-For is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// The idle timeout of a connection in milliseconds.
    pub idle_timeout_ms: u64,
    /// How long a client may be slower than the minimum rate, in milliseconds.
    pub rate_grace_ms: u64,
    /// The port for figures and probes; 0: none.
    pub metrics_port: u16,
    /// How long requests are still served once the node has been asked to stop, in milliseconds.
    pub drain_ms: u64,
}

/// `[auth]`: what clients need.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Auth {
    /// The token file; None where requests need no token.
    pub tokens: Option<PathBuf>,
}

/// `[audit]`: the record of what clients changed, or were refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Audit {
    /// The file; empty for none.
    pub file: PathBuf,
}

/// `[ui]`: the page for browsers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ui {
    /// Whether it is served.
    pub enabled: bool,
}

/// `[log]`: the log on stderr.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Log {
    /// The least severe level to log, in lower case.
    pub level: String,
    /// `terminal` or `json`.
    pub format: String,
}
