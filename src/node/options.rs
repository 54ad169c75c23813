//! From the settings to what each room wants to know.
//!
//! Why: no room below knows [`Config`]; here is the only place where a setting turns into a room's own `Options`.
//!
//! Not here: checks; [`crate::config`] has made them.

use std::time::Duration;

use super::Bound;
use super::files::Files;
use super::listen::Ports;
use super::memory::Memory;
use crate::config::Config;
use crate::model::Limits;
use crate::storage::OpenOptions;
use crate::{consensus, http, transport};

/// The most connections of clients.
const CONNECTIONS: usize = 4096;

/// How much a turn of the loop applies; some milliseconds.
const APPLY_WORK: usize = 8 << 20;

/// How long a join may be without a sign of its cluster. As long as a join may take by default: then whoever asked for it
/// knows that it is unfinished.
const JOIN_WAIT_MS: u64 = 60_000;

/// One MiB in bytes.
const MIB: u64 = 1 << 20;

/// A checked setting as a size in memory.
pub(super) fn size(setting: u64) -> usize {
    usize::try_from(setting).unwrap_or(usize::MAX)
}

/// How many bytes of the disk are left free; None for what suits it.
pub(super) fn reserve(config: &Config) -> Option<u64> {
    config.storage.reserve_mb.map(|mb| mb * MIB)
}

/// What the directory is opened with.
pub(super) fn boot(config: &Config, ports: &Ports, memory: Memory) -> OpenOptions {
    OpenOptions {
        name: config.raft.node_id.clone(),
        raft_address: config.advertised_raft(ports.raft.port),
        http_address: config.advertised_http(ports.http.port),
        cache_bytes: cache_bytes(config, memory),
        picked_http_port: ports.http.picked,
        picked_raft_port: ports.raft.picked,
        random: Box::new(|| getrandom::u64().expect("the start has drawn one, and a system does not lose the ability")),
    }
}

/// The tree's cache.
pub(super) fn cache_bytes(config: &Config, memory: Memory) -> u64 {
    match config.storage.cache_mb {
        0 => memory.cache(),
        megabytes => megabytes * MIB,
    }
}

/// What the loop is configured with.
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
        entry_cache_bytes: bound.memory.entry_cache(),
        follower_bytes: bound.memory.send_queue(),
        apply_work: APPLY_WORK,
        limits: Limits::of_settings(
            size(config.limits.key_bytes),
            size(config.limits.value_bytes),
            size(config.limits.body_bytes),
        ),
        pending_requests: size(config.limits.pending_requests),
        history: crate::changefeed::FeedLimits {
            events: size(config.limits.watch_events),
            bytes: size(match config.limits.watch_mb {
                0 => bound.memory.history(),
                megabytes => megabytes * MIB,
            }),
        },
        raft_address: config.advertised_raft(bound.raft_port),
        http_address: config.advertised_http(bound.http_port),
        follow_moves: config.cluster.follow_moves,
        forming,
        join_wait_ms: JOIN_WAIT_MS,
        nonce,
    }
}

/// What the HTTP server is configured with.
pub(super) fn http(config: &Config, ports: &Ports, memory: Memory, files: Files) -> http::Options {
    let mut own_hosts = vec![config.host.clone()];
    if config.advertise_host != config.host {
        own_hosts.push(config.advertise_host.clone());
    }
    http::Options {
        key_bytes: size(config.limits.key_bytes),
        value_bytes: size(config.limits.value_bytes),
        body_bytes: size(config.limits.body_bytes),
        watchers: memory.watchers(size(config.limits.watchers)),
        connections: files.connections(memory.connections(CONNECTIONS)),
        request_timeout: Duration::from_millis(config.limits.request_timeout_ms),
        idle_timeout: Duration::from_millis(config.http.idle_timeout_ms),
        rate_grace: Duration::from_millis(config.http.rate_grace_ms),
        allowed_origins: config.http.allowed_origins.clone(),
        allowed_hosts: config.http.allowed_hosts.clone(),
        own_hosts,
        loopback: ports.http.loopback,
        port: ports.http.port,
        budgets: memory.clients(),
        join_list: config.join.clone(),
    }
}

/// What the transport is configured with.
pub(super) fn transport(memory: Memory, files: Files) -> transport::Options {
    transport::Options { max_inbound: files.inbound(), member_bytes: memory.peers(), queue_bytes: memory.send_queue() }
}
