//! The joiner's side: what it takes for a node to give up what it is and become part of another cluster.
//!
//! Why: being adopted means starting from nothing under a fresh raft id. A node that has something to lose must not do
//! that by mistake, nor for a leader that it could never answer, nor because a stranger says so.
//!
//! Invariants: only a node without data of its own goes: pristine, removed, or joining somewhere from which nothing has
//! come; `force` covers a standalone node's data, never a member's. Whether it was removed a member knows from its own
//! cluster, never from an offer. The joiner dials the leader's advertised address and expects there, before anything
//! changes, another node, which is that leader and has made this very offer; a leader that has to remove something
//! first asks for that alone. The flip is the replacement of `identities`, durable before the answer. A node that leads
//! a join itself refuses, or two fresh nodes joined to each other would both vanish.
//!
//! See also: what the leader does with the answer (`join`), and the change of incarnation (`driver::lifecycle`).

use crate::consensus::core::client_request as refusals;
use crate::consensus::core::{Core, Phase};
use crate::consensus::input::Reply;
use crate::consensus::liveness::Liveness;
use crate::model::Millis;
use crate::model::{Code, JoinAccepted, JoinOffer, NodeKind, PreviousStatus, Refusal, WhoAmI, mib};
use crate::plant::{self, Plant};

/// How long a member that its own cluster wants to adopt may take to learn from the others that it was removed. The
/// leader waits for 6 s, of which dialling it may take 3.
const LEARNS_WITHIN: Millis = 2500;

/// What this node knows of being adopted.
#[derive(Default)]
pub(crate) struct Joiner {
    /// The offer that is being looked into.
    offer: Option<ReceivedOffer>,
    /// While joining: since when the cluster is waited for.
    pub(crate) waits_since: Millis,
    /// Whether the cluster that this node joins has said that the join is over.
    pub(crate) join_ended: bool,
}

/// An offer to adopt this node.
struct ReceivedOffer {
    adopt: JoinOffer,
    reply: Reply<Result<JoinAccepted, Refusal>>,
    waits_for: LeaderProof,
}

/// What an offer still needs.
enum LeaderProof {
    /// That this node's own cluster has removed it; until when.
    Removal(Millis),
    /// The leader's answer at its advertised address; the token of the question.
    Leader(u64),
}

/// What other components are in the middle of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Busy {
    /// A write is on its way into the log.
    pub writes: bool,
    /// This node leads a join that may be talking to its joiner.
    pub join: bool,
}

/// An offer that passed every check; the driver carries it out.
pub(crate) struct Accepted {
    pub adopt: JoinOffer,
    pub reply: Reply<Result<JoinAccepted, Refusal>>,
}

impl Joiner {
    /// Begins anew as another incarnation.
    pub fn swapped(&mut self, now: Millis) {
        self.waits_since = now;
        self.join_ended = false;
    }

    /// What this node is to its cluster.
    pub fn standing(&self, core: &Core, busy: Busy) -> NodeKind {
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
            kind: self.standing(core, busy),
            offers,
            raft_address: core.options.raft_address.clone(),
            moved: core.has_moved(),
        }
    }

    /// A leader wants this node.
    pub fn adopt(
        &mut self,
        core: &mut Core,
        live: &Liveness,
        busy: Busy,
        adopt: JoinOffer,
        reply: Reply<Result<JoinAccepted, Refusal>>,
    ) {
        let own_cluster = adopt.cluster_id == core.data_dir.identity().cluster_id;
        let listed = adopt.tombstones.contains(&core.raft_id());
        if core.phase == Phase::Joining && own_cluster && !listed {
            return reply(Ok(self.adopted(core, None)));
        }
        let removal = own_cluster && listed && self.standing(core, busy) == NodeKind::Member;
        let fit =
            if removal { self.may_consider(core, busy, &adopt) } else { self.may_be_adopted(core, live, busy, &adopt) };
        if let Err(refusal) = fit {
            return reply(Err(refusal));
        }
        let waits_for =
            if removal { LeaderProof::Removal(core.now + LEARNS_WITHIN) } else { self.dial_leader(core, &adopt) };
        self.offer = Some(ReceivedOffer { adopt, reply, waits_for });
    }

    fn dial_leader(&mut self, core: &mut Core, adopt: &JoinOffer) -> LeaderProof {
        let token = core.token();
        core.outbox.identify(token, &adopt.leader_address);
        LeaderProof::Leader(token)
    }

    /// Whether an offer can be looked into at all.
    fn may_consider(&self, core: &Core, busy: Busy, adopt: &JoinOffer) -> Result<(), Refusal> {
        let me = core.my_name();
        if core.stop_by.is_some() {
            return Err(refusals::stopping());
        }
        if self.offer.is_some() || busy.join {
            return Err(Refusal::not_applied(
                Code::JoinInProgress,
                format!("{me} is busy with another join; try again when that has ended"),
            ));
        }
        let previous = core.data_dir.identity().previous.as_ref().map(|previous| previous.raft_id);
        if adopt.leader_id == 0 || adopt.leader_id == core.raft_id() || Some(adopt.leader_id) == previous {
            return Err(Refusal::not_applied(
                Code::BadRequest,
                format!("the leader that is to adopt {me} is said to be {me} itself"),
            ));
        }
        Ok(())
    }

    fn may_be_adopted(&self, core: &Core, live: &Liveness, busy: Busy, adopt: &JoinOffer) -> Result<(), Refusal> {
        if plant::is(Plant::TombstonesBelieved) && adopt.tombstones.contains(&core.raft_id()) {
            return Ok(());
        }
        self.may_consider(core, busy, adopt)?;
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
        let own_cluster = adopt.cluster_id == identity.cluster_id;
        let has_data = |data: String| {
            Err(Refusal::not_applied(
                Code::HasData,
                format!("{me} holds {data} of its own, which a join would give up; \"force\": true does that"),
            ))
        };
        match self.standing(core, busy) {
            NodeKind::Removed => Ok(()),
            NodeKind::Joining if own_cluster => Ok(()),
            NodeKind::Joining if self.hears_its_cluster(core, live) => Err(Refusal::not_applied(
                Code::JoinInProgress,
                format!("{me} is being taken by another cluster; try again when that has ended"),
            )),
            NodeKind::Joining if !adopt.force && identity.previous.as_ref().is_some_and(|kept| kept.holds_data) => {
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
            NodeKind::Standalone if adopt.force => Ok(()),
            NodeKind::Standalone => has_data(format!("{} keys", core.state_machine.keys())),
            NodeKind::Member => Err(Refusal::not_applied(
                Code::OtherCluster,
                format!(
                    "{me} is a member of a cluster, which has not removed it as far as {me} knows; remove it there first"
                ),
            )),
        }
    }

    /// Whether anything has come from the cluster that this node joins, lately enough to wait for more.
    pub fn hears_its_cluster(&self, core: &Core, live: &Liveness) -> bool {
        live.contact.values().any(|heard| core.now < heard + core.options.join_wait_ms)
    }

    fn goes_back_at(&self, core: &Core, live: &Liveness) -> Millis {
        live.contact.values().copied().max().unwrap_or(0).max(self.waits_since) + core.options.join_wait_ms
    }

    /// What a joining node keeps, and for how long.
    pub fn previous_status(&self, core: &Core, live: &Liveness) -> Option<PreviousStatus> {
        let previous = core.data_dir.identity().previous.as_ref().filter(|_| core.phase == Phase::Joining)?;
        let goes_back_in_ms = self.goes_back_at(core, live).saturating_sub(core.now);
        Some(PreviousStatus { cluster_id: previous.cluster_id, raft_id: previous.raft_id, goes_back_in_ms })
    }

    /// The refusal of a node that is in no cluster yet.
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

    /// Why a node that joins goes back now to what it was, if it does.
    pub fn goes_back(&self, core: &Core, live: &Liveness) -> Option<&'static str> {
        if core.phase != Phase::Joining || core.stop_by.is_some() {
            return None;
        }
        if self.join_ended {
            return Some("the cluster has ended the join");
        }
        (core.now >= self.goes_back_at(core, live)).then_some("nothing has come from the cluster in time")
    }

    /// What is due while this node is being adopted, or waits for the cluster that has adopted it.
    pub fn tick_joiner(&mut self, core: &mut Core, live: &Liveness, busy: Busy) {
        let (now, removed) = (core.now, core.phase == Phase::Removed);
        let ripe = |offer: &mut ReceivedOffer| matches!(offer.waits_for, LeaderProof::Removal(until) if removed || now >= until);
        if let Some(ReceivedOffer { adopt, reply, .. }) = self.offer.take_if(ripe) {
            match self.may_be_adopted(core, live, busy, &adopt) {
                Ok(()) => {
                    let waits_for = self.dial_leader(core, &adopt);
                    self.offer = Some(ReceivedOffer { adopt, reply, waits_for });
                }
                Err(refusal) => reply(Err(refusal)),
            }
        }
    }

    /// The address that the leader gave for itself has answered, or nothing has.
    pub fn leader_identified(
        &mut self,
        core: &mut Core,
        live: &Liveness,
        busy: Busy,
        token: u64,
        result: Result<WhoAmI, Refusal>,
    ) -> Option<Accepted> {
        let asked = |offer: &mut ReceivedOffer| matches!(offer.waits_for, LeaderProof::Leader(asked) if asked == token);
        let ReceivedOffer { adopt, reply, .. } = self.offer.take_if(asked)?;
        let (me, address, leader) = (core.my_name(), &adopt.leader_address, &adopt.leader_name);
        let wrong = match result {
            Ok(who) if who.raft_id != adopt.leader_id || who.cluster_id != adopt.cluster_id => {
                Some((Code::Unreachable, format!("another node, {}, answers there", who.node_id)))
            }
            Ok(_) if plant::is(Plant::TombstonesBelieved) => None,
            Ok(who) if !who.offers.contains(&adopt.offer) => {
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
        if let Err(refusal) = self.may_be_adopted(core, live, busy, &adopt) {
            reply(Err(refusal));
            return None;
        }
        if adopt.prepare {
            reply(Ok(self.adopted(core, None)));
            return None;
        }
        Some(Accepted { adopt, reply })
    }

    pub fn adopted(&self, core: &Core, dropped: Option<String>) -> JoinAccepted {
        JoinAccepted {
            raft_id: core.raft_id(),
            started_as: core.data_dir.identity().started_as.clone(),
            http_address: core.options.http_address.clone(),
            dropped,
        }
    }

    /// The cluster that this node joins has given the join up. Of a member this says nothing.
    pub fn told_join_ended(&mut self, core: &Core, cluster_id: u64, raft_id: u64) {
        let ours = cluster_id == core.data_dir.identity().cluster_id && raft_id == core.raft_id();
        self.join_ended |= ours && core.phase == Phase::Joining;
    }
}

/// Which setting of the leader is to be changed where no node can dial it at the address that it advertises.
fn wrong_setting(address: &str, leader: &str, me: &str) -> String {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    format!(
        ". If {host} is not its host for {me}, set HUSKV_ADVERTISE_HOST of {leader} to a name that {me} can dial; if {port} \
         is not its port there, as behind a relay, set HUSKV_ADVERTISE_PORT"
    )
}

/// What the incarnation in use is busy being, as far as its directory says.
pub(crate) fn phase_of_incarnation(core: &Core) -> Phase {
    let identity = core.data_dir.identity();
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

/// Whether this node is alone and was never written to.
fn is_pristine(core: &Core) -> bool {
    let members = core.state_machine.members();
    members.len() == 1
        && members.get(core.raft_id()).is_some()
        && members.tombstones().next().is_none()
        && core.conf_voters() == [core.raft_id()]
        && !core.state_machine.was_written()
        && core.raw.store().journal.last_index() == core.state_machine.applied().0
}
