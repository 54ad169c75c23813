//! What a node knows of why its leader changes: contacts, stalls and syncs of the last seconds, and elections of its own.
//!
//! Why: raft knows that a term has another leader, and not why. What says why has passed by then: a leader that was stopped is in
//! contact with all again when it learns that it leads no more. So it is noted while it happens.
//!
//! Invariants: it only looks. No vote, no quorum and no request depends on it. All time is the core's.
//!
//! See also: the events (`driver::role_transition`), their sentences (`telemetry::node_events`).

use raft::eraftpb::{Message, MessageType};

use super::Liveness;
use crate::consensus::core::Core;
use crate::model::Millis;
use crate::telemetry::node_events::{LeaderChange, Reason};

/// What raft writes into the vote requests of a node that was told to lead.
const TRANSFER: &[u8] = b"CampaignTransfer";

/// Election timeouts for which what was noted explains a change.
const EXPLAINS: Millis = 3;

/// The shortest interval between two events of an election without an outcome.
const REPEAT_ELECTION: Millis = 60_000;

/// A span that ended at some time.
#[derive(Debug, Clone, Copy)]
struct Span {
    ended: Millis,
    ms: Millis,
}

/// A leader of a term.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    leader: u64,
    name: String,
    term: u64,
}

/// The last message of a leader.
#[derive(Debug, Clone, Copy)]
struct Contact {
    leader: u64,
    term: u64,
    at: Millis,
}

/// The election that this node stands for.
#[derive(Debug, Clone, Copy)]
struct Election {
    began: Millis,
    attempts: u64,
    noted: Millis,
}

/// The leaders that this node knew, and what explains their changes.
#[derive(Debug, Default)]
pub(crate) struct LeaderHistory {
    last: Option<Known>,
    contact: Option<Contact>,
    /// The contact with the leader before.
    former: Option<Contact>,
    /// When the clock ticked last.
    ticked: Option<Millis>,
    /// The last time that the loop stood still for long.
    stall: Option<Span>,
    /// The last time as a leader without a majority, with the voter that a majority lacked and was in contact last.
    lonely: Option<(Span, Option<u64>)>,
    /// The last time as a follower without any other voter.
    cut_off: Option<Millis>,
    /// The term of an election that a transfer has begun, until its leader is known: what ends that lead is another matter.
    transfer: Option<u64>,
    /// How this node lost its lead, until the next leader is known.
    loss: Option<LeaderChange>,
    election: Option<Election>,
}

/// Returns the silence of a leader that followers do not put up with.
fn patience(core: &Core) -> Millis {
    let beat = core.options.tick_ms * core.options.heartbeat_ticks as u64;
    core.election_timeout().saturating_sub(2 * beat).max(core.options.tick_ms)
}

/// How long what was noted explains a change, in milliseconds.
pub(crate) fn explains_ms(core: &Core) -> Millis {
    EXPLAINS * core.election_timeout()
}

/// Returns the time since the contact that a majority needs, and whose it was; None where there never was one.
fn majority_silence(core: &Core, live: &Liveness) -> (Option<Millis>, Option<u64>) {
    let me = core.raft_id();
    let others = core.conf_voters().iter().filter(|id| **id != me);
    let mut contacts: Vec<_> = others.map(|id| (live.contact.get(id).copied(), *id)).collect();
    contacts.sort_unstable_by(|a, b| b.cmp(a));
    // Of five voters a majority is three: the leader and the two that were in contact last, so the second one counts.
    let needed = core.conf_voters().len() / 2;
    match needed.checked_sub(1).and_then(|at| contacts.get(at)) {
        Some((at, id)) => (at.map(|at| core.now.saturating_sub(at)), Some(*id)),
        None => (None, None),
    }
}

impl LeaderHistory {
    /// Notes what is seen at a tick, before raft's clock goes on.
    pub fn tick(&mut self, core: &Core, live: &Liveness) {
        let before = self.ticked.replace(core.now);
        let gap = before.map_or(0, |before| core.now.saturating_sub(before));
        if gap >= patience(core) {
            self.stall = Some(Span { ended: core.now, ms: gap });
        }
        if core.leads() {
            let (silence, voter) = majority_silence(core, live);
            // Before the first contact it is the time since the election.
            let led = live.led_since.map(|since| core.now.saturating_sub(since));
            if let Some(ms) = silence.or(led).filter(|ms| *ms >= patience(core) && core.conf_voters().len() > 1) {
                self.lonely = Some((Span { ended: core.now, ms }, voter));
            }
        } else if self.is_awake(core) && self.is_cut_off(core, live) {
            self.cut_off = Some(core.now);
        }
    }

    /// Whether the loop has gone on for long enough after a stall to have heard the others.
    fn is_awake(&self, core: &Core) -> bool {
        self.stall.is_none_or(|stall| core.now >= stall.ended + patience(core))
    }

    /// Whether no other voter is in contact, of at least two.
    fn is_cut_off(&self, core: &Core, live: &Liveness) -> bool {
        let others = || core.conf_voters().iter().filter(|id| **id != core.raft_id());
        self.last.is_some() && others().count() > 1 && !others().any(|id| live.hears(core, *id))
    }

    /// Notes what a message says of a transfer, before raft takes it.
    pub fn received(&mut self, core: &Core, message: &Message) {
        match message.get_msg_type() {
            MessageType::MsgTimeoutNow if message.term == core.raw.raft.term => self.transfer = Some(message.term + 1),
            MessageType::MsgRequestVote if message.context == TRANSFER => self.transfer = Some(message.term),
            _ => {}
        }
    }

    /// Notes that the leader has sent a message, which raft has taken.
    pub fn leader_contact(&mut self, core: &Core) {
        let (leader, term) = (core.raw.raft.leader_id, core.raw.raft.term);
        if let Some(contact) = self.contact.filter(|contact| (contact.leader, contact.term) != (leader, term)) {
            self.former = Some(contact);
        }
        self.contact = Some(Contact { leader, term, at: core.now });
    }

    /// Returns the last message of the leader that was known last.
    fn contact_of_last(&self) -> Option<Millis> {
        let last = self.last.as_ref()?;
        let is_of_last = |contact: &&Contact| (contact.leader, contact.term) == (last.leader, last.term);
        self.contact.iter().chain(&self.former).find(is_of_last).map(|contact| contact.at)
    }

    /// Returns the time since then, as of now.
    fn silence_of_last(&self, core: &Core) -> Option<Millis> {
        self.contact_of_last().map(|at| core.now.saturating_sub(at))
    }

    fn explains(core: &Core, ended: Millis) -> bool {
        core.now <= ended + explains_ms(core)
    }

    fn longest_sync(core: &Core) -> Option<Millis> {
        core.syncs.since(core.now.saturating_sub(explains_ms(core)))
    }

    /// Whether the loop stood still in the last seconds, so that silence of others means nothing.
    pub fn has_stalled(&self, core: &Core) -> bool {
        self.recent_stall(core).is_some()
    }

    fn recent_stall(&self, core: &Core) -> Option<Span> {
        // A tick may be still to come after a stall, with the message that shows the change in front of it.
        let gap = self.ticked.map_or(0, |at| core.now.saturating_sub(at));
        let gap = Some(Span { ended: core.now, ms: gap }).filter(|gap| gap.ms >= patience(core));
        gap.or(self.stall).filter(|stall| Self::explains(core, stall.ended))
    }

    /// Returns the last stall, where the leader that was known last was not heard since.
    fn unheard_stall(&self, core: &Core) -> Option<Span> {
        // A loop that goes on handles what has arrived meanwhile, on a busy machine for some hundred milliseconds. A leader that lives
        // sends more after that.
        let heard_since = |stall: &Span| self.contact_of_last().is_some_and(|at| at > stall.ended + patience(core) / 2);
        self.recent_stall(core).filter(|stall| !heard_since(stall))
    }

    /// Returns the time since the last contact before a stall: what arrived meanwhile is no contact after it.
    fn silence_before(core: &Core, stall: Span) -> Millis {
        core.now.saturating_sub(stall.ended) + stall.ms
    }

    /// Returns the reason of a stall: a sync of the journal, or a process that the system did not let run.
    fn stall_reason(core: &Core, stall: Span) -> Reason {
        let is_slow = Self::longest_sync(core).is_some_and(|sync| sync >= patience(core) || sync >= stall.ms / 2);
        if is_slow { Reason::SlowSync } else { Reason::MissedHeartbeats }
    }

    /// Notes that this node leads no more; returns why, to no other leader yet.
    pub fn lost_lead(&mut self, core: &Core, live: &Liveness) -> LeaderChange {
        let stall = self.recent_stall(core);
        let lonely = self.lonely.filter(|(span, _)| Self::explains(core, span.ended));
        let (silence, voter) = majority_silence(core, live);
        let (mut last_contact_ms, mut last_contact) = (silence, voter);
        // While a loop stands still it takes no message either, so only a silence behind that is a partition.
        let is_lonely = |span: Span| stall.is_none_or(|stall| span.ended.saturating_sub(stall.ended) >= patience(core));
        let reason = if self.transfer == Some(core.raw.raft.term) {
            Reason::Transfer
        } else if let Some((span, voter)) = lonely.filter(|(span, _)| is_lonely(*span)) {
            (last_contact_ms, last_contact) = (Some(span.ms), voter);
            Reason::Partition
        } else if let Some(stall) = stall.filter(|stall| core.now < stall.ended + patience(core)) {
            // An election that began while it stood still has an outcome by then.
            Self::stall_reason(core, stall)
        } else if silence.is_none_or(|ms| ms >= patience(core)) {
            Reason::Partition
        } else {
            Reason::SteppedDown
        };
        let change = LeaderChange {
            from: Some(core.my_name()),
            to: None,
            reason,
            last_contact_ms,
            last_contact: last_contact.map(|id| core.name_of(id)),
            longest_sync_ms: Self::longest_sync(core),
            stalled_ms: stall.map(|stall| stall.ms),
            led: true,
        };
        self.loss = Some(change.clone());
        change
    }

    /// Notes the leader that raft knows now; returns the change, where it is another leader or term than the last one.
    pub fn leader_known(&mut self, core: &Core) -> Option<LeaderChange> {
        let (leader, term) = (core.raw.raft.leader_id, core.raw.raft.term);
        let is_same = self.last.as_ref().is_some_and(|last| (last.leader, last.term) == (leader, term));
        // A joiner follows a leader before it has the member table; its name comes with that.
        if is_same || core.state_machine.members().get(leader).is_none() {
            return None;
        }
        let name = core.name_of(leader);
        let silence = self.silence_of_last(core);
        let change = match (self.loss.take(), &self.last) {
            (Some(loss), _) => LeaderChange { to: Some(name.clone()), ..loss },
            (None, None) => LeaderChange { to: Some(name.clone()), ..Self::because(Reason::Restart) },
            // The only voter goes on in another term.
            (None, Some(last)) if last.leader == core.raft_id() => LeaderChange {
                from: Some(last.name.clone()),
                to: Some(name.clone()),
                led: true,
                ..Self::because(Reason::SteppedDown)
            },
            (None, Some(last)) => {
                let (reason, stall) = self.cause(core, silence);
                // What had arrived meanwhile is no contact after the stall.
                let silence = stall.map_or(silence, |stall| Some(Self::silence_before(core, stall)));
                LeaderChange {
                    from: Some(last.name.clone()),
                    to: Some(name.clone()),
                    last_contact_ms: silence,
                    last_contact: silence.map(|_| last.name.clone()),
                    longest_sync_ms: Self::longest_sync(core),
                    stalled_ms: stall.map(|stall| stall.ms),
                    ..Self::because(reason)
                }
            }
        };
        (self.last, self.cut_off, self.transfer) = (Some(Known { leader, name, term }), None, None);
        Some(change)
    }

    fn because(reason: Reason) -> LeaderChange {
        LeaderChange {
            from: None,
            to: None,
            reason,
            last_contact_ms: None,
            last_contact: None,
            longest_sync_ms: None,
            stalled_ms: None,
            led: false,
        }
    }

    /// Why a leader that another node was is none any more, by this node's silence with it; and how long this node stood still, where it
    /// has not heard that leader since.
    fn cause(&self, core: &Core, silence: Option<Millis>) -> (Reason, Option<Span>) {
        let stall = self.unheard_stall(core);
        if self.transfer == Some(core.raw.raft.term) {
            (Reason::Transfer, None)
        } else if self.cut_off.is_some_and(|at| Self::explains(core, at)) {
            (Reason::Partition, None)
        } else if let Some(stall) = stall {
            (Self::stall_reason(core, stall), Some(stall))
        } else if silence.is_none_or(|ms| ms >= patience(core)) {
            (Reason::MissedHeartbeats, None)
        } else {
            (Reason::SteppedDown, None)
        }
    }

    /// Returns the name of the leader that was known last, and whether that is this node.
    pub fn last_leader(&self, core: &Core) -> (Option<String>, bool) {
        let last = self.last.as_ref();
        (last.map(|last| last.name.clone()), last.is_some_and(|last| last.leader == core.raft_id()))
    }

    /// Notes an attempt to be elected; returns the reason, the silence of the last leader and the number of attempts, where it is to be
    /// an event.
    pub fn stands(&mut self, core: &Core) -> Option<(Reason, Option<Millis>, u64)> {
        let is_first = self.election.is_none();
        let election = self.election.get_or_insert(Election { began: core.now, attempts: 0, noted: core.now });
        election.attempts += 1;
        if !is_first && core.now < election.noted + REPEAT_ELECTION {
            return None;
        }
        election.noted = core.now;
        let attempts = election.attempts;
        let silence = self.silence_of_last(core).map(|silence| match self.unheard_stall(core) {
            Some(stall) => Self::silence_before(core, stall),
            None => silence,
        });
        // A pre-vote is for a term that the node is not in yet; a transfer asks for no pre-vote.
        let reason = match (&self.last, &self.loss) {
            _ if self.transfer == Some(core.raw.raft.term) => Reason::Transfer,
            (_, Some(loss)) => loss.reason,
            (None, None) => Reason::Restart,
            (Some(_), None) => Reason::MissedHeartbeats,
        };
        Some((reason, silence, attempts))
    }

    /// Ends the election that this node stands for; returns how long it took, and the attempts.
    pub fn election_ended(&mut self, core: &Core) -> Option<(Millis, u64)> {
        self.election.take().map(|election| (core.now.saturating_sub(election.began), election.attempts))
    }
}
