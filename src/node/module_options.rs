//! The options of each module, out of the settings.
//!
//! Why: no module below the node knows [`Config`]; this is the only place where a setting becomes part of a module's own
//! `Options`.
//!
//! See also: [`crate::config`], which has checked the settings.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::fd_budget::FileLimit;
use super::listen::Ports;
use super::memory::Memory;
use super::{AuditFileError, Bound};
use crate::auth::TokenStore;
use crate::changefeed::FeedLimits;
use crate::client::Access;
use crate::config::Config;
use crate::model::Limits;
use crate::storage::{self, OpenOptions};
use crate::telemetry::logging::OpenedFile;
use crate::telemetry::metrics::NodeState;
use crate::trust::acceptor::{HTTP, TlsAcceptor};
use crate::trust::connector::TlsConnector;
use crate::trust::credentials::{CredentialFiles, CredentialStore, check_server};
use crate::trust::peer_tls::PeerTls;
use crate::trust::pem_files::{CaBundle, KeyPair};
use crate::trust::{Mode, TrustError};
use crate::{consensus, http, transport};

/// The maximum number of client connections.
const CONNECTIONS: usize = 4096;

/// The work that a turn of the consensus thread applies at most, in bytes; some milliseconds.
const APPLY_WORK: usize = 8 << 20;

/// How long a joiner waits for contact with its cluster before it gives up, in milliseconds. As long as a join takes at
/// most by default: the client that asked for it then has its answer, `join_unfinished`.
const JOIN_WAIT_MS: u64 = 60_000;

/// One MiB in bytes.
const MIB: u64 = 1 << 20;

/// Converts a checked setting into a size in memory.
pub(super) fn size(setting: u64) -> usize {
    usize::try_from(setting).unwrap_or(usize::MAX)
}

/// Converts a checked setting into a number of requests.
pub(super) fn count(setting: u64) -> u32 {
    u32::try_from(setting).unwrap_or(u32::MAX)
}

/// What is known of the node before its consensus thread begins, for scrapes.
pub(super) fn first_state(config: &Config) -> Arc<NodeState> {
    Arc::new(NodeState { node: config.raft.node_id.clone(), ..NodeState::default() })
}

/// The bytes of the disk to leave free; None for a default that depends on the disk.
pub(super) fn reserve(config: &Config) -> Option<u64> {
    config.storage.reserve_mb.map(|mb| mb * MIB)
}

/// The options of the data directory.
pub(super) fn open_options(config: &Config, ports: &Ports, memory: Memory) -> OpenOptions {
    OpenOptions {
        name: config.raft.node_id.clone(),
        raft_address: config.advertised_raft(ports.raft.port),
        http_address: config.advertised_http(ports.http.port),
        cache_bytes: cache_bytes(config, memory) - meta_cache_bytes(config, memory),
        picked_http_port: ports.http.picked,
        picked_raft_port: ports.raft.picked,
        random: Box::new(|| getrandom::u64().expect("the start has drawn one, and a system does not lose the ability")),
    }
}

/// The memory of the caches in bytes: the tree's, and that of the metadata of keys.
pub(super) fn cache_bytes(config: &Config, memory: Memory) -> u64 {
    match config.storage.cache_mb {
        0 => memory.cache(),
        megabytes => megabytes * MIB,
    }
}

/// The part of the caches that metadata take: an entry is 56 bytes and spares a write a page of the tree.
fn meta_cache_bytes(config: &Config, memory: Memory) -> u64 {
    cache_bytes(config, memory) / 4
}

/// How much larger than some times its data the tree may be on disk before it is rewritten: a small state is not rewritten for a little.
const RECLAIM_SLACK_BYTES: u64 = 64 * MIB;

/// The memory of the memtables in bytes.
fn memtable_bytes(config: &Config, memory: Memory) -> usize {
    match config.storage.memtable_mb {
        0 => memory.memtables(),
        megabytes => size(megabytes * MIB),
    }
}

/// The options of the consensus thread.
pub(super) fn consensus(config: &Config, bound: &Bound, nonce: u64, forming: bool) -> consensus::Options {
    consensus::Options {
        tick_ms: config.raft.tick_ms,
        heartbeat_ticks: size(config.raft.heartbeat_ticks),
        election_ticks: size(config.raft.election_ticks),
        election_range: None,
        snapshot_every_entries: config.snapshot.every_entries,
        snapshot_every_bytes: config.snapshot.every_bytes,
        snapshot_keep_entries: config.snapshot.keep_entries,
        snapshot_spool_bytes: config.snapshot.spool_mb * MIB,
        reclaim_slack_bytes: RECLAIM_SLACK_BYTES,
        memtable_bytes: memtable_bytes(config, bound.memory),
        meta_cache_bytes: size(meta_cache_bytes(config, bound.memory)),
        entry_cache_bytes: bound.memory.entry_cache(),
        follower_bytes: bound.memory.send_queue(),
        apply_work: APPLY_WORK,
        limits: Limits::of_settings(
            size(config.limits.key_bytes),
            size(config.limits.value_bytes),
            size(config.limits.body_bytes),
        ),
        pending_requests: size(config.limits.pending_requests),
        history: history(config, bound.memory),
        raft_address: config.advertised_raft(bound.raft_port),
        http_address: config.advertised_http(bound.http_port),
        follow_moves: config.cluster.follow_moves,
        forming,
        join_wait_ms: JOIN_WAIT_MS,
        nonce,
    }
}

/// The retention of the change feed.
pub(super) fn history(config: &Config, memory: Memory) -> FeedLimits {
    FeedLimits {
        events: size(config.limits.watch_events),
        // 0 leaves the size to the budget, so that a small container has a small history.
        bytes: size(match config.limits.watch_mb {
            0 => memory.history(),
            megabytes => megabytes * MIB,
        }),
    }
}

/// The options of the HTTP server that can change while it runs.
pub(super) fn reloadable(config: &Config, memory: Memory) -> http::Reloadable {
    http::Reloadable {
        watchers: memory.watchers(size(config.limits.watchers)),
        request_timeout: Duration::from_millis(config.limits.request_timeout_ms),
        allowed_origins: config.http.allowed_origins.clone(),
        allowed_hosts: config.http.allowed_hosts.clone(),
        requests_per_second: count(config.limits.requests_per_second),
        request_burst: count(config.limits.request_burst),
        trusted_proxies: config.http.trusted_proxies.clone(),
    }
}

/// Opens the audit file; None where there is none.
pub(super) fn open_audit(config: &Config) -> Result<Option<OpenedFile>, AuditFileError> {
    let path = &config.audit.file;
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let opened = || {
        let file = OpenedFile::open(path)?;
        // Lines that are appended to a token file or to the settings would make them unreadable.
        if file.first_byte()?.is_some_and(|first| first != b'{') {
            let what = "it holds something else than JSON lines; name another file";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        Ok(file)
    };
    opened().map(Some).map_err(|source| AuditFileError { path: path.clone(), source })
}

/// The mode of TLS on the HTTP port, and its certificates, which are read here; None where the port is plain.
pub(super) fn http_tls(config: &Config) -> Result<Option<(Mode, Arc<CredentialStore>)>, TrustError> {
    let (mode, tls) = (config.tls.http_mode(), &config.tls);
    match tls.http_pair() {
        Some((certificate, key)) if mode != Mode::Off => {
            let files = CredentialFiles { certificate, key, ca: tls.http_ca() };
            let credentials = CredentialStore::open_checked(files, Box::new(check_server))?;
            Ok(Some((mode, Arc::new(credentials))))
        }
        _ => Ok(None),
    }
}

/// How a node that forms a cluster reaches the HTTP ports of the others: over TLS where its own port has nothing else and its directory
/// has the CA of all nodes. Clients may be asked for a certificate, so it has its own.
pub(super) fn forming_access(config: &Config) -> Result<Access, TrustError> {
    let tls = &config.tls;
    let (Mode::On, Some(file), Some((certificate, key))) = (tls.http_mode(), tls.dir_ca(), tls.http_pair()) else {
        return Ok(Access::default());
    };
    let pair = KeyPair::read(&certificate, &key)?;
    let connector = TlsConnector::new(&CaBundle::read(&file)?, &file.display().to_string(), Some(pair));
    Ok(Access::over_tls(connector.map_err(|reason| TrustError::Invalid { path: file, reason })?))
}

/// The options of the HTTP server.
pub(super) fn http(
    config: &Config,
    ports: &Ports,
    (memory, files): (Memory, FileLimit),
    tls: Option<&(Mode, Arc<CredentialStore>)>,
    (tokens, peer_tls): (Option<&Arc<TokenStore>>, Option<&Arc<PeerTls>>),
    (audit, reloads): (http::Audit, http::ReloadRequests),
) -> http::Options {
    let reloadable = reloadable(config, memory);
    let http::Reloadable { watchers, request_timeout, allowed_origins, allowed_hosts, .. } = reloadable;
    // The Host header of a request has either one: clients here use the host, others the advertised one.
    let mut own_hosts = vec![config.host.clone()];
    if config.advertise_host != config.host {
        own_hosts.push(config.advertise_host.clone());
    }
    http::Options {
        key_bytes: size(config.limits.key_bytes),
        value_bytes: size(config.limits.value_bytes),
        body_bytes: size(config.limits.body_bytes),
        watchers,
        connections: client_connections(config, files.connections(memory.connections(CONNECTIONS, tls.is_some()))),
        request_timeout,
        idle_timeout: Duration::from_millis(config.http.idle_timeout_ms),
        rate_grace: Duration::from_millis(config.http.rate_grace_ms),
        allowed_origins,
        allowed_hosts,
        own_hosts,
        loopback: ports.http.loopback,
        port: ports.http.port,
        budgets: memory.clients(),
        limiter: Arc::new(http::RequestLimiter::new(
            reloadable.requests_per_second,
            reloadable.request_burst,
            memory.limited_addresses(),
        )),
        trusted_proxies: Arc::new(http::TrustedProxies::new(reloadable.trusted_proxies)),
        join_list: config.join.iter().map(ToString::to_string).collect(),
        tls: tls.map(|(mode, credentials)| {
            let acceptor = TlsAcceptor::new(Arc::clone(credentials), config.tls.http_client_auth, HTTP);
            Arc::new(http::HttpTls::new(*mode, acceptor))
        }),
        tokens: tokens.cloned(),
        peer_tls: peer_tls.cloned(),
        audit,
        ui: config.ui.enabled,
        reloads,
        wire_versions: transport::WIRE_VERSION..=transport::WIRE_VERSION,
        formats: &storage::FORMATS,
    }
}

/// The connections of clients, of so many that there may be of clients and of the port for figures.
fn client_connections(config: &Config, all: usize) -> usize {
    match config.http.metrics_port {
        0 => all,
        _ => all - http::METRICS_CONNECTIONS.min(all / 2),
    }
}

/// TLS of the peer port, with its certificates, which are read here; None where the port is plain.
pub(super) fn peer_tls(config: &Config) -> Result<Option<Arc<PeerTls>>, TrustError> {
    let (mode, tls) = (config.tls.peer_mode(), &config.tls);
    let Some((certificate, key)) = tls.peer_pair().filter(|_| mode != Mode::Off) else { return Ok(None) };
    let files = CredentialFiles { certificate, key, ca: tls.peer_ca() };
    Ok(Some(Arc::new(PeerTls::open(files, mode, &config.raft.node_id)?)))
}

/// The options of the transport.
pub(super) fn transport(
    config: &Config,
    memory: Memory,
    files: FileLimit,
    tls: Option<Arc<PeerTls>>,
) -> transport::Options {
    transport::Options {
        max_inbound: files.inbound(),
        member_bytes: memory.peers(),
        queue_bytes: memory.send_queue(),
        snapshot_bytes_per_second: config.snapshot.mb_per_second * MIB,
        tls,
        connection_age: transport::CONNECTION_AGE,
    }
}
