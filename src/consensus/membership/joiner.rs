//! The joiner's side: what it takes for a node to give up what it is and become part of another cluster.
//!
//! Why: being adopted means starting from nothing under a fresh raft id. A node that has something to lose must not do
//! that by mistake, nor for a leader that it could never answer, nor because a stranger says so.
//!
//! Laws: only a node without data of its own goes: pristine, removed, or joining somewhere from which nothing has come;
//! `force` covers a standalone node's data, never a member's. Whether it was removed a member knows from its own cluster,
//! never from an offer. The joiner dials the leader's advertised address and expects there, before anything changes,
//! another node, which is that leader and has made this very offer; a leader that has to remove something first asks for
//! that alone. The flip is the replacement of `identities`, durable before the answer. A node that leads a join itself
//! refuses, or two fresh nodes joined to each other would both vanish.
//!
//! Not here: what the leader does with the answer (`join`), and the way back (`incarnation`).

use slog::{info, warn};

use crate::consensus::core::Phase;
use crate::consensus::core::client_request as refusals;
use crate::consensus::driver::Driver;
use crate::consensus::input::Reply;
use crate::consensus::verification::Verification;
use crate::model::Millis;
use crate::model::{Code, JoinAccepted, JoinOffer, NodeKind, Refusal, WhoAmI, mib};
use crate::plant::{self, Plant};
use crate::storage::Error;

/// How long a member that its own cluster wants to adopt may take to learn from the others that it was removed. The leader
/// waits for 6 s, of which dialling it may take 3.
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

impl Driver {
    /// Whether this node is alone and nobody ever stored anything in it.
    pub(crate) fn is_pristine(&self) -> bool {
        let members = self.core.state_machine.members();
        members.len() == 1
            && members.get(self.core.raft_id()).is_some()
            && members.tombstones().next().is_none()
            && self.core.conf_voters() == [self.core.raft_id()]
            && !self.core.state_machine.was_written()
            && !self.proposals.any_write()
            && self.core.raw.store().journal.last_index() == self.core.state_machine.applied().0
    }

    /// What this node is to its cluster.
    pub(crate) fn standing(&self) -> NodeKind {
        match self.core.phase {
            Phase::Removed => NodeKind::Removed,
            Phase::Joining => NodeKind::Joining,
            Phase::Forming | Phase::Member if self.is_pristine() => NodeKind::Pristine,
            Phase::Forming | Phase::Member if self.core.state_machine.members().len() == 1 => NodeKind::Standalone,
            Phase::Forming | Phase::Member => NodeKind::Member,
        }
    }

    pub(crate) fn who_am_i(&self) -> WhoAmI {
        WhoAmI {
            node_id: self.core.my_name(),
            raft_id: self.core.raft_id(),
            cluster_id: self.core.data_dir.identity().cluster_id,
            http_address: self.core.options.http_address.clone(),
            standing: self.standing(),
            offers: self.membership.asked.keys().map(|token| self.core.offer_number(*token)).collect(),
            raft_address: self.core.options.raft_address.clone(),
            moved: self.core.has_moved(),
        }
    }

    /// A leader wants this node.
    pub(crate) fn adopt(&mut self, adopt: JoinOffer, reply: Reply<Result<JoinAccepted, Refusal>>) {
        let own_cluster = adopt.cluster_id == self.core.data_dir.identity().cluster_id;
        let listed = adopt.tombstones.contains(&self.core.raft_id());
        if self.core.phase == Phase::Joining && own_cluster && !listed {
            return reply(Ok(self.adopted(None)));
        }
        let removal = own_cluster && listed && self.standing() == NodeKind::Member;
        let fit = if removal { self.may_consider(&adopt) } else { self.may_be_adopted(&adopt) };
        if let Err(refusal) = fit {
            return reply(Err(refusal));
        }
        let waits_for =
            if removal { LeaderProof::Removal(self.core.now + LEARNS_WITHIN) } else { self.dial_leader(&adopt) };
        self.joiner.offer = Some(ReceivedOffer { adopt, reply, waits_for });
    }

    fn dial_leader(&mut self, adopt: &JoinOffer) -> LeaderProof {
        let token = self.core.token();
        self.core.outbox.identify(token, &adopt.leader_address);
        LeaderProof::Leader(token)
    }

    /// Whether an offer can be looked into at all.
    fn may_consider(&self, adopt: &JoinOffer) -> Result<(), Refusal> {
        let me = self.core.my_name();
        if self.core.stop_by.is_some() {
            return Err(refusals::stopping());
        }
        if self.joiner.offer.is_some() || self.membership.join_in_progress() {
            return Err(Refusal::not_applied(
                Code::JoinInProgress,
                format!("{me} is busy with another join; try again when that has ended"),
            ));
        }
        let previous = self.core.data_dir.identity().previous.as_ref().map(|previous| previous.raft_id);
        if adopt.leader_id == 0 || adopt.leader_id == self.core.raft_id() || Some(adopt.leader_id) == previous {
            return Err(Refusal::not_applied(
                Code::BadRequest,
                format!("the leader that is to adopt {me} is said to be {me} itself"),
            ));
        }
        Ok(())
    }

    fn may_be_adopted(&self, adopt: &JoinOffer) -> Result<(), Refusal> {
        if plant::is(Plant::TombstonesBelieved) && adopt.tombstones.contains(&self.core.raft_id()) {
            return Ok(());
        }
        self.may_consider(adopt)?;
        let me = self.core.my_name();
        if let Some(space) = self.core.own_space().filter(|space| space.is_nearly_full()) {
            let (free, reserve) = (mib(space.free_bytes), mib(space.reserve_bytes));
            return Err(Refusal::not_applied(
                Code::DiskNearlyFull,
                format!(
                    "the disk of {me} has {free} free and is to keep {reserve} (storage.reserve_mb), so the cluster's state \
                     does not fit there; free some space or use a larger disk"
                ),
            ));
        }
        let identity = self.core.data_dir.identity();
        let own_cluster = adopt.cluster_id == identity.cluster_id;
        let has_data = |data: String| {
            Err(Refusal::not_applied(
                Code::HasData,
                format!("{me} holds {data} of its own, which a join would give up; \"force\": true does that"),
            ))
        };
        match self.standing() {
            NodeKind::Removed => Ok(()),
            NodeKind::Joining if own_cluster => Ok(()),
            NodeKind::Joining if self.hears_its_cluster() => Err(Refusal::not_applied(
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
            NodeKind::Standalone => has_data(format!("{} keys", self.core.state_machine.keys())),
            NodeKind::Member => Err(Refusal::not_applied(
                Code::OtherCluster,
                format!(
                    "{me} is a member of a cluster, which has not removed it as far as {me} knows; remove it there first"
                ),
            )),
        }
    }

    /// What is due while this node is being adopted, or waits for the cluster that has adopted it.
    pub(crate) fn tick_joiner(&mut self) -> Result<(), Error> {
        let (now, removed) = (self.core.now, self.core.phase == Phase::Removed);
        let ripe = |offer: &mut ReceivedOffer| matches!(offer.waits_for, LeaderProof::Removal(until) if removed || now >= until);
        if let Some(ReceivedOffer { adopt, reply, .. }) = self.joiner.offer.take_if(ripe) {
            match self.may_be_adopted(&adopt) {
                Ok(()) => {
                    let waits_for = self.dial_leader(&adopt);
                    self.joiner.offer = Some(ReceivedOffer { adopt, reply, waits_for });
                }
                Err(refusal) => reply(Err(refusal)),
            }
        }
        self.go_back_when_due()
    }

    /// The address that the leader gave for itself has answered, or nothing has.
    pub(crate) fn leader_identified(&mut self, token: u64, result: Result<WhoAmI, Refusal>) -> Result<(), Error> {
        let asked = |offer: &mut ReceivedOffer| matches!(offer.waits_for, LeaderProof::Leader(asked) if asked == token);
        let Some(ReceivedOffer { adopt, reply, .. }) = self.joiner.offer.take_if(asked) else {
            return Ok(());
        };
        let (me, address, leader) = (self.core.my_name(), &adopt.leader_address, &adopt.leader_name);
        let wrong = match result {
            Ok(who) if who.raft_id != adopt.leader_id || who.cluster_id != adopt.cluster_id => {
                Some((Code::Unreachable, format!("another node, {}, answers there", who.node_id)))
            }
            Ok(who) if !who.offers.contains(&adopt.offer) && !plant::is(Plant::TombstonesBelieved) => {
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
            return Ok(());
        }
        // Much may have happened while the leader was dialled.
        if let Err(refusal) = self.may_be_adopted(&adopt) {
            reply(Err(refusal));
            return Ok(());
        }
        let adopted = if adopt.prepare { self.adopted(None) } else { self.become_adopted(&adopt)? };
        reply(Ok(adopted));
        Ok(())
    }

    /// The flip to a new, empty incarnation; durable on return. What this node was is kept until the cluster's state has
    /// arrived.
    fn become_adopted(&mut self, adopt: &JoinOffer) -> Result<JoinAccepted, Error> {
        let keys = self.core.state_machine.keys();
        let standalone = self.standing() == NodeKind::Standalone;
        let dropped = standalone.then(|| format!("the {keys} keys that {} held alone", self.core.my_name()));
        if let Some(dropped) = &dropped {
            warn!(self.core.log, "a forced join gives up data once the cluster's state has arrived"; "data" => dropped);
        }
        self.refuse_everything(refusals::joining);
        self.core.state_machine.abort_cut();
        let (raft_address, http_address) =
            (self.core.options.raft_address.clone(), self.core.options.http_address.clone());
        let incarnation = self.core.data_dir.adopt(adopt.cluster_id, &raft_address, &http_address, standalone)?;
        self.swap(incarnation)?;
        info!(self.core.log, "taken by a cluster";
            "cluster_id" => adopt.cluster_id, "as" => &adopt.node_id, "leader" => &adopt.leader_name, "raft_id" => self.core.raft_id());
        Ok(self.adopted(dropped))
    }

    fn adopted(&self, dropped: Option<String>) -> JoinAccepted {
        JoinAccepted {
            raft_id: self.core.raft_id(),
            started_as: self.core.data_dir.identity().started_as.clone(),
            http_address: self.core.options.http_address.clone(),
            dropped,
        }
    }

    /// The cluster that this node joins has given the join up. Of a member this says nothing.
    pub(crate) fn told_join_ended(&mut self, cluster_id: u64, raft_id: u64) {
        let ours = cluster_id == self.core.data_dir.identity().cluster_id && raft_id == self.core.raft_id();
        self.joiner.join_ended |= ours && self.core.phase == Phase::Joining;
    }

    /// Ends this node's part in its cluster; durable on return.
    pub(crate) fn become_removed(&mut self) -> Result<(), Error> {
        self.core.data_dir.update(|identity| identity.removed = true)?;
        self.core.phase = Phase::Removed;
        self.verification = Verification::default();
        self.core.state_machine.abort_cut();
        self.answer_own_removal();
        self.refuse_everything(refusals::removed);
        warn!(
            self.core.log,
            "this node was removed from its cluster; POST /raft/join for it on a member brings it back"
        );
        self.core.publish();
        Ok(())
    }
}

/// Which setting of the leader is to be changed where nobody finds it at the address that it advertises.
fn wrong_setting(address: &str, leader: &str, me: &str) -> String {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    format!(
        ". If {host} is not its host for {me}, set HUSKV_ADVERTISE_HOST of {leader} to a name that {me} can dial; if {port} \
         is not its port there, as behind a relay, set HUSKV_ADVERTISE_PORT"
    )
}
