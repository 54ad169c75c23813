//! What a scrape holds, in both formats.

use super::*;

/// Every name of the documents, without what the format appends.
const NAMES: &[(&str, &str)] = &[
    ("huskv_build_info", "gauge"),
    ("huskv_cluster_info", "gauge"),
    ("huskv_server_has_leader", "gauge"),
    ("huskv_server_is_leader", "gauge"),
    ("huskv_server_is_learner", "gauge"),
    ("huskv_server_leader_changes_seen", "counter"),
    ("huskv_raft_term", "gauge"),
    ("huskv_raft_last_index", "gauge"),
    ("huskv_raft_committed_index", "gauge"),
    ("huskv_raft_applied_index", "gauge"),
    ("huskv_raft_snapshot_index", "gauge"),
    ("huskv_raft_voters", "gauge"),
    ("huskv_raft_failure_tolerance", "gauge"),
    ("huskv_raft_peer_match_index", "gauge"),
    ("huskv_raft_peer_lag_entries", "gauge"),
    ("huskv_db_keys", "gauge"),
    ("huskv_db_size_bytes", "gauge"),
    ("huskv_ttl_keys", "gauge"),
    ("huskv_disk_free_bytes", "gauge"),
    ("huskv_disk_reserve_bytes", "gauge"),
    ("huskv_disk_directory_bytes", "gauge"),
    ("huskv_server_proposals_committed", "counter"),
    ("huskv_server_proposals_applied", "counter"),
    ("huskv_server_proposals_failed", "counter"),
    ("huskv_server_proposals_pending", "gauge"),
    ("huskv_server_unknown_outcomes", "counter"),
    ("huskv_server_proposal_duration_seconds", "histogram"),
    ("huskv_server_read_index_duration_seconds", "histogram"),
    ("huskv_server_read_indexes_failed", "counter"),
    ("huskv_disk_wal_fsync_duration_seconds", "histogram"),
    ("huskv_disk_wal_write_bytes", "counter"),
    ("huskv_disk_backend_commit_duration_seconds", "histogram"),
    ("huskv_server_apply_duration_seconds", "histogram"),
    ("huskv_server_slow_apply", "counter"),
    ("huskv_loop_busy_seconds", "counter"),
    ("huskv_ttl_expired", "counter"),
    ("huskv_preconditions_failed", "counter"),
    ("huskv_idempotency_replayed", "counter"),
    ("huskv_txn", "counter"),
    ("huskv_snapshot_taken", "counter"),
    ("huskv_snapshot_failures", "counter"),
    ("huskv_snapshot_send_duration_seconds", "histogram"),
    ("huskv_snapshot_install_duration_seconds", "histogram"),
    ("huskv_snapshot_bytes", "gauge"),
    ("huskv_state_hash_mismatch", "counter"),
    ("huskv_network_active_peers", "gauge"),
    ("huskv_network_peer_round_trip_time_seconds", "histogram"),
    ("huskv_network_peer_sent_bytes", "counter"),
    ("huskv_network_peer_received_bytes", "counter"),
    ("huskv_network_peer_sent_failures", "counter"),
    ("huskv_http_requests", "counter"),
    ("huskv_http_request_duration_seconds", "histogram"),
    ("huskv_http_requests_in_flight", "gauge"),
    ("huskv_http_connections", "gauge"),
    ("huskv_http_overloaded", "counter"),
    ("huskv_watchers", "gauge"),
    ("huskv_watch_oldest_index", "gauge"),
    ("huskv_watch_events", "counter"),
    ("huskv_watch_lagged", "counter"),
    ("huskv_tls_certificate_not_after_timestamp_seconds", "gauge"),
    ("huskv_tls_handshake_failures", "counter"),
    ("huskv_auth_denied", "counter"),
    ("huskv_rate_limited", "counter"),
    ("huskv_config_last_reload_successful", "gauge"),
    ("huskv_config_last_reload_success_timestamp_seconds", "gauge"),
    ("process_cpu_seconds", "counter"),
    ("process_resident_memory_bytes", "gauge"),
    ("process_virtual_memory_bytes", "gauge"),
    ("process_open_fds", "gauge"),
    ("process_max_fds", "gauge"),
    ("process_start_time_seconds", "gauge"),
    ("process_threads", "gauge"),
];

/// The names that have a series for each other member, and none without.
const OF_PEERS: &[&str] = &[
    "huskv_raft_peer_match_index",
    "huskv_raft_peer_lag_entries",
    "huskv_network_peer_round_trip_time_seconds",
    "huskv_network_peer_sent_bytes",
    "huskv_network_peer_received_bytes",
    "huskv_network_peer_sent_failures",
];

fn with_state(state: NodeState) -> Arc<Metrics> {
    let metrics = Arc::new(Metrics::default());
    metrics.node.store(Arc::new(state));
    metrics
}

fn peer(name: &str, match_index: Option<u64>) -> PeerState {
    PeerState { name: name.into(), match_index, lag_entries: match_index.map(|_| 2), ..PeerState::default() }
}

#[test]
fn every_name_is_there_from_the_first_scrape_on() {
    let body = Arc::new(Metrics::default()).encode(Format::Text, ServerState::default());
    for (name, kind) in NAMES {
        let shown = if *kind == "counter" { format!("{name}_total") } else { (*name).to_owned() };
        assert!(body.contains(&format!("# TYPE {shown} {kind}\n")), "{name}: {body}");
        assert!(body.contains(&format!("# HELP {shown} ")), "{name}");
        let series = if *kind == "histogram" { format!("{name}_count") } else { shown };
        let is_series = |line: &str| line.strip_prefix(&series).is_some_and(|rest| rest.starts_with([' ', '{']));
        assert_eq!(body.lines().any(is_series), !OF_PEERS.contains(name), "{name}");
    }
    assert_eq!(body.matches("# TYPE ").count(), NAMES.len(), "a name is missing in this test: {body}");
}

#[test]
fn what_only_a_leader_knows_is_nan_elsewhere() {
    let follower = NodeState { peers: vec![peer("node2", None)], ..NodeState::default() };
    let body = with_state(follower).encode(Format::Text, ServerState::default());
    for line in [
        "huskv_raft_failure_tolerance NaN",
        "huskv_raft_peer_match_index{peer=\"node2\"} NaN",
        "huskv_raft_peer_lag_entries{peer=\"node2\"} NaN",
    ] {
        assert!(body.lines().any(|found| found == line), "{line}: {body}");
    }
    let peers = vec![peer("node2", Some(40)), peer("node3", Some(42))];
    let leader = NodeState { failure_tolerance: Some(1), peers, ..NodeState::default() };
    let body = with_state(leader).encode(Format::Text, ServerState::default());
    for line in ["huskv_raft_failure_tolerance 1", "huskv_raft_peer_match_index{peer=\"node3\"} 42"] {
        assert!(body.lines().any(|found| found == line), "{line}: {body}");
    }
}

#[test]
fn openmetrics_ends_with_its_mark_and_names_counters_without_their_suffix() {
    let state = NodeState { leader_changes: 3, ..NodeState::default() };
    let metrics = with_state(state);
    let body = metrics.encode(Format::OpenMetrics, ServerState::default());
    assert!(body.ends_with("# EOF\n") && body.matches("# EOF").count() == 1);
    assert!(
        body.contains("# TYPE huskv_server_leader_changes_seen counter\nhuskv_server_leader_changes_seen_total 3\n")
    );
    assert!(!metrics.encode(Format::Text, ServerState::default()).contains("# EOF"));
}

#[test]
fn a_hostile_name_stays_one_label() {
    let state = NodeState { node: "a\"} 7\nx{y=\"\\".into(), ..NodeState::default() };
    let body = with_state(state).encode(Format::Text, ServerState::default());
    assert!(body.contains(r#"node="a\"} 7\nx{y=\"\\"} 1"#), "{body}");
}

#[test]
fn every_name_is_documented() {
    let page = include_str!("../../../docs/monitoring.md");
    for (name, kind) in NAMES {
        let shown = if *kind == "counter" { format!("{name}_total") } else { (*name).to_owned() };
        assert!(page.contains(&format!("`{shown}`")) || page.contains(&format!("`{shown}{{")), "{shown}");
    }
}

#[test]
fn five_members_have_at_most_a_thousand_series() {
    let names = ["node2", "node3", "node4", "node5"];
    let peers = names.iter().map(|name| peer(name, Some(1))).collect();
    let metrics = with_state(NodeState { peers, ..NodeState::default() });
    metrics.network.set_members((2..).zip(names));
    let body = metrics.encode(Format::Text, ServerState::default());
    let series = body.lines().filter(|line| !line.starts_with('#')).count();
    assert!((500..=1000).contains(&series), "{series}");
    for name in OF_PEERS {
        assert!(body.contains(&format!("\n{name}")), "{name}");
    }
}
