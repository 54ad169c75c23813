//! The table of settings: key, default, bounds, help.
//!
//! Why: the keys of the file, the variables, the flags, the help and the page of settings are generated from this table, so
//! they cannot drift apart. A test holds `config/huskv.toml` equal to it.
//!
//! Invariants: the variable and the flag follow from the path (`raft.tick_ms`, `HUSKV_RAFT_TICK_MS`, `--raft-tick-ms`); a
//! short variable is a second name of the same key. Every default passes its own check.
//!
//! See also: [`crate::config`] (sources and precedence), `validate` (parsers, and checks between settings).

pub use super::key::{Key, Kind};
use super::key::{number, text};
use super::{tls, validate};

/// Returns the key with this path.
#[must_use]
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

const MIB: u64 = 1 << 20;

/// The value of a [`Kind::NumberOrAuto`] that the node chooses itself.
pub const AUTO: &str = "auto";

/// Every setting, in the order of the file.
pub static KEYS: &[Key] = &[
    Key {
        path: "host",
        short: None,
        aliases: &[],
        default: "127.0.0.1",
        kind: Kind::Text { set: |c, v| validate::host(v).map(|host| c.host = host) },
        help: "Address that both ports bind; beyond loopback a port needs TLS, or network.insecure",
    },
    Key {
        path: "advertise_host",
        short: None,
        aliases: &[],
        default: "",
        kind: Kind::Text {
            set: |c, v| match v {
                "" => {
                    c.advertise_host.clear();
                    Ok(())
                }
                _ => validate::advertised(v).map(|host| c.advertise_host = host),
            },
        },
        help: "Host that other nodes dial, preferably a DNS name; empty: the host. Required where the host is 0.0.0.0 or ::",
    },
    Key {
        path: "join",
        short: None,
        aliases: &[],
        default: "",
        kind: Kind::List { set: |c, v| validate::each(v, validate::parse_address).map(|list| c.join = list) },
        help: "HTTP addresses (host:port) of the nodes that form one cluster; a pristine node asks them until one cluster accepts it",
    },
    Key {
        path: "server.port",
        short: Some("SERVER_PORT"),
        aliases: &["http-port"],
        default: "2221",
        kind: Kind::Port(|c, v| c.server.port = v),
        help: "HTTP port; 0: the system picks one at the first start, and later starts use the same",
    },
    Key {
        path: "server.advertise_port",
        short: None,
        aliases: &[],
        default: "0",
        kind: Kind::Port(|c, v| c.server.advertise_port = v),
        help: "HTTP port in advertised addresses, where a proxy or a port mapping is in front of server.port; 0: server.port itself",
    },
    Key {
        path: "raft.node_id",
        short: Some("RAFT_NODE_ID"),
        aliases: &["name"],
        default: "node1",
        kind: Kind::Text { set: |c, v| validate::name(v).map(|name| c.raft.node_id = name.to_string()) },
        help: "The node's name, 1 to 64 of A-Z a-z 0-9 . _ -",
    },
    Key {
        path: "raft.host",
        short: None,
        aliases: &[],
        default: "",
        kind: Kind::Text {
            set: |c, v| match v {
                "" => {
                    c.raft.host.clear();
                    Ok(())
                }
                _ => validate::host(v).map(|host| c.raft.host = host),
            },
        },
        help: "Address that the peer port binds, where that is not the host, such as that of a private network",
    },
    Key {
        path: "raft.port",
        short: Some("RAFT_PORT"),
        aliases: &[],
        default: "1111",
        kind: Kind::Port(|c, v| c.raft.port = v),
        help: "Peer port; 0: the system picks one at the first start, and later starts use the same",
    },
    Key {
        path: "raft.advertise_port",
        short: Some("HUSKV_ADVERTISE_PORT"),
        aliases: &[],
        default: "0",
        kind: Kind::Port(|c, v| c.raft.advertise_port = v),
        help: "Port that other nodes dial, where a proxy or a port mapping is in front of raft.port; 0: raft.port itself",
    },
    Key {
        path: "raft.vol_dir",
        short: Some("RAFT_VOL_DIR"),
        aliases: &["directory"],
        default: "data/{node_id}",
        kind: Kind::Text { set: |c, v| validate::directory(v).map(|path| c.raft.vol_dir = path) },
        help: "Data directory; {node_id} in it is replaced by the node's name",
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
        "Ticks without contact to a leader until a follower campaigns; at least twice raft.heartbeat_ticks",
    ),
    Key {
        path: "cluster.follow_moves",
        short: Some("HUSKV_FOLLOW_MOVES"),
        aliases: &[],
        default: "false",
        kind: Kind::Switch(|c, v| c.cluster.follow_moves = v),
        help: "Whether peers dial a member at the new address that it reports itself; a copy of its disk could report one, too",
    },
    number(
        "snapshot.every_entries",
        "100000",
        (1, 1_000_000_000),
        |c, v| c.snapshot.every_entries = v,
        "Log entries between two checkpoints of the tree",
    ),
    number(
        "snapshot.every_bytes",
        "16777216",
        (4_096, 1 << 40),
        |c, v| c.snapshot.every_bytes = v,
        "Bytes of log between two checkpoints of the tree",
    ),
    number(
        "snapshot.keep_entries",
        "5000",
        (0, 1_000_000_000),
        |c, v| c.snapshot.keep_entries = v,
        "Log entries kept behind a checkpoint for slow followers, at most snapshot.every_bytes of them",
    ),
    number(
        "snapshot.spool_mb",
        "16384",
        (1, MIB),
        |c, v| c.snapshot.spool_mb = v,
        "Maximum size of the spool file of a snapshot stream to a slow follower, in MiB",
    ),
    number(
        "snapshot.mb_per_second",
        "64",
        (0, MIB),
        |c, v| c.snapshot.mb_per_second = v,
        "Maximum rate of a snapshot stream from this node, in MiB a second, besides what changes meanwhile; a quarter of it while clients write; 0: unbounded",
    ),
    number(
        "storage.cache_mb",
        "0",
        (0, MIB),
        |c, v| c.storage.cache_mb = v,
        "Memory of the caches in MiB, of the tree and of the keys' metadata; 0: an eighth of limits.memory_mb, at most 256",
    ),
    number(
        "storage.memtable_mb",
        "0",
        (0, MIB),
        |c, v| c.storage.memtable_mb = v,
        "Memory of the memtables in MiB; 0: a sixteenth of limits.memory_mb, 8 to 96",
    ),
    Key {
        path: "storage.reserve_mb",
        short: None,
        aliases: &[],
        default: AUTO,
        kind: Kind::NumberOrAuto { min: 0, max: MIB, set: |c, v| c.storage.reserve_mb = v },
        help: "Disk space to leave free, in MiB: below it writes that need space are refused; auto: a tenth of the \
               disk, at least 64 or a quarter of it, at most 256; 0: none",
    },
    number(
        "limits.memory_mb",
        "0",
        (0, 1 << 24),
        |c, v| c.limits.memory_mb = v,
        "Memory of the node in MiB; 0: three quarters of the container's limit, or of the machine's memory",
    ),
    number("limits.key_bytes", "1024", (1, 1_024), |c, v| c.limits.key_bytes = v, "Maximum size of a key in bytes"),
    number(
        "limits.value_bytes",
        "1048576",
        (1, 8 * MIB),
        |c, v| c.limits.value_bytes = v,
        "Maximum size of a value in bytes",
    ),
    number(
        "limits.body_bytes",
        "2097152",
        (64, 16 * MIB),
        |c, v| c.limits.body_bytes = v,
        "Maximum size of a request body in bytes; must fit the largest key and value",
    ),
    number(
        "limits.pending_requests",
        "4096",
        (1, 1_000_000),
        |c, v| c.limits.pending_requests = v,
        "Maximum number of pending requests; more are refused with 503",
    ),
    number(
        "limits.watchers",
        "2048",
        (0, 1_000_000),
        |c, v| c.limits.watchers = v,
        "Maximum number of watchers, at most half of all connections; more are refused with 503",
    ),
    number(
        "limits.watch_events",
        "65536",
        (1, 100_000_000),
        |c, v| c.limits.watch_events = v,
        "Number of events in the change feed, for watchers that resume",
    ),
    number(
        "limits.watch_mb",
        "0",
        (0, MIB),
        |c, v| c.limits.watch_mb = v,
        "Maximum memory of the change feed in MiB; 0: a sixteenth of limits.memory_mb, at most 32",
    ),
    number(
        "limits.request_timeout_ms",
        "5000",
        (1, 60_000),
        |c, v| c.limits.request_timeout_ms = v,
        "Timeout of requests without ?timeout=, in milliseconds",
    ),
    number(
        "limits.requests_per_second",
        "0",
        (0, 1_000_000),
        |c, v| c.limits.requests_per_second = v,
        "Requests per second of one caller: a token, or without one an address (IPv6: a network of 64 bits); more get 429; 0: no limit",
    ),
    number(
        "limits.request_burst",
        "0",
        (0, 1_000_000),
        |c, v| c.limits.request_burst = v,
        "Requests that one caller may send at once after a pause; 0: limits.requests_per_second",
    ),
    Key {
        path: "http.allowed_origins",
        short: None,
        aliases: &[],
        default: "",
        kind: Kind::List { set: |c, v| validate::each(v, validate::origin).map(|list| c.http.allowed_origins = list) },
        help: "Origins besides the node's own whose web pages may send requests, such as https://ui.example.org",
    },
    Key {
        path: "http.allowed_hosts",
        short: None,
        aliases: &[],
        default: "",
        kind: Kind::List {
            set: |c, v| validate::each(v, validate::allowed_host).map(|list| c.http.allowed_hosts = list),
        },
        help: "Values of the Host header that are accepted besides the node's own, such as kv.example.org; *: any",
    },
    Key {
        path: "http.trusted_proxies",
        short: None,
        aliases: &[],
        default: "",
        kind: Kind::List { set: |c, v| validate::each(v, validate::network).map(|list| c.http.trusted_proxies = list) },
        help: "Addresses or networks, such as 10.0.0.0/8, of the proxies whose X-Forwarded-For names the client's address",
    },
    number(
        "http.idle_timeout_ms",
        "75000",
        (1, 86_400_000),
        |c, v| c.http.idle_timeout_ms = v,
        "Idle timeout of connections between two requests, in milliseconds; longer than that of proxies",
    ),
    number(
        "http.rate_grace_ms",
        "5000",
        (1, 3_600_000),
        |c, v| c.http.rate_grace_ms = v,
        "Time before a client must send or receive at least 64 KiB/s, in milliseconds",
    ),
    Key {
        path: "http.metrics_port",
        short: None,
        aliases: &[],
        default: "0",
        kind: Kind::Port(|c, v| c.http.metrics_port = v),
        help: "Second HTTP port, plain, for /metrics, /livez, /readyz and /version alone, with connections of its own; 0: none",
    },
    number(
        "http.drain_ms",
        "0",
        (0, 600_000),
        |c, v| c.http.drain_ms = v,
        "Time for which a node that is asked to stop serves as before while /readyz fails, in milliseconds; 0: it stops at once",
    ),
    text(
        "tls.dir",
        "",
        |c, v| validate::directory(v).map(|path| c.tls.dir = path),
        "Directory with ca.pem, node.pem and node-key.pem for both ports; over HTTP without client certificates",
    ),
    text(
        "tls.http_cert",
        "",
        |c, v| validate::directory(v).map(|path| c.tls.http_cert = path),
        "PEM file with the certificate chain of the HTTP port, instead of node.pem in tls.dir",
    ),
    text(
        "tls.http_key",
        "",
        |c, v| validate::directory(v).map(|path| c.tls.http_key = path),
        "PEM file with the private key of tls.http_cert, which no other user may read",
    ),
    text(
        "tls.http_client_ca",
        "",
        |c, v| validate::directory(v).map(|path| c.tls.http_client_ca = path),
        "PEM file with the authorities of client certificates, instead of ca.pem in tls.dir",
    ),
    text(
        "tls.http_client_auth",
        "none",
        |c, v| tls::client_auth(v).map(|auth| c.tls.http_client_auth = auth),
        "Client certificates over HTTPS: none, optional (verified where one is sent) or required",
    ),
    text(
        "tls.http",
        "",
        |c, v| tls::mode(v).map(|mode| c.tls.http = mode),
        "TLS of the HTTP port: off, accept (plain HTTP as well) or on; none: on where there is a key pair",
    ),
    text(
        "tls.peer_cert",
        "",
        |c, v| validate::directory(v).map(|path| c.tls.peer_cert = path),
        "PEM file with the certificate chain of the peer port, instead of node.pem in tls.dir",
    ),
    text(
        "tls.peer_key",
        "",
        |c, v| validate::directory(v).map(|path| c.tls.peer_key = path),
        "PEM file with the private key of tls.peer_cert, which no other user may read",
    ),
    text(
        "tls.peer_ca",
        "",
        |c, v| validate::directory(v).map(|path| c.tls.peer_ca = path),
        "PEM file with the authorities of the other nodes, instead of ca.pem in tls.dir",
    ),
    text(
        "tls.peer",
        "",
        |c, v| tls::mode(v).map(|mode| c.tls.peer = mode),
        "TLS of the peer port: off, accept (plain connections as well) or on; none: on where there is a key pair",
    ),
    Key {
        path: "network.insecure",
        short: None,
        aliases: &[],
        default: "false",
        kind: Kind::Switch(|c, v| c.network.insecure = v),
        help: "Whether ports without TLS may be bound beyond loopback: every host that reaches one may then read and change everything",
    },
    Key {
        path: "auth.tokens",
        short: None,
        aliases: &[],
        default: "",
        kind: Kind::Text {
            set: |c, v| match v {
                "" => {
                    c.auth.tokens = None;
                    Ok(())
                }
                _ => validate::directory(v).map(|path| c.auth.tokens = Some(path)),
            },
        },
        help: "File with the tokens that requests need, the same on all nodes, followed while the node runs; empty: none are needed",
    },
    text(
        "audit.file",
        "",
        |c, v| validate::directory(v).map(|path| c.audit.file = path),
        "File that gets a JSON line for each write, membership change, denial and reload of this node; empty: none",
    ),
    Key {
        path: "ui.enabled",
        short: None,
        aliases: &[],
        default: "true",
        kind: Kind::Switch(|c, v| c.ui.enabled = v),
        help: "Whether the page for browsers, /ui/, is served; it has no data of its own, and its requests need the rights of any client",
    },
    Key {
        path: "log.level",
        short: Some("HUSKV_LOG"),
        aliases: &[],
        default: "info",
        kind: Kind::Text { set: |c, v| validate::level(v).map(|level| c.log.level = level) },
        help: "Least severe level to log: critical, error, warning, info, debug or trace",
    },
    Key {
        path: "log.format",
        short: None,
        aliases: &[],
        default: "terminal",
        kind: Kind::Text { set: |c, v| validate::format(v).map(|format| c.log.format = format) },
        help: "terminal: text; json: one JSON object per line",
    },
];
