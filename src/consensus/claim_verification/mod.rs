//! Claim verification: before this node ends on a claim (removed, log lost, state diverged), it asks the other voters.
//!
//! Why: any process that reaches the peer port can claim that a node was removed, that its log is lost, or that its
//! state is wrong. Each is true at times, and then the node must end; so none is believed from the message alone. The
//! node stops serving clients, and probes the voters of its configuration, at their addresses in its table.
//!
//! Invariants: with `n` other voters, a removal and a lost log are true where more than half of those `n` say so, which
//! are a majority of the configuration that goes on without this node; of two voters the other one is believed. A lost
//! log needs the word of the leader too, that this node has acknowledged the index. A state is wrong where more than
//! half of all voters have one and the same other digest; a follower of two voters believes its leader. A verification
//! ends within [`LIMIT`], and the next one of its kind waits, so that a stranger cannot keep a node from serving; only
//! a state that a voter confirms to differ is not served while that stays so. While a lost log is verified, raft sees
//! no message and no tick. The message itself is never stepped. A removed node goes on to answer for others, with all that
//! it knows to be committed before its own removal.
//!
//! See also: when digests are compared (`state_divergence`), what of a message is believed (`plausibility`).

pub(crate) mod plausibility;
pub(crate) mod removal_commit_probe;
pub(crate) mod state_divergence;

use std::collections::{BTreeMap, BTreeSet};

use slog::{error, info, warn};

use super::core::{Core, Phase};
use super::input::Reply;
use crate::model::Millis;
use crate::model::{Code, Probe, ProbeReply, Recorded, Refusal};
use crate::storage::Error;

/// The maximum length of a verification.
const LIMIT: Millis = 5000;
/// The interval after which a voter that has not confirmed the claim is asked again.
const ASK_EVERY: Millis = 1000;
/// The first and the longest pause after a claim that was not confirmed.
const PAUSES: (Millis, Millis) = (1000, 30_000);
/// The time without a claim after which the pauses start over.
const QUIET: Millis = 60_000;

/// A claim in a message that would end this node if it were true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// This raft id was removed from the cluster.
    Removed,
    /// This node has acknowledged the entry at this index, which its log does not have.
    LogLost { index: u64 },
    /// The state of others at this applied index is not this node's, which has this digest.
    Diverged { index: u64, digest: u64 },
}

impl Claim {
    fn kind(self) -> usize {
        match self {
            Self::Removed => 0,
            Self::LogLost { .. } => 1,
            Self::Diverged { .. } => 2,
        }
    }

    fn words(self) -> String {
        match self {
            Self::Removed => "this node was removed from its cluster".into(),
            Self::LogLost { index } => {
                format!("this node has acknowledged the log up to {index}, and its log ends before")
            }
            Self::Diverged { index, .. } => {
                format!("the state of this node at index {index} is not that of the others")
            }
        }
    }
}

/// The result of the answers so far.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClaimOutcome {
    /// This node goes on.
    GoesOn,
    /// The voters confirm that this node was removed.
    Removed,
}

/// The vote of one answer on a claim.
#[derive(Debug, PartialEq, Eq)]
enum Vote {
    Yes,
    No,
    /// No, from the node that must know.
    Never,
    Nothing,
}

/// A claim that is being verified.
struct Open {
    claim: Claim,
    /// Open probes: token and voter.
    asked: BTreeMap<u64, u64>,
    /// The voters that confirm it, with their answers.
    yes: BTreeMap<u64, ProbeReply>,
    no: BTreeSet<u64>,
    never: bool,
    ask_at: Millis,
    until: Millis,
}

/// The pause of one kind of claim, after one that was not confirmed.
#[derive(Clone, Copy, Default)]
struct Pause {
    until: Millis,
    length: Millis,
}

/// What this node was told that would end it.
#[derive(Default)]
pub(crate) struct Verification {
    open: Option<Open>,
    pauses: [Pause; 3],
    /// What could not be told, until a leader is heard.
    untold: Option<String>,
    /// What the leader was found to lack, from then on.
    lacks: Option<String>,
}

impl Verification {
    /// Whether raft may neither step messages nor tick.
    pub fn holds_raft(&self) -> bool {
        self.open.as_ref().is_some_and(|open| matches!(open.claim, Claim::LogLost { .. }))
    }

    /// Whether a divergence of the state is being verified.
    fn diverged(&self) -> bool {
        self.open.as_ref().is_some_and(|open| matches!(open.claim, Claim::Diverged { .. }))
    }

    /// Returns for the status what is being verified, or could not be.
    pub fn words(&self) -> Option<String> {
        let open = self.open.as_ref().map(|open| format!("a peer says that {}", open.claim.words()));
        open.or_else(|| self.lacks.clone()).or_else(|| self.untold.clone())
    }

    /// Returns the refusal of a node that verifies a claim.
    pub fn refusal(&self) -> Option<Refusal> {
        if let Some(lacks) = &self.lacks {
            return Some(Refusal::not_applied(Code::Verifying, format!("{lacks}. Ask another node")));
        }
        self.open.as_ref().map(|open| {
            let claim = open.claim.words();
            Refusal::not_applied(
                Code::Verifying,
                format!(
                    "a peer says that {claim}; the other voters are being asked. Ask another node, or again in a moment"
                ),
            )
        })
    }

    /// Returns the pause of this kind of claim at `now`.
    fn pause(&mut self, claim: Claim, now: Millis) -> &mut Pause {
        let pause = &mut self.pauses[claim.kind()];
        if now >= pause.until + QUIET {
            *pause = Pause::default();
        }
        pause
    }
}

impl Verification {
    /// Handles a ReadIndex round whose leader has committed less than this node had applied before it asked. A leader
    /// confirms no round before it has committed in its own term, so it has all that was ever committed (Raft thesis
    /// 6.4), unless a majority has lost that. Then the two nodes cannot both be right.
    pub fn leader_lacks(&mut self, core: &Core, confirmed: u64, applied: u64) {
        let lacks = format!(
            "the leader says that entry {confirmed} is the last one committed, and this node had applied entry {applied}: a \
             majority of the voters has lost what was committed, as where their disks were brought back from older copies. \
             This node keeps what it has and serves no client; keep either its directory or the cluster as it is now, for which \
             this directory is moved away and the node joins again, empty"
        );
        if self.lacks.is_none() {
            error!(core.log, "what was committed is lost"; "detail" => &lacks);
        }
        self.lacks = Some(lacks);
    }

    /// Returns the other voters, with their addresses in the table.
    fn other_voters(&self, core: &Core) -> Vec<(u64, String)> {
        let others = core.conf_voters().iter().filter(|voter| **voter != core.raft_id());
        others
            .filter_map(|voter| Some((*voter, core.state_machine.members().get(*voter)?.raft_address.clone())))
            .collect()
    }

    /// Returns how many voters must confirm a claim.
    fn needed(&self, core: &Core, claim: Claim) -> usize {
        // Five voters: a removal needs three of the other four, a majority of the four that go on. A follower's state
        // needs three of four as well. Two voters: the one other is believed of a removal, and by a follower of its
        // state; a leader would need two, and goes on.
        let (all, others) = (core.conf_voters().len(), self.other_voters(core).len());
        match claim {
            Claim::Removed | Claim::LogLost { .. } => others / 2 + 1,
            Claim::Diverged { .. } if core.leads() => all / 2 + 1,
            // Never none: a lone voter has no other voter to confirm it.
            Claim::Diverged { .. } => (all / 2 + 1).min(others).max(1),
        }
    }

    /// Begins to verify a claim, unless another one is being verified, or one of its kind was not confirmed just now.
    pub fn verify(&mut self, core: &mut Core, claim: Claim) {
        let now = core.now;
        if self.open.as_ref().is_some_and(|open| open.claim == claim) {
            return;
        }
        let again = self.diverged() && matches!(claim, Claim::Diverged { .. });
        if core.phase != Phase::Member || core.stop_by.is_some() || (self.open.is_some() && !again) {
            return;
        }
        if now < self.pause(claim, now).until || self.needed(core, claim) > self.other_voters(core).len() {
            return;
        }
        if !again {
            let ask =
                self.other_voters(core).iter().map(|(voter, _)| core.name_of(*voter)).collect::<Vec<_>>().join(", ");
            warn!(core.log, "a peer says what would end this node: the other voters are asked, and clients wait";
                "says" => claim.words(), "asked" => ask);
        }
        let (asked, yes, no) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        self.open = Some(Open { claim, asked, yes, no, never: false, ask_at: now, until: now + LIMIT });
        self.ask_voters(core);
    }

    fn ask_voters(&mut self, core: &mut Core) {
        let Some(mut open) = self.open.take() else { return };
        open.ask_at = core.now + ASK_EVERY;
        let digest = match open.claim {
            Claim::Diverged { index, digest } => Some((index, digest)),
            Claim::Removed | Claim::LogLost { .. } => None,
        };
        let probe =
            Probe { cluster_id: core.data_dir.identity().cluster_id, raft_id: core.raft_id(), digest, entry: None };
        for (voter, address) in self.other_voters(core) {
            if !open.yes.contains_key(&voter) && !open.asked.values().any(|asked| *asked == voter) {
                let token = core.token();
                open.asked.insert(token, voter);
                core.outbox.probe(token, &address, probe);
            }
        }
        self.open = Some(open);
    }

    /// Counts the answer of a voter.
    pub fn probed(
        &mut self,
        core: &Core,
        token: u64,
        result: Result<ProbeReply, Refusal>,
    ) -> Result<ClaimOutcome, Error> {
        let Some(open) = self.open.as_mut() else { return Ok(ClaimOutcome::GoesOn) };
        let (Some(voter), Ok(reply)) = (open.asked.remove(&token), result) else { return Ok(ClaimOutcome::GoesOn) };
        match vote_of(open.claim, voter, &reply) {
            Vote::Yes => {
                open.no.remove(&voter);
                open.yes.insert(voter, reply);
            }
            Vote::No => drop(open.no.insert(voter)),
            Vote::Never => open.never = true,
            Vote::Nothing => {}
        }
        self.conclude(core)
    }

    /// Asks again, and ends a verification at its limit.
    pub fn tick_verification(&mut self, core: &mut Core) -> Result<ClaimOutcome, Error> {
        if core.raw.raft.leader_id != 0 && core.phase == Phase::Member {
            self.untold = None;
        }
        let Some(open) = &self.open else { return Ok(ClaimOutcome::GoesOn) };
        if core.now >= open.ask_at {
            self.ask_voters(core);
        }
        self.conclude(core)
    }

    /// Ends the verification of a divergence: the state is the leader's again.
    pub fn state_agrees(&mut self, core: &Core) {
        if self.diverged() {
            self.dismiss(core, "its state is that of the leader again");
        }
    }

    /// Ends a verification, if the answers decide it.
    fn conclude(&mut self, core: &Core) -> Result<ClaimOutcome, Error> {
        let Some(open) = &self.open else { return Ok(ClaimOutcome::GoesOn) };
        let (claim, others) = (open.claim, self.other_voters(core).len());
        let needed = self.needed(core, claim);
        let yes = match claim {
            Claim::Removed => open.yes.len(),
            Claim::LogLost { index } => {
                let leader = |reply: &ProbeReply| reply.acknowledged.is_some_and(|acknowledged| acknowledged >= index);
                if open.yes.values().any(leader) { open.yes.len() } else { 0 }
            }
            Claim::Diverged { .. } => {
                let alike = |one: &ProbeReply| open.yes.values().filter(|reply| reply.digest == one.digest).count();
                open.yes.values().map(alike).max().unwrap_or(0)
            }
        };
        if yes >= needed {
            return self.borne_out(core, claim);
        }
        let me = usize::from(core.conf_voters().contains(&core.raft_id()));
        // Four others, three needed: after two that say no the claim cannot be confirmed any more. One yes keeps it
        // open to its limit.
        let outvoted = match claim {
            Claim::Diverged { .. } => open.no.len() + me > core.conf_voters().len() / 2,
            Claim::Removed | Claim::LogLost { .. } => open.yes.is_empty() && open.no.len() + needed > others,
        };
        let stays = self.diverged() && !open.yes.is_empty();
        if open.never || outvoted {
            self.dismiss(core, "the other voters say that it is not so");
        } else if core.now >= open.until && !stays {
            self.dismiss(core, "too few of the other voters could tell");
        }
        Ok(ClaimOutcome::GoesOn)
    }

    /// Ends a verification without a confirmation.
    fn dismiss(&mut self, core: &Core, why: &str) {
        let Some(open) = self.open.take() else { return };
        let now = core.now;
        let pause = self.pause(open.claim, now);
        pause.length = (pause.length * 2).clamp(PAUSES.0, PAUSES.1);
        pause.until = now + pause.length;
        let next = pause.length;
        let (yes, no) = (self.named(core, open.yes.keys()), self.named(core, open.no.iter()));
        info!(core.log, "what a peer said is not borne out, and this node goes on"; "said" => open.claim.words(),
            "because" => why, "yes" => &yes, "no" => no, "next_in_ms" => next);
        if open.no.is_empty() && !open.never && open.claim == Claim::Removed {
            let untold = format!(
                "a peer says that this node was removed from its cluster, and too few of the voters that it knows could be \
                 asked ({yes} agree). If it was removed, POST /raft/join for it on a member, with a directory moved away"
            );
            warn!(core.log, "{}", untold);
            self.untold = Some(untold);
        }
    }

    fn named<'a>(&self, core: &Core, voters: impl Iterator<Item = &'a u64>) -> String {
        let names = voters.map(|voter| {
            let http = core.state_machine.members().get(*voter).map_or("-", |member| member.http_address.as_str());
            format!("{} ({http})", core.name_of(*voter))
        });
        let names = names.collect::<Vec<_>>().join(", ");
        if names.is_empty() { "none".into() } else { names }
    }

    /// Carries out a confirmed claim.
    fn borne_out(&mut self, core: &Core, claim: Claim) -> Result<ClaimOutcome, Error> {
        let Some(open) = self.open.take() else { return Ok(ClaimOutcome::GoesOn) };
        let witnesses = self.named(core, open.yes.keys());
        error!(core.log, "what a peer said is true"; "said" => claim.words(), "say" => &witnesses);
        let last = core.raw.raft.raft_log.last_index();
        let (what, detail) = match claim {
            Claim::Removed => return Ok(ClaimOutcome::Removed),
            Claim::LogLost { index } => (
                "the log",
                format!(
                    "log lost: this node has acknowledged index {index} to the leader, but its log ends at {last}. \
                     Healthy and with that index: {witnesses}"
                ),
            ),
            Claim::Diverged { index, .. } => (
                "the state",
                format!(
                    "the state differs: at index {index} it is not that of the other voters, which agree with each other. \
                     Healthy: {witnesses}"
                ),
            ),
        };
        Err(Error::Damaged { what: what.into(), detail, path: core.data_dir.engine().path() })
    }

    /// Answers the probe of another node.
    pub fn answer_probe(
        &mut self,
        core: &mut Core,
        probe: Probe,
        mine: Option<u64>,
        reply: Reply<Result<ProbeReply, Refusal>>,
    ) {
        if probe.cluster_id != core.data_dir.identity().cluster_id || core.phase == Phase::Joining {
            reply(Err(Refusal::not_applied(Code::OtherCluster, "this node is of another cluster")));
            return;
        }
        let (raft, members, asker) = (&core.raw.raft, core.state_machine.members(), probe.raft_id);
        let recorded = if members.is_tombstone(asker) {
            Recorded::Tombstone
        } else if members.get(asker).is_some() {
            Recorded::Member
        } else {
            Recorded::Unknown
        };
        reply(Ok(ProbeReply {
            raft_id: core.raft_id(),
            is_member: core.phase == Phase::Member,
            term: raft.term,
            last_index: raft.raft_log.last_index(),
            commit_index: raft.raft_log.committed,
            asker: recorded,
            acknowledged: raft.prs().get(asker).map(|progress| progress.matched).filter(|_| core.leads()),
            digest: mine,
            entry_committed: probe.entry.is_some_and(|entry| core.knows_committed(entry)),
        }));
        // Where it is the leader that differs, this is how it hears of it.
        match (probe.digest, mine) {
            (Some((index, theirs)), Some(mine)) if theirs != mine && core.leads() && recorded == Recorded::Member => {
                warn!(core.log, "the state of a member is not this leader's at an equal index"; "member" => core.name_of(asker), "index" => index);
                self.verify(core, Claim::Diverged { index, digest: mine });
            }
            _ => {}
        }
    }
}

/// Returns the vote of an answer on a claim.
fn vote_of(claim: Claim, voter: u64, reply: &ProbeReply) -> Vote {
    match claim {
        // A tombstone is permanent, whichever voter reports it and whatever has become of that voter.
        Claim::Removed => match reply.asker {
            Recorded::Tombstone => Vote::Yes,
            Recorded::Member if reply.is_member => Vote::No,
            Recorded::Member | Recorded::Unknown => Vote::Nothing,
        },
        _ if reply.raft_id != voter || !reply.is_member => Vote::Nothing,
        Claim::LogLost { index } => match reply.acknowledged {
            Some(acknowledged) if acknowledged < index => Vote::Never,
            _ if reply.commit_index >= index => Vote::Yes,
            _ => Vote::No,
        },
        Claim::Diverged { digest, .. } => match reply.digest {
            None => Vote::Nothing,
            Some(theirs) if theirs == digest => Vote::No,
            Some(_) => Vote::Yes,
        },
    }
}
