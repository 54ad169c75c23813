//! Linearizable reads by ReadIndex (Raft thesis 6.4), batched.
//!
//! Why: a node that believes it leads may be deposed already; only a round of heartbeats proves the commit index that a
//! read must wait for. One round serves all reads that were there when it began.
//!
//! Invariants: one round is in flight, the next takes everything that came meanwhile. A read is granted when the state
//! machine has applied the index that its round confirmed; the thread that serves the client then reads the state itself
//! ([`ReadGrant`]), at that index or a later one. Raft drops a ReadIndex silently when there is no leader,
//! before the leader's first commit of its term and at any change of roles, so a round is repeated with a new context
//! until the deadline; an answer to any context of the round counts, for all its reads came before all of them. Leases
//! are not used: a transfer of leadership breaks them. A stale read with a bound is granted at once where an earlier round proves enough ([`proven_freshness`]),
//! and waits for a round of its own where not. A node that lags refuses both at once (`readiness`); it lags, too, where
//! the leader leaves a round unanswered for too long ([`read_index_timeout`]), and asks on without a client then. Watchers'
//! `progress` rests on rounds too.
//!
//! See also: raft's own bookkeeping of acknowledgements.

pub(crate) mod proven_freshness;
pub(crate) mod read_index_timeout;

use raft::ReadState;

use super::core::Core;
use super::input::{Bounds, Consistency, ReadGrant, Reply};
use super::liveness::Liveness;
use super::liveness::readiness::Lag;
use crate::model::Millis;
use crate::model::{Code, Refusal};
use crate::plant::{self, Plant};
use proven_freshness::Freshness;
use read_index_timeout::RoundAge;

/// After how long an unanswered round is begun again.
const REPEAT_AFTER: Millis = 300;

/// How many contexts of a round are remembered.
const CONTEXTS: usize = 8;

/// A client that reads.
pub(crate) struct Reader {
    pub consistency: Consistency,
    pub bounds: Bounds,
    pub deadline: Millis,
    pub reply: Reply<Result<ReadGrant, Refusal>>,
}

impl Reader {
    fn refuse(self, refusal: Refusal) {
        (self.reply)(Err(refusal));
    }
}

struct Round {
    contexts: Vec<Vec<u8>>,
    /// When its first context was asked about.
    first: Millis,
    /// When its last context was.
    began: Millis,
    /// What this node had applied when it asked first.
    applied: u64,
    age: RoundAge,
    readers: Vec<Reader>,
}

/// All reads on this node.
pub(crate) struct Reads {
    /// Raft id and the process's random number: no other life of any node makes the same contexts.
    nonce: (u64, u64),
    counter: u64,
    queue: Vec<Reader>,
    round: Option<Round>,
    /// Confirmed reads with the index they wait for, and stale ones, which need no confirmation.
    confirmed: Vec<(u64, Vec<Reader>)>,
    freshness: Freshness,
}

/// What reads look at beside their own state.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub core: &'a Core,
    pub live: &'a Liveness,
    pub lag: &'a Lag,
    /// The cluster's time.
    pub time: u64,
}

/// How a round of ReadIndex ended.
pub(crate) enum RoundEnd {
    /// The leader has committed up to this index.
    Confirmed { index: u64, age: RoundAge },
    /// The leader has committed less than this node had applied when it asked.
    LeaderLacks { confirmed: u64, applied: u64, readers: Vec<Reader> },
}

impl Reads {
    pub fn new(nonce: (u64, u64)) -> Self {
        Self {
            nonce,
            counter: 0,
            queue: Vec::new(),
            round: None,
            confirmed: Vec::new(),
            freshness: Freshness::default(),
        }
    }

    /// Goes on under another raft id; the counter goes on, so no context is used twice.
    pub fn renew(&mut self, nonce: (u64, u64)) {
        self.nonce = nonce;
        self.freshness = Freshness::default();
    }

    fn context(&mut self) -> Vec<u8> {
        self.counter += 1;
        [self.nonce.0, self.nonce.1, self.counter].iter().flat_map(|part| part.to_be_bytes()).collect()
    }

    /// Lets a read wait only for `index`, or the later one that it asks for itself, to be applied.
    fn confirm(&mut self, index: u64, reader: Reader) {
        let index = index.max(reader.bounds.min_index);
        match self.confirmed.last_mut() {
            Some((last, readers)) if *last == index => readers.push(reader),
            _ => self.confirmed.push((index, vec![reader])),
        }
    }

    fn len(&self) -> usize {
        self.queue.len()
            + self.round.as_ref().map_or(0, |round| round.readers.len())
            + self.confirmed.iter().map(|(_, readers)| readers.len()).sum::<usize>()
    }
}

fn not_reached() -> Refusal {
    Refusal::not_applied(
        Code::Timeout,
        "this node has not applied min_index by the deadline; ask again, or another node",
    )
}

impl Reads {
    /// Takes a read in; a stale one is answered by the next turn that finds its index applied.
    pub fn read(&mut self, view: View<'_>, reader: Reader, unavailable: Option<Refusal>) {
        let consistency = reader.consistency;
        if let Some(mut refusal) = unavailable {
            refusal.leader = view.core.leader();
            reader.refuse(refusal);
        } else if consistency == Consistency::Linearizable
            && let Some(refusal) = view.lag.lagging(view.core)
        {
            fail(view.core, vec![reader], || refusal.clone());
        } else if plant::is(Plant::ReadWithoutIndex) {
            self.grant(view, reader);
        } else if self.len() >= view.core.options.pending_requests {
            reader.refuse(Refusal::not_applied(
                Code::Overloaded,
                "too many reads wait on this node (limits.pending_requests); try again in a moment",
            ));
        } else if consistency == Consistency::Stale && self.is_fresh_enough(view, &reader) {
            self.confirm(0, reader);
        } else if consistency == Consistency::Stale
            && (view.core.raw.raft.leader_id == 0 || view.lag.lagging(view.core).is_some())
        {
            reader.refuse(self.too_stale(view));
        } else {
            self.queue.push(reader);
        }
    }

    /// Begins a round where reads wait, or this node asks for itself, and none is in flight, or the one in flight seems
    /// lost.
    pub fn issue_read_index(&mut self, core: &mut Core, lag: &Lag) {
        let ready = core.raw.raft.leader_id != 0 && (!core.leads() || core.raw.raft.commit_to_current_term());
        if !ready {
            return;
        }
        match &self.round {
            None if self.queue.is_empty() && !core.feed.contact_requested() && !lag.asks(core) => return,
            Some(round) if core.now < round.began + REPEAT_AFTER => return,
            _ => {}
        }
        let (context, now, applied) = (self.context(), core.now, core.state_machine.applied().0);
        let (queue, age) = (&mut self.queue, RoundAge::new(leader(core), now));
        let begin =
            || Round { contexts: Vec::new(), first: now, began: now, applied, age, readers: std::mem::take(queue) };
        let round = self.round.get_or_insert_with(begin);
        round.began = now;
        if round.contexts.len() == CONTEXTS {
            round.contexts.remove(0);
        }
        round.contexts.push(context.clone());
        core.raw.read_index(context);
    }

    /// Another leader, another round: the one in flight is asked again at once.
    pub fn repeat_read_index(&mut self, core: &Core) {
        if let Some(round) = &mut self.round {
            round.began = core.now.saturating_sub(REPEAT_AFTER);
            round.age.ask(leader(core), core.now);
        }
    }

    /// A tick has passed: whether the leader that this node follows leaves the round in flight unanswered for too long.
    pub fn tick_round(&mut self, core: &Core, live: &Liveness) -> bool {
        let follows = core.raw.raft.leader_id != 0 && !core.leads();
        let round = self.round.as_mut().filter(|_| follows);
        round.is_some_and(|round| round.age.tick(live.leader_seen, core.options.election_ticks))
    }

    /// Takes the answers of raft to the round in flight.
    pub fn read_states(&mut self, states: Vec<ReadState>) -> Option<RoundEnd> {
        let round = self.round.as_ref()?;
        let state = states.into_iter().find(|state| round.contexts.contains(&state.request_ctx))?;
        let Round { first, applied, age, readers, .. } = self.round.take()?;
        // A leader that has committed in its term has all that was ever committed. One that confirms 80 to a node that had
        // applied 90 has lost ten entries, and a majority with it.
        if state.index < applied {
            return Some(RoundEnd::LeaderLacks { confirmed: state.index, applied, readers });
        }
        self.freshness.confirmed(first, state.index);
        for mut reader in readers {
            // It began after the read came, so what it shows is new enough for any bound.
            reader.bounds.max_stale_ms = None;
            self.confirm(state.index, reader);
        }
        Some(RoundEnd::Confirmed { index: state.index, age })
    }

    /// Grants confirmed reads whose index is applied.
    pub fn release_reads(&mut self, view: View<'_>) {
        let applied = view.core.applied();
        self.freshness.applied(applied);
        if plant::is(Plant::ReadBeforeApplied) {
            self.confirmed.iter_mut().for_each(|(index, _)| *index = applied.min(*index));
        }
        let ready = self.confirmed.extract_if(.., |(index, _)| *index <= applied).collect::<Vec<_>>();
        for reader in ready.into_iter().flat_map(|(_, readers)| readers) {
            self.grant(view, reader);
        }
    }

    /// Grants a read: its client's thread reads the state itself.
    fn grant(&self, view: View<'_>, reader: Reader) {
        if !self.is_fresh_enough(view, &reader) {
            return reader.refuse(self.too_stale(view));
        }
        let (state, term, clock) = (view.core.state_machine.reader().clone(), view.core.raw.raft.term, view.time);
        (reader.reply)(Ok(ReadGrant { state, term, clock }));
    }

    /// As of which moment this node's state is known to be the cluster's latest.
    pub fn fresh_as_of(&self, view: View<'_>) -> Option<Millis> {
        if plant::is(Plant::ContactWhenHandled) {
            return if view.core.leads() { Some(view.core.now) } else { view.live.leader_seen };
        }
        self.freshness.as_of()
    }

    fn is_fresh_enough(&self, view: View<'_>, reader: &Reader) -> bool {
        let fresh = |most| self.fresh_as_of(view).is_some_and(|as_of| view.core.now.saturating_sub(as_of) <= most);
        reader.bounds.max_stale_ms.is_none_or(fresh)
    }

    fn too_stale(&self, view: View<'_>) -> Refusal {
        let since = match self.fresh_as_of(view) {
            Some(as_of) => {
                format!("a leader has last confirmed this node's state {} ms ago", view.core.now.saturating_sub(as_of))
            }
            None => "no leader has confirmed this node's state since it started".to_owned(),
        };
        let refusal = Refusal::not_applied(Code::TooStale, format!("{since}, more than max_stale; ask another one"));
        Refusal { leader: view.core.leader(), ..refusal }
    }

    pub fn expire_reads(&mut self, view: View<'_>) {
        let now = view.core.now;
        // Without a leader no round will be confirmed soon, and a stale read does not wait for an election.
        let lost = view.core.raw.raft.leader_id == 0;
        let late = |reader: &mut Reader| reader.deadline <= now || (lost && reader.bounds.max_stale_ms.is_some());
        let mut expired = self.queue.extract_if(.., late).collect::<Vec<_>>();
        if let Some(round) = &mut self.round {
            expired.extend(round.readers.extract_if(.., late));
            // One without readers was begun for watchers, unless this node asks for itself.
            if round.readers.is_empty() && !view.lag.asks(view.core) && now >= round.began + REPEAT_AFTER {
                self.round = None;
            }
        }
        // What waits only for its turn lacks nothing that its client could be told of; it is answered, if late.
        let applied = view.core.applied();
        let unapplied = self.take_unapplied(view.core, |reader| reader.deadline <= now);
        let unproven = |reader: &mut Reader| reader.bounds.max_stale_ms.is_some() && reader.bounds.min_index <= applied;
        for reader in expired.extract_if(.., unproven) {
            reader.refuse(self.too_stale(view));
        }
        let (behind, unconfirmed) = expired.into_iter().partition(|reader| reader.bounds.min_index > applied);
        fail(view.core, behind, not_reached);
        fail(view.core, unconfirmed, || view.live.no_quorum(view.core));
        let (behind, unapplied): (Vec<_>, Vec<_>) =
            unapplied.into_iter().partition(|(_, reader)| reader.bounds.min_index > applied);
        fail(view.core, behind.into_iter().map(|(_, reader)| reader).collect(), not_reached);
        self.refuse_unapplied(view, unapplied);
    }

    /// This node lags: what waits for it to apply what is committed would wait until its deadline. A read that asks for
    /// an index waits for that, as it was told to.
    pub fn refuse_reads_that_lag(&mut self, view: View<'_>) {
        let applied = view.core.applied();
        let mut waiting = std::mem::take(&mut self.queue);
        // The round goes on: it says how far the leader is.
        waiting.extend(self.round.iter_mut().flat_map(|round| std::mem::take(&mut round.readers)));
        let mut waiting: Vec<_> = waiting.into_iter().map(|reader| (0, reader)).collect();
        let asks = |reader: &Reader| reader.consistency == Consistency::Stale && reader.bounds.min_index > applied;
        waiting.extend(self.take_unapplied(view.core, |reader| !asks(reader)));
        self.refuse_unapplied(view, waiting);
    }

    /// Takes the chosen reads that wait for an index to be applied, with that index.
    fn take_unapplied(&mut self, core: &Core, chosen: impl Fn(&Reader) -> bool) -> Vec<(u64, Reader)> {
        let (applied, mut taken) = (core.state_machine.applied().0, Vec::new());
        for (index, readers) in self.confirmed.iter_mut().filter(|(index, _)| *index > applied) {
            taken.extend(readers.extract_if(.., |reader| chosen(reader)).map(|reader| (*index, reader)));
        }
        self.confirmed.retain(|(_, readers)| !readers.is_empty());
        taken
    }

    fn refuse_unapplied(&self, view: View<'_>, readers: Vec<(u64, Reader)>) {
        for (index, reader) in readers {
            let refusal = match reader.consistency {
                Consistency::Stale => self.too_stale(view),
                Consistency::Linearizable => {
                    view.lag.lagging(view.core).unwrap_or_else(|| view.lag.not_applied_yet(view.core, index))
                }
            };
            fail(view.core, vec![reader], || refusal.clone());
        }
    }

    pub fn refuse_reads(&mut self, core: &Core, why: fn() -> Refusal) {
        let mut readers = std::mem::take(&mut self.queue);
        readers.extend(self.round.take().into_iter().flat_map(|round| round.readers));
        readers.extend(std::mem::take(&mut self.confirmed).into_iter().flat_map(|(_, readers)| readers));
        fail(core, readers, why);
    }
}

/// The leader that raft would ask, and its term.
fn leader(core: &Core) -> (u64, u64) {
    (core.raw.raft.leader_id, core.raw.raft.term)
}

/// Refuses reads, with the leader's address.
pub(crate) fn fail(core: &Core, readers: Vec<Reader>, why: impl Fn() -> Refusal) {
    for reader in readers {
        let mut refusal = why();
        refusal.leader = core.leader();
        reader.refuse(refusal);
    }
}
