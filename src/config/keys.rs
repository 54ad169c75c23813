//! The one table of settings: what can be set, within which bounds, and why one would.
//!
//! Why: the keys of the file, the variables, the flags and the help are all made from this table, so they cannot drift
//! apart. A test holds `config/huskv.toml` equal to it.
//!
//! Laws: the variable and the flag follow from the path (`raft.tick_ms`, `HUSKV_RAFT_TICK_MS`, `--raft-tick-ms`); a
//! short variable is a second spelling of the same key. Every default passes its own check.
//!
//! Not here: where values come from and who wins ([`crate::config`]), and rules between two settings (`check`).

use super::Config;
use super::check;

/// What a setting looks like, its own bounds, and where it goes.
pub enum Kind {
    /// A whole number from `min` to `max`.
    Number {
        /// The least value.
        min: u64,
        /// The greatest value.
        max: u64,
        /// Stores it.
        set: fn(&mut Config, u64),
    },
    /// A whole number from `min` to `max`, or `auto` for one that the node finds out for itself.
    NumberOrAuto {
        /// The least value.
        min: u64,
        /// The greatest value.
        max: u64,
        /// Stores it; None for `auto`.
        set: fn(&mut Config, Option<u64>),
    },
    /// A port, 0 to 65535; what 0 means, the help says.
    Port(
        /// Stores it.
        fn(&mut Config, u16),
    ),
    /// Either `true` or `false`.
    Switch(
        /// Stores it.
        fn(&mut Config, bool),
    ),
    /// A text; an empty one is allowed only where the default is empty.
    Text {
        /// Says what is wrong with it.
        check: fn(&str) -> Result<(), String>,
        /// Stores it.
        set: fn(&mut Config, String),
    },
    /// A list: comma-separated in variables and flags, an array of strings in the file.
    List {
        /// Says what is wrong with one element.
        check: fn(&str) -> Result<(), String>,
        /// Stores it.
        set: fn(&mut Config, Vec<String>),
    },
}

/// One setting.
pub struct Key {
    /// Its name in the file, `section.key`, or only `key` at the top level.
    pub path: &'static str,
    /// A second, short variable, where there is one.
    pub short: Option<&'static str>,
    /// Further flags beside the one made from the path, without the dashes.
    pub aliases: &'static [&'static str],
    /// The default, as one would write it into a variable.
    pub default: &'static str,
    /// Bounds and destination.
    pub kind: Kind,
    /// What it means, for the help.
    pub help: &'static str,
}

impl Key {
    /// The variable made from the path, such as `HUSKV_RAFT_TICK_MS`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("HUSKV_{}", self.path.replace('.', "_").to_uppercase())
    }

    /// The flag made from the path, without the dashes, such as `raft-tick-ms`.
    #[must_use]
    pub fn flag(&self) -> String {
        self.path.replace(['.', '_'], "-")
    }

    /// The name that people know: the short variable, or the one made from the path.
    #[must_use]
    pub fn known_as(&self) -> String {
        self.short.map_or_else(|| self.variable(), str::to_owned)
    }
}

/// The key with this path.
#[must_use]
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

const fn number(
    path: &'static str,
    default: &'static str,
    (min, max): (u64, u64),
    set: fn(&mut Config, u64),
    help: &'static str,
) -> Key {
    Key { path, short: None, aliases: &[], default, kind: Kind::Number { min, max, set }, help }
}

const MIB: u64 = 1 << 20;

/// The value of a setting that the node finds out for itself.
pub const AUTO: &str = "auto";

/// Every setting, in the order of the file.
pub static KEYS: &[Key] = &[
    Key {
        path: "host",
        short: None,
        aliases: &[],
        default: "127.0.0.1",
        kind: Kind::Text { check: check::host, set: |c, v| c.host = check::bare(&v) },
        help: "Address that both ports bind; loopback unless asked, since there is no login yet",
    },
    Key {
        path: "advertise_host",
        short: None,
        aliases: &[],
        default: "",
        kind: Kind::Text { check: check::advertised, set: |c, v| c.advertise_host = check::bare(&v) },
        help: "What other nodes dial, best a name; empty means the host, required when the host is 0.0.0.0 or ::",
    },
    Key {
        path: "join",
        short: None,
        aliases: &[],
        default: "",
        kind: Kind::List { check: check::address, set: |c, v| c.join = v },
        help: "HTTP addresses (host:port) of nodes that form one cluster; a pristine node asks them until one takes it",
    },
    Key {
        path: "server.port",
        short: Some("SERVER_PORT"),
        aliases: &["http-port"],
        default: "2221",
        kind: Kind::Port(|c, v| c.server.port = v),
        help: "HTTP port; 0 is picked at the first start and used again at every later one",
    },
    Key {
        path: "server.advertise_port",
        short: None,
        aliases: &[],
        default: "0",
        kind: Kind::Port(|c, v| c.server.advertise_port = v),
        help: "HTTP port that answers name, where a relay or a port mapping stands before server.port; 0: none does",
    },
    Key {
        path: "raft.node_id",
        short: Some("RAFT_NODE_ID"),
        aliases: &["name"],
        default: "node1",
        kind: Kind::Text { check: check::name, set: |c, v| c.raft.node_id = v },
        help: "The node's name, 1 to 64 of A-Z a-z 0-9 . _ -",
    },
    Key {
        path: "raft.port",
        short: Some("RAFT_PORT"),
        aliases: &[],
        default: "1111",
        kind: Kind::Port(|c, v| c.raft.port = v),
        help: "Peer port; 0 is picked at the first start and used again at every later one",
    },
    Key {
        path: "raft.advertise_port",
        short: Some("HUSKV_ADVERTISE_PORT"),
        aliases: &[],
        default: "0",
        kind: Kind::Port(|c, v| c.raft.advertise_port = v),
        help: "Port that other nodes dial, where a relay or a port mapping stands before raft.port; 0: none does",
    },
    Key {
        path: "raft.vol_dir",
        short: Some("RAFT_VOL_DIR"),
        aliases: &["directory"],
        default: "data/{node_id}",
        kind: Kind::Text { check: check::directory, set: |c, v| c.raft.vol_dir = v.into() },
        help: "Directory of everything the node keeps; {node_id} in it stands for the name",
    },
    number("raft.tick_ms", "50", (1, 1_000), |c, v| c.raft.tick_ms = v, "Length of a raft tick in milliseconds"),
    number(
        "raft.heartbeat_ticks",
        "2",
        (1, 100),
        |c, v| c.raft.heartbeat_ticks = v,
        "Ticks between two heartbeats of a leader",
    ),
    number(
        "raft.election_ticks",
        "20",
        (2, 1_000),
        |c, v| c.raft.election_ticks = v,
        "Ticks without a leader until a follower campaigns; at least twice raft.heartbeat_ticks",
    ),
    Key {
        path: "cluster.follow_moves",
        short: Some("HUSKV_FOLLOW_MOVES"),
        aliases: &[],
        default: "false",
        kind: Kind::Switch(|c, v| c.cluster.follow_moves = v),
        help: "Whether a member is followed to the address that it says it has now; so would be a copy of its disk",
    },
    number(
        "snapshot.every_entries",
        "10000",
        (1, 1_000_000_000),
        |c, v| c.snapshot.every_entries = v,
        "Log entries between two durable cuts of the tree",
    ),
    number(
        "snapshot.every_bytes",
        "16777216",
        (4_096, 1 << 40),
        |c, v| c.snapshot.every_bytes = v,
        "Bytes of log between two durable cuts of the tree",
    ),
    number(
        "snapshot.keep_entries",
        "5000",
        (0, 1_000_000_000),
        |c, v| c.snapshot.keep_entries = v,
        "Log entries kept behind a cut for slow followers",
    ),
    number(
        "snapshot.spool_mb",
        "16384",
        (1, MIB),
        |c, v| c.snapshot.spool_mb = v,
        "Most MiB of disk that a copy for a slow follower may take while it is sent",
    ),
    number(
        "storage.cache_mb",
        "0",
        (0, MIB),
        |c, v| c.storage.cache_mb = v,
        "MiB of memory for the tree's cache; 0: an eighth of limits.memory_mb, at most 256",
    ),
    Key {
        path: "storage.reserve_mb",
        short: None,
        aliases: &[],
        default: AUTO,
        kind: Kind::NumberOrAuto { min: 0, max: MIB, set: |c, v| c.storage.reserve_mb = v },
        help: "MiB of the disk to leave free: below it writes that need space are refused; auto: the smaller of 256 and a \
               tenth of the disk, 0: none",
    },
    number(
        "limits.memory_mb",
        "0",
        (0, 1 << 24),
        |c, v| c.limits.memory_mb = v,
        "MiB of memory that the node may take; 0: three quarters of the container's limit, else of the machine's memory",
    ),
    number("limits.key_bytes", "1024", (1, 1_024), |c, v| c.limits.key_bytes = v, "Longest key in bytes"),
    number("limits.value_bytes", "1048576", (1, 8 * MIB), |c, v| c.limits.value_bytes = v, "Longest value in bytes"),
    number(
        "limits.body_bytes",
        "2097152",
        (64, 16 * MIB),
        |c, v| c.limits.body_bytes = v,
        "Longest request body in bytes; must hold the longest key and value",
    ),
    number(
        "limits.pending_requests",
        "4096",
        (1, 1_000_000),
        |c, v| c.limits.pending_requests = v,
        "Requests that may wait at once; more are answered 503 at once",
    ),
    number(
        "limits.watchers",
        "2048",
        (0, 1_000_000),
        |c, v| c.limits.watchers = v,
        "Clients that may watch at once, and at most half of all connections; more are answered 503 at once",
    ),
    number(
        "limits.watch_events",
        "65536",
        (1, 100_000_000),
        |c, v| c.limits.watch_events = v,
        "Latest changes kept in memory for clients that watch and come back",
    ),
    number(
        "limits.watch_mb",
        "0",
        (0, MIB),
        |c, v| c.limits.watch_mb = v,
        "Most MiB of memory that these changes take; 0: a sixteenth of limits.memory_mb, at most 32",
    ),
    number(
        "limits.request_timeout_ms",
        "5000",
        (1, 60_000),
        |c, v| c.limits.request_timeout_ms = v,
        "How long a request may take where it does not say so itself, in milliseconds",
    ),
    Key {
        path: "http.allowed_origins",
        short: None,
        aliases: &[],
        default: "",
        kind: Kind::List {
            check: check::origin,
            set: |c, v| c.http.allowed_origins = v.iter().map(|o| o.to_lowercase()).collect(),
        },
        help: "Origins besides the node's own whose browser pages may use it, such as https://ui.example.org",
    },
    Key {
        path: "http.allowed_hosts",
        short: None,
        aliases: &[],
        default: "",
        kind: Kind::List {
            check: check::allowed_host,
            set: |c, v| c.http.allowed_hosts = v.iter().map(|host| host.to_lowercase()).collect(),
        },
        help: "Hosts besides the node's own that requests may be for, such as kv.example.org; * is any",
    },
    number(
        "http.idle_timeout_ms",
        "75000",
        (1, 86_400_000),
        |c, v| c.http.idle_timeout_ms = v,
        "How long a connection may be idle between two requests, in milliseconds; longer than proxies keep theirs",
    ),
    number(
        "http.rate_grace_ms",
        "5000",
        (1, 3_600_000),
        |c, v| c.http.rate_grace_ms = v,
        "How long a client may keep the node waiting, in milliseconds, before it has to send or take 64 KiB/s",
    ),
    Key {
        path: "log.level",
        short: Some("HUSKV_LOG"),
        aliases: &[],
        default: "info",
        kind: Kind::Text { check: check::level, set: |c, v| c.log.level = v.to_lowercase() },
        help: "Least severe lines to log: critical, error, warning, info, debug or trace",
    },
    Key {
        path: "log.format",
        short: None,
        aliases: &[],
        default: "terminal",
        kind: Kind::Text { check: check::format, set: |c, v| c.log.format = v.to_lowercase() },
        help: "terminal for people, json for one JSON object a line",
    },
];
