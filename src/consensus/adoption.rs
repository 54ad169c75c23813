//! The joiner's side: what it takes for a node to give up what it is and become part of another cluster.
//!
//! Why: being adopted means starting from nothing under a fresh raft id. A node that has something to lose must not do
//! that by mistake, nor for a leader that it could never answer.
//!
//! Laws: only a node without data of its own goes: pristine, removed, or joining somewhere from which nothing has come;
//! `force` covers a standalone node's data, never a member's. The joiner dials the leader's advertised address and
//! expects that leader there, before anything changes. The flip is the replacement of `identity`, durable before the
//! answer. A node that leads a join itself refuses, or two fresh nodes joined to each other would both vanish.
//!
//! Not here: what the leader does with the answer (`join`).

use slog::{info, warn};

use super::driver::{Driver, Phase};
use super::input::Reply;
use super::requests;
use super::verification::Verification;
use crate::model::{Adopt, Adopted, Code, Refusal, Standing, WhoAmI};
use crate::storage::Error;

/// The adoption under way, if any: the leader is being dialled.
#[derive(Default)]
pub(super) struct Adoption {
    asked: Option<Asked>,
}

struct Asked {
    /// The token of the question to the leader's address.
    token: u64,
    adopt: Adopt,
    reply: Reply<Result<Adopted, Refusal>>,
}

impl Driver {
    /// Whether this node is alone and nobody ever stored anything in it.
    pub(super) fn is_pristine(&self) -> bool {
        let members = self.machine.members();
        members.len() == 1
            && members.get(self.raft_id()).is_some()
            && members.tombstones().next().is_none()
            && self.conf_voters() == [self.raft_id()]
            && !self.machine.was_written()
            && !self.requests.any_write()
            && self.raw.store().journal.last_index() == self.machine.applied().0
    }

    /// What this node is to its cluster.
    pub(super) fn standing(&self) -> Standing {
        match self.phase {
            Phase::Removed => Standing::Removed,
            Phase::Joining => Standing::Joining,
            Phase::Forming | Phase::Member if self.is_pristine() => Standing::Pristine,
            Phase::Forming | Phase::Member if self.machine.members().len() == 1 => Standing::Standalone,
            Phase::Forming | Phase::Member => Standing::Member,
        }
    }

    pub(super) fn who_am_i(&self) -> WhoAmI {
        WhoAmI {
            node_id: self.my_name(),
            raft_id: self.raft_id(),
            cluster_id: self.volume.identity().cluster_id,
            http_address: self.options.http_address.clone(),
            standing: self.standing(),
        }
    }

    /// A leader wants this node.
    pub(super) fn adopt(&mut self, adopt: Adopt, reply: Reply<Result<Adopted, Refusal>>) {
        let again = self.phase == Phase::Joining && adopt.cluster_id == self.volume.identity().cluster_id;
        if again && !adopt.tombstones.contains(&self.raft_id()) {
            return reply(Ok(self.adopted(None)));
        }
        if let Err(refusal) = self.may_be_adopted(&adopt) {
            return reply(Err(refusal));
        }
        let token = self.token();
        self.outbox.identify(token, &adopt.leader_address);
        self.adoption.asked = Some(Asked { token, adopt, reply });
    }

    fn may_be_adopted(&self, adopt: &Adopt) -> Result<(), Refusal> {
        let me = self.my_name();
        if self.stop_by.is_some() {
            return Err(requests::stopping());
        }
        if self.adoption.asked.is_some() || self.membership.join_in_progress() {
            return Err(Refusal::not_applied(
                Code::JoinInProgress,
                format!("{me} is busy with another join; try again when that has ended"),
            ));
        }
        if adopt.tombstones.contains(&self.raft_id()) {
            return Ok(());
        }
        match self.standing() {
            Standing::Pristine | Standing::Joining | Standing::Removed => Ok(()),
            Standing::Standalone if adopt.force => Ok(()),
            Standing::Standalone => Err(Refusal::not_applied(
                Code::HasData,
                format!(
                    "{me} holds {} keys of its own, which a join would give up; \"force\": true does that",
                    self.machine.keys()
                ),
            )),
            Standing::Member => Err(Refusal::not_applied(
                Code::OtherCluster,
                format!("{me} is a member of another cluster; remove it there first"),
            )),
        }
    }

    /// The address that the leader gave for itself has answered, or nothing has.
    pub(super) fn leader_identified(&mut self, token: u64, result: Result<WhoAmI, Refusal>) -> Result<(), Error> {
        let Some(Asked { adopt, reply, .. }) = self.adoption.asked.take_if(|asked| asked.token == token) else {
            return Ok(());
        };
        let (me, address, leader) = (self.my_name(), &adopt.leader_address, &adopt.leader_name);
        let wrong = match result {
            Ok(who) if who.raft_id == adopt.leader_id && who.cluster_id == adopt.cluster_id => None,
            Ok(who) => Some((Code::Unreachable, format!("another node, {}, answers there", who.node_id))),
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
        if let Err(refusal) = self.may_be_adopted(&adopt) {
            reply(Err(refusal));
            return Ok(());
        }
        let adopted = self.become_adopted(&adopt)?;
        reply(Ok(adopted));
        Ok(())
    }

    /// The flip to a new, empty incarnation; durable on return.
    fn become_adopted(&mut self, adopt: &Adopt) -> Result<Adopted, Error> {
        let keys = self.machine.keys();
        let standalone = self.standing() == Standing::Standalone;
        let dropped = standalone.then(|| format!("the {keys} keys that {} held alone", self.my_name()));
        if let Some(dropped) = &dropped {
            warn!(self.log, "giving up data for a forced join"; "dropped" => dropped);
        }
        self.refuse_everything(requests::joining);
        self.machine.abort_cut();
        let (raft_address, http_address) = (self.options.raft_address.clone(), self.options.http_address.clone());
        let incarnation = self.volume.adopt(adopt.cluster_id, &raft_address, &http_address)?;
        self.swap(incarnation)?;
        info!(self.log, "taken by a cluster";
            "cluster_id" => adopt.cluster_id, "as" => &adopt.node_id, "leader" => &adopt.leader_name, "raft_id" => self.raft_id());
        Ok(self.adopted(dropped))
    }

    fn adopted(&self, dropped: Option<String>) -> Adopted {
        Adopted {
            raft_id: self.raft_id(),
            started_as: self.volume.identity().started_as.clone(),
            http_address: self.options.http_address.clone(),
            dropped,
        }
    }

    /// Ends this node's part in its cluster; durable on return.
    pub(super) fn become_removed(&mut self) -> Result<(), Error> {
        self.volume.update(|identity| identity.removed = true)?;
        self.phase = Phase::Removed;
        self.verification = Verification::default();
        self.machine.abort_cut();
        self.answer_own_removal();
        self.refuse_everything(requests::removed);
        warn!(self.log, "this node was removed from its cluster; POST /raft/join for it on a member brings it back");
        self.publish();
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
