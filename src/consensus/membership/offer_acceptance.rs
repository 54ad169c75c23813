//! Acceptance of join offers: when a node leaves its incarnation and joins another cluster.
//!
//! Why: a joiner starts from nothing under a fresh raft id. A node that has something to lose must not do that by
//! mistake, nor for a leader that it could not reach, nor because any process says so.
//!
//! Invariants: only a node without data of its own joins: pristine, removed, or joining a cluster from which nothing
//! has come. `force` covers the data of a standalone node, never a member's. That it was removed a member learns from
//! its own cluster, never from an offer. Before anything changes the joiner dials the leader's advertised address, and
//! must find that leader there, with this very offer; a leader that has to remove a member first asks with `prepare`.
//! The commit point is the replacement of the `identity` file, durable before the answer. A node that leads a join
//! refuses, or two fresh nodes that join each other would both vanish.
//!
//! See also: what the leader does with the answer (`change_steps`), and the change of incarnation (`driver::own_incarnation_switch`).

use crate::consensus::core::pending_request as refusals;
use crate::consensus::core::{Core, Phase};
use crate::consensus::input::Reply;
use crate::consensus::liveness::Liveness;
use crate::model::Millis;
use crate::model::{Code, JoinAccepted, JoinOffer, NodeKind, PreviousStatus, Refusal, WhoAmI, mib};
use crate::plant::{self, Plant};

/// How long a member to which its own cluster offers a join may take to learn from the others that it was removed. The
/// leader waits for 6 s, of which the dial of it may take 3.
const LEARNS_WITHIN: Millis = 2500;

/// The state of a joiner.
#[derive(Default)]
pub(crate) struct Joiner {
    /// The offer that is being checked.
    received: Option<ReceivedOffer>,
    /// While joining: when the wait for the cluster began.
    pub(crate) waits_since: Millis,
    /// Whether the cluster has ended the join.
    pub(crate) join_ended: bool,
}

/// An offer of a leader to take this node into its cluster.
struct ReceivedOffer {
    offer: JoinOffer,
    reply: Reply<Result<JoinAccepted, Refusal>>,
    waits_for: LeaderProof,
}

/// The proof that an offer still needs.
enum LeaderProof {
    /// The removal by this node's own cluster, until this time.
    Removal(Millis),
    /// The leader's answer at its advertised address; the token of the request.
    Leader(u64),
}

/// What other components are doing that a joiner has to know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Busy {
    /// A write is queued or proposed.
    pub writes: bool,
    /// This node leads a join, which may be in contact with its joiner.
    pub join: bool,
}

/// An offer that passed every check; the driver carries it out.
pub(crate) struct Accepted {
    pub offer: JoinOffer,
    pub reply: Reply<Result<JoinAccepted, Refusal>>,
}

impl Joiner {
    /// Starts over in another incarnation.
    pub fn swapped(&mut self, now: Millis) {
        self.waits_since = now;
        self.join_ended = false;
    }

    /// Returns what this node is to its cluster.
    pub fn kind(&self, core: &Core, busy: Busy) -> NodeKind {
        match core.phase {
            Phase::Removed => NodeKind::Removed,
            Phase::Joining => NodeKind::Joining,
            Phase::Forming | Phase::Member if is_pristine(core) && !busy.writes => NodeKind::Pristine,
            Phase::Forming | Phase::Member if core.state_machine.members().len() == 1 => NodeKind::Standalone,
            Phase::Forming | Phase::Member => NodeKind::Member,
        }
    }

    pub fn who_am_i(&self, core: &Core, busy: Busy, offers: Vec<u64>) -> WhoAmI {
        WhoAmI {
            node_id: core.my_name(),
            raft_id: core.raft_id(),
            cluster_id: core.data_dir.identity().cluster_id,
            http_address: core.options.http_address.clone(),
            kind: self.kind(core, busy),
            offers,
            raft_address: core.options.raft_address.clone(),
            moved: core.has_moved(),
        }
    }

    /// Checks a leader's offer, and begins to collect the proof that it needs.
    pub fn receive_offer(
        &mut self,
        core: &mut Core,
        live: &Liveness,
        busy: Busy,
        offer: JoinOffer,
        reply: Reply<Result<JoinAccepted, Refusal>>,
    ) {
        let own_cluster = offer.cluster_id == core.data_dir.identity().cluster_id;
        let listed = offer.tombstones.contains(&core.raft_id());
        // The answer to an earlier offer was lost, and the leader asks again: this node has switched already and says
        // so once more.
        if core.phase == Phase::Joining && own_cluster && !listed {
            return reply(Ok(self.join_accepted(core, None)));
        }
        // The offer says that this node was removed. It is a claim: a member waits until its own cluster has confirmed
        // the removal.
        let removal = own_cluster && listed && self.kind(core, busy) == NodeKind::Member;
        let fit = if removal {
            self.check_preconditions(core, busy, &offer)
        } else {
            self.check_offer(core, live, busy, &offer)
        };
        if let Err(refusal) = fit {
            return reply(Err(refusal));
        }
        let waits_for =
            if removal { LeaderProof::Removal(core.now + LEARNS_WITHIN) } else { self.dial_leader(core, &offer) };
        self.received = Some(ReceivedOffer { offer, reply, waits_for });
    }

    fn dial_leader(&mut self, core: &mut Core, offer: &JoinOffer) -> LeaderProof {
        let token = core.token();
        core.outbox.identify(token, &offer.leader_address);
        LeaderProof::Leader(token)
    }

    /// Checks what holds for every offer.
    fn check_preconditions(&self, core: &Core, busy: Busy, offer: &JoinOffer) -> Result<(), Refusal> {
        let me = core.my_name();
        if core.stop_by.is_some() {
            return Err(refusals::stopping());
        }
        if self.received.is_some() || busy.join {
            return Err(Refusal::not_applied(
                Code::JoinInProgress,
                format!("{me} is busy with another join; try again when that has ended"),
            ));
        }
        let previous = core.data_dir.identity().previous.as_ref().map(|previous| previous.raft_id);
        if offer.leader_id == 0 || offer.leader_id == core.raft_id() || Some(offer.leader_id) == previous {
            return Err(Refusal::not_applied(
                Code::BadRequest,
                format!("the leader that is to offer {me} is said to be {me} itself"),
            ));
        }
        Ok(())
    }

    fn check_offer(&self, core: &Core, live: &Liveness, busy: Busy, offer: &JoinOffer) -> Result<(), Refusal> {
        if plant::is(Plant::TombstonesBelieved) && offer.tombstones.contains(&core.raft_id()) {
            return Ok(());
        }
        self.check_preconditions(core, busy, offer)?;
        let me = core.my_name();
        if let Some(space) = core.own_space().filter(|space| space.is_nearly_full()) {
            let (free, reserve) = (mib(space.free_bytes), mib(space.reserve_bytes));
            return Err(Refusal::not_applied(
                Code::DiskNearlyFull,
                format!(
                    "the disk of {me} has {free} free and is to keep {reserve} (storage.reserve_mb), so the cluster's state \
                     does not fit there; free some space or use a larger disk"
                ),
            ));
        }
        let identity = core.data_dir.identity();
        let own_cluster = offer.cluster_id == identity.cluster_id;
        let has_data = |data: String| {
            Err(Refusal::not_applied(
                Code::HasData,
                format!("{me} holds {data} of its own, which a join would give up; \"force\": true does that"),
            ))
        };
        match self.kind(core, busy) {
            NodeKind::Removed => Ok(()),
            NodeKind::Joining if own_cluster => Ok(()),
            NodeKind::Joining if self.hears_its_cluster(core, live) => Err(Refusal::not_applied(
                Code::JoinInProgress,
                format!("{me} is being taken by another cluster; try again when that has ended"),
            )),
            NodeKind::Joining if !offer.force && identity.previous.as_ref().is_some_and(|kept| kept.holds_data) => {
                has_data("data".into())
            }
            NodeKind::Joining => Ok(()),
            NodeKind::Pristine | NodeKind::Standalone if own_cluster => Err(Refusal::not_applied(
                Code::OtherCluster,
                format!(
                    "{me} is all that there is of that cluster; is one of the two a copy of the other's directory?"
                ),
            )),
            NodeKind::Pristine => Ok(()),
            NodeKind::Standalone if offer.force => Ok(()),
            NodeKind::Standalone => has_data(format!("{} keys", core.state_machine.keys())),
            NodeKind::Member => Err(Refusal::not_applied(
                Code::OtherCluster,
                format!(
                    "{me} is a member of a cluster, which has not removed it as far as {me} knows; remove it there first"
                ),
            )),
        }
    }

    /// Whether the cluster that this node joins was heard within the wait.
    pub fn hears_its_cluster(&self, core: &Core, live: &Liveness) -> bool {
        live.contact.values().any(|heard| core.now < heard + core.options.join_wait_ms)
    }

    fn goes_back_at(&self, core: &Core, live: &Liveness) -> Millis {
        live.contact.values().copied().max().unwrap_or(0).max(self.waits_since) + core.options.join_wait_ms
    }

    /// Returns the previous incarnation of a joining node, and when it rolls back.
    pub fn previous_status(&self, core: &Core, live: &Liveness) -> Option<PreviousStatus> {
        let previous = core.data_dir.identity().previous.as_ref().filter(|_| core.phase == Phase::Joining)?;
        let goes_back_in_ms = self.goes_back_at(core, live).saturating_sub(core.now);
        Some(PreviousStatus { cluster_id: previous.cluster_id, raft_id: previous.raft_id, goes_back_in_ms })
    }

    /// Returns the refusal of a node that has not joined yet.
    pub fn not_joined_yet(&self, core: &Core, live: &Liveness) -> Refusal {
        let Some(PreviousStatus { goes_back_in_ms, .. }) = self.previous_status(core, live) else {
            return refusals::joining();
        };
        let detail = format!(
            "this node is being taken by a cluster; ask another one, or wait. What it held is kept until the cluster's \
             state has arrived, and it goes back to that in {} s if nothing comes from the cluster",
            goes_back_in_ms.div_ceil(1000)
        );
        Refusal::not_applied(Code::Joining, detail)
    }

    /// Returns why a joining node rolls back now, if it does.
    pub fn goes_back(&self, core: &Core, live: &Liveness) -> Option<&'static str> {
        if core.phase != Phase::Joining || core.stop_by.is_some() {
            return None;
        }
        if self.join_ended {
            return Some("the cluster has ended the join");
        }
        (core.now >= self.goes_back_at(core, live)).then_some("nothing has come from the cluster in time")
    }

    /// Goes on with an offer that waits for a removal, once that is known or the wait is over.
    pub fn tick_joiner(&mut self, core: &mut Core, live: &Liveness, busy: Busy) {
        let (now, removed) = (core.now, core.phase == Phase::Removed);
        let ripe = |received: &mut ReceivedOffer| matches!(received.waits_for, LeaderProof::Removal(until) if removed || now >= until);
        if let Some(ReceivedOffer { offer, reply, .. }) = self.received.take_if(ripe) {
            match self.check_offer(core, live, busy, &offer) {
                Ok(()) => {
                    let waits_for = self.dial_leader(core, &offer);
                    self.received = Some(ReceivedOffer { offer, reply, waits_for });
                }
                Err(refusal) => reply(Err(refusal)),
            }
        }
    }

    /// Handles the answer from the leader's advertised address; returns the offer if all checks pass.
    pub fn leader_identified(
        &mut self,
        core: &mut Core,
        live: &Liveness,
        busy: Busy,
        token: u64,
        result: Result<WhoAmI, Refusal>,
    ) -> Option<Accepted> {
        let asked =
            |received: &mut ReceivedOffer| matches!(received.waits_for, LeaderProof::Leader(asked) if asked == token);
        let ReceivedOffer { offer, reply, .. } = self.received.take_if(asked)?;
        let (me, address, leader) = (core.my_name(), &offer.leader_address, &offer.leader_name);
        // Three checks of what answers at the advertised address: it is another node, it is that leader, and it lists
        // this offer. Without the last one any process could make this node join in the name of a leader that never
        // asked.
        let wrong = match result {
            Ok(who) if who.raft_id != offer.leader_id || who.cluster_id != offer.cluster_id => {
                Some((Code::Unreachable, format!("another node, {}, answers there", who.node_id)))
            }
            Ok(_) if plant::is(Plant::TombstonesBelieved) => None,
            Ok(who) if !who.offers.contains(&offer.offer) => {
                let detail = format!("{} answers there and knows nothing of this join", who.node_id);
                Some((Code::JoinInProgress, detail))
            }
            Ok(_) => None,
            Err(refusal) => Some((refusal.code, refusal.detail)),
        };
        if let Some((code, wrong)) = wrong {
            let advice = if code == Code::Unreachable { wrong_setting(address, leader, &me) } else { String::new() };
            reply(Err(Refusal::not_applied(
                Code::LeaderUnreachable,
                format!("{me} cannot reach the leader {leader} at {address}, which it advertises: {wrong}{advice}"),
            )));
            return None;
        }
        // Much may have happened while the leader was dialled.
        if let Err(refusal) = self.check_offer(core, live, busy, &offer) {
            reply(Err(refusal));
            return None;
        }
        if offer.prepare {
            reply(Ok(self.join_accepted(core, None)));
            return None;
        }
        Some(Accepted { offer, reply })
    }

    pub fn join_accepted(&self, core: &Core, dropped: Option<String>) -> JoinAccepted {
        JoinAccepted {
            raft_id: core.raft_id(),
            started_as: core.data_dir.identity().started_as.clone(),
            http_address: core.options.http_address.clone(),
            dropped,
        }
    }

    /// Notes that the cluster has ended the join; ignored by a member.
    pub fn note_join_ended(&mut self, core: &Core, cluster_id: u64, raft_id: u64) {
        let ours = cluster_id == core.data_dir.identity().cluster_id && raft_id == core.raft_id();
        self.join_ended |= ours && core.phase == Phase::Joining;
    }
}

/// Names the setting to change on a leader that cannot be dialled at its advertised address.
fn wrong_setting(address: &str, leader: &str, me: &str) -> String {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    format!(
        ". If {host} is not its host for {me}, set HUSKV_ADVERTISE_HOST of {leader} to a name that {me} can dial; if {port} \
         is not its port there, as behind a relay, set HUSKV_ADVERTISE_PORT"
    )
}

/// Returns the phase of the incarnation in use, as its directory says.
pub(crate) fn phase_of_incarnation(core: &Core) -> Phase {
    let identity = core.data_dir.identity();
    // Removed first: such a node has applied entries like any member. Joining is told by an empty state alone, which a
    // snapshot of the cluster ends.
    if identity.removed {
        Phase::Removed
    } else if core.state_machine.applied().0 == 0 {
        Phase::Joining
    } else if core.options.forming && !identity.formed && is_pristine(core) {
        Phase::Forming
    } else {
        Phase::Member
    }
}

/// Whether this node is the only member, and no client command was ever applied.
fn is_pristine(core: &Core) -> bool {
    let members = core.state_machine.members();
    // Alone, with no member ever removed, no write applied, and nothing in the log that might be one.
    members.len() == 1
        && members.get(core.raft_id()).is_some()
        && members.tombstones().next().is_none()
        && core.conf_voters() == [core.raft_id()]
        && !core.state_machine.was_written()
        && core.raw.store().journal.last_index() == core.state_machine.applied().0
}
