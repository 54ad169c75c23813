//! Raft's settings, and the `RawNode` over an incarnation.
//!
//! Why: the settings are few, and each has a reason that no test could show.
//!
//! See also: what is done with it (`consensus::driver::ready`).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use raft::{RawNode, ReadOnlyOption};
use slog::Logger;

use super::raft_storage::RaftStorage;
use crate::consensus::options::Options;
use crate::storage::{Error, Incarnation, StateMachine};

/// The maximum bytes of committed entries in a Ready.
pub(crate) const COMMITTED_BYTES_PER_READY: u64 = 1 << 20;

/// The bytes of entries in one append, unless a single entry is larger.
const MESSAGE_BYTES: usize = 512 << 10;

/// The bounds of the number of appends in flight to one follower.
const IN_FLIGHT: (usize, usize) = (8, 128);

/// Returns the maximum appends in flight to one follower. Raft counts messages and not bytes, so each counts as the
/// largest common one: a full append, or one entry with the largest value.
fn in_flight(options: &Options) -> usize {
    // 64 MiB for a follower and values of 1 MiB: 64 appends. Values of 8 MiB: 8, the least.
    let largest = MESSAGE_BYTES.max(options.limits.value_bytes);
    (options.follower_bytes / largest).clamp(IN_FLIGHT.0, IN_FLIGHT.1)
}

/// Builds raft over an incarnation.
pub(crate) fn raw_node(
    raft_id: u64,
    incarnation: Incarnation,
    options: &Options,
    log: &Logger,
    raft_log: &Logger,
) -> Result<(RawNode<RaftStorage>, StateMachine), Error> {
    let Incarnation { mut journal, mut state_machine } = incarnation;
    journal.limit_entry_cache(options.entry_cache_bytes);
    options.limit_memory(&mut state_machine);
    let config = raft::Config {
        id: raft_id,
        election_tick: options.election_ticks,
        heartbeat_tick: options.heartbeat_ticks,
        min_election_tick: options.election_range.map_or(0, |(from, _)| from),
        max_election_tick: options.election_range.map_or(0, |(_, to)| to),
        applied: state_machine.applied().0,
        max_size_per_msg: MESSAGE_BYTES as u64,
        max_inflight_msgs: in_flight(options),
        check_quorum: true,
        pre_vote: true,
        // raft 0.7.0 adds entries to an append that has none of its own without a look at where they begin. A follower
        // would then acknowledge an index that it does not have.
        batch_append: false,
        max_uncommitted_size: 64 << 20,
        max_committed_size_per_ready: COMMITTED_BYTES_PER_READY,
        read_only_option: ReadOnlyOption::Safe,
        ..raft::Config::default()
    };
    let store = RaftStorage {
        hard_state: journal.hard_state(),
        journal,
        conf_state: state_machine.conf_state().clone(),
        applied: state_machine.applied(),
        streaming: Cell::new(false),
        not_before: BTreeMap::new(),
        stream_failures: BTreeMap::new(),
        now: 0,
        broken: RefCell::new(None),
        log: log.clone(),
    };
    let raw = RawNode::new(&config, store, raft_log).map_err(|error| Error::Damaged {
        what: "the log".into(),
        detail: format!("raft cannot start from it: {error}"),
        path: String::from("of this node"),
    })?;
    Ok((raw, state_machine))
}
