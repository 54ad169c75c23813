//! Free disk space of the members, and the writes that a leader refuses while a voter has too little.
//!
//! Why: all members hold the same data, and a node whose disk is full ends. Before that happens, what would need more
//! space is refused, so that a full cluster still answers reads, deletes and membership requests.
//!
//! Invariants: every member reports its free space to every other one each second, so a new leader knows as much as the
//! last one. A report counts for [`REPORT_LIFETIME`]: a node that is down takes no space, and reports anew when it is
//! back. While any voter is below its reserve, nothing that may make the state larger is proposed for a client; below
//! its floor, nothing that changes a key, and no expiry. That ends by itself. A report counts what the member has yet
//! to write, and the leader what it has proposed since: a write is refused if it and the log after the report would
//! reach the reserve.
//!
//! ```text
//!   log of the leader   ... 40 | 41 ... 57 | 58 ... 63 |          the write that is asked for
//!                       report |  3 times their bytes  |  and  3 times its bytes  must fit above the reserve
//! ```
//!
//! See also: how the space is measured (`storage`), and that a snapshot of the state leaves the reserve alone.

use std::collections::BTreeMap;

use slog::{info, warn};

use crate::consensus::core::{Core, Phase};
use crate::model::Millis;
use crate::model::{Code, DiskSpace, Refusal, Request, mib};
use crate::plant::{self, Plant};
use crate::telemetry::node_events::Kind;

/// The interval of reports.
const REPORT_EVERY: Millis = 1000;

/// How long a report counts.
const REPORT_LIFETIME: Millis = 10_000;

/// How old the measurement in a report may be: the free space is read every 500 ms, and the report is on its way.
const MEASURED_WITHIN: Millis = 750;

/// File bytes per byte of a write: once in the journal, 1.8 times in the tree, rounded up.
const FILE_BYTES_PER_BYTE: u64 = 3;

/// The part of the log that the last report of a member covers.
#[derive(Clone, Copy)]
struct Coverage {
    /// Entries up to this index were written or pending when the report was made.
    index: u64,
    /// The index that the next report covers, and since when.
    next: (u64, Millis),
}

/// The reported free space.
#[derive(Default)]
pub(crate) struct VoterDiskSpace {
    /// By raft id, with the time of the report.
    reported: BTreeMap<u64, (DiskSpace, Millis)>,
    /// By raft id, this node included.
    covered: BTreeMap<u64, Coverage>,
    report_after: Millis,
    /// The last report of this node.
    own: Option<DiskSpace>,
    /// The voter for which this leader refuses writes, as logged.
    refuses_for: Option<u64>,
}

impl VoterDiskSpace {
    /// Returns the free space of a member, if it reported lately.
    pub fn space_of(&self, core: &Core, raft_id: u64) -> Option<DiskSpace> {
        if raft_id == core.raft_id() {
            return core.own_space();
        }
        let (space, at) = self.reported.get(&raft_id)?;
        (core.now < at + REPORT_LIFETIME).then_some(*space)
    }

    /// Reports the free space to every member, at once if its level has changed.
    pub fn broadcast_space(&mut self, core: &mut Core) {
        let Some(space) = core.own_space().filter(|_| core.phase == Phase::Member) else { return };
        let before = self.own.replace(space);
        // A change of the level is told at once, everything else once a second.
        let turned = before.map_or(space.is_nearly_full(), |before| before.level_differs(space));
        if turned {
            let (free, reserve) = (mib(space.free_bytes), mib(space.reserve_bytes));
            note_space(core, core.raft_id(), space);
            if space.is_below_floor() {
                warn!(core.log, "the disk is almost full: the cluster refuses deletes and touches, too, and expiries and \
                     checkpoints wait until more of it is free (storage.reserve_mb)"; "free" => free,
                     "floor" => mib(space.floor_bytes()), "directory" => core.data_dir.engine().path());
            } else if space.is_nearly_full() {
                warn!(core.log, "the disk is nearly full: the cluster refuses writes that need space until more of it is \
                     free (storage.reserve_mb)"; "free" => free, "reserve" => reserve, "directory" => core.data_dir.engine().path());
            } else {
                info!(core.log, "the disk has enough space again"; "free" => free, "reserve" => reserve);
            }
        }
        self.note_refusals(core);
        if !turned && core.now < self.report_after {
            return;
        }
        self.report_after = core.now + REPORT_EVERY;
        let me = core.raft_id();
        self.cover(core, me);
        let members = core.state_machine.members();
        self.reported.retain(|raft_id, _| members.get(*raft_id).is_some());
        self.covered.retain(|raft_id, _| members.get(*raft_id).is_some());
        for member in members.iter().filter(|member| member.raft_id != me) {
            core.outbox.tell_space(member.raft_id, space);
        }
    }

    /// Records the report of a member.
    pub fn record_space(&mut self, core: &Core, from: u64, space: DiskSpace) {
        if core.state_machine.members().get(from).is_some() {
            self.reported.insert(from, (space, core.now));
            self.cover(core, from);
        }
    }

    /// Notes which entries a new report covers.
    fn cover(&mut self, core: &Core, raft_id: u64) {
        // Not what the member has written by now, since the space was measured before: what it had by the last report.
        let (written, now) = (written_index(core, raft_id), core.now);
        let covered = self.covered.entry(raft_id).or_insert(Coverage { index: written, next: (written, now) });
        if now >= covered.next.1 + MEASURED_WITHIN {
            *covered = Coverage { index: covered.next.0, next: (written, now) };
        }
    }

    /// Returns a voter whose disk would be nearly full after so many more bytes of writes, its space, and the space that
    /// they and the log after its last report may need.
    fn voter_filled_by(&self, core: &Core, more: u64) -> Option<(u64, DiskSpace, u64)> {
        let (journal, unstable) = (&core.raw.store().journal, &core.raw.raft.raft_log.unstable);
        let more = more + unstable.entries_size as u64;
        core.conf_voters().iter().find_map(|voter| {
            let space = self.space_of(core, *voter)?;
            let since = self.covered.get(voter).map_or(0, |covered| journal.bytes_after(covered.index));
            let needed = (since + more).saturating_mul(FILE_BYTES_PER_BYTE);
            space.after_writing(needed).is_nearly_full().then_some((*voter, space, needed))
        })
    }

    /// Whether a voter's disk is nearly full, or would be after so many more bytes of writes.
    pub fn is_short_for(&self, core: &Core, more: u64) -> bool {
        self.voter_filled_by(core, more).is_some()
    }

    /// Returns a voter whose disk is nearly full; one below its floor comes first.
    pub fn nearly_full_voter(&self, core: &Core) -> Option<(u64, DiskSpace)> {
        // Voters only: a learner with a full disk stops no commit.
        let voters = core.conf_voters().iter().filter_map(|voter| Some((*voter, self.space_of(core, *voter)?)));
        voters.filter(|(_, space)| space.is_nearly_full()).max_by_key(|(_, space)| space.is_below_floor())
    }

    /// Returns a voter whose disk is below its floor.
    pub fn voter_below_floor(&self, core: &Core) -> Option<(u64, DiskSpace)> {
        self.nearly_full_voter(core).filter(|(_, space)| space.is_below_floor())
    }

    /// Returns why this leader does not propose a request now: it would need space that a voter does not have, after so
    /// many bytes of writes `ahead` of it that are to be proposed.
    pub fn lacks_space(&self, core: &Core, request: &Request, ahead: u64) -> Option<Refusal> {
        if plant::is(Plant::SpaceIgnored) {
            return None;
        }
        let Request::Write(write) = request else { return None };
        let command = &write.command;
        if !command.may_change_keys() {
            return None;
        }
        let reported = self.nearly_full_voter(core).filter(|(_, space)| command.may_grow() || space.is_below_floor());
        let (voter, space, needed) = match reported {
            Some((voter, space)) => (voter, space, 0),
            None if command.may_grow() => self.voter_filled_by(core, ahead + write.size() as u64)?,
            None => return None,
        };
        if write.idempotency_key.as_ref().is_some_and(|once| core.state_machine.is_duplicate(once)) {
            // It changes nothing any more, and its client is to hear what it came to.
            return None;
        }
        let is_only_voter = core.conf_voters().len() == 1;
        let detail = refusal_detail(&core.name_of(voter), space, needed, is_only_voter);
        Some(Refusal::not_applied(Code::DiskNearlyFull, detail))
    }

    /// Logs when this leader begins and ends to refuse writes.
    fn note_refusals(&mut self, core: &Core) {
        let voter = self.nearly_full_voter(core).filter(|_| core.leads());
        let before = std::mem::replace(&mut self.refuses_for, voter.map(|(voter, _)| voter));
        match (before, voter) {
            (None, Some((voter, space))) => {
                warn!(core.log, "writes that need space are refused: the disk of a voter is nearly full";
                    "node" => core.name_of(voter), "free" => mib(space.free_bytes), "reserve" => mib(space.reserve_bytes));
                if voter != core.raft_id() {
                    note_space(core, voter, space);
                }
            }
            (Some(before), None) if core.leads() => {
                info!(core.log, "writes that need space are taken again");
                // A voter that was removed, or whose report is too old, has no more space than before.
                let restored = self.space_of(core, before).filter(|space| !space.is_nearly_full());
                if let Some(space) = restored.filter(|_| before != core.raft_id()) {
                    note_space(core, before, space);
                }
            }
            _ => {}
        }
    }
}

/// Notes an event about the space of a voter.
fn note_space(core: &Core, raft_id: u64, space: DiskSpace) {
    let DiskSpace { free_bytes, reserve_bytes, .. } = space;
    let member = core.name_of(raft_id);
    core.note(if space.is_nearly_full() {
        Kind::SpaceShort { member, free_bytes, reserve_bytes }
    } else {
        Kind::SpaceRestored { member, free_bytes, reserve_bytes }
    });
}

/// Returns the index up to which a member has applied the log, as far as this node knows.
fn written_index(core: &Core, raft_id: u64) -> u64 {
    if raft_id == core.raft_id() {
        return core.state_machine.applied().0;
    }
    let committed = core.raw.raft.raft_log.committed;
    // A new leader knows no match index yet, and a follower none at all.
    let progress = core.raw.raft.prs().get(raft_id).filter(|progress| core.leads() && progress.matched > 0);
    progress.map_or(committed, |progress| progress.matched.min(committed))
}

fn refusal_detail(name: &str, space: DiskSpace, needed: u64, is_only_voter: bool) -> String {
    let (free, reserve) = (mib(space.free_bytes), mib(space.reserve_bytes));
    let needed = match needed {
        0 => String::new(),
        bytes => format!(", of which this request and those under way may need {},", mib(bytes)),
    };
    let refused = if space.is_below_floor() {
        let floor = mib(space.floor_bytes());
        format!("below {floor} deletes and touches are refused, too, since they take space before they free any")
    } else {
        "nothing is written that needs space".to_owned()
    };
    let removal = if is_only_voter { String::new() } else { format!(", or remove {name}") };
    let goes_on = if space.is_below_floor() { "Reads" } else { "Reads, deletes, touches" };
    format!(
        "the disk of {name} has {free} free once what is in its memory is written{needed} and is to keep {reserve} \
         (storage.reserve_mb), so {refused}; free some on that file system or make it larger{removal}. {goes_on} and \
         membership changes go on, and writes do by themselves once there is space"
    )
}
