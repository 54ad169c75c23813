//! Linearizable reads by ReadIndex (Raft thesis 6.4), batched.
//!
//! Why: a node that believes it leads may be deposed already; only a round of heartbeats proves the commit index that a
//! read must wait for. One round serves all reads that were there when it began.
//!
//! Laws: one round is in flight, the next takes everything that came meanwhile. A read is answered when the machine has
//! applied the index that its round confirmed. Raft drops a ReadIndex silently when there is no leader, before the
//! leader's first commit of its term and at any change of roles, so a round is repeated with a new context until the
//! deadline; an answer to any context of the round counts, for all its reads came before all of them. Leases are not
//! used: a transfer of leadership breaks them. What a turn answers is bounded in bytes and time; the rest waits for the
//! next. A stale read with a bound is answered at once where an earlier round proves enough ([`freshness`]), and
//! waits for a round of its own where not. A node that lags refuses both at once (`readiness`). Watchers' `progress` rests on rounds too.
//!
//! Not here: raft's own bookkeeping of acknowledgements.

pub(crate) mod freshness;
pub(crate) mod unsent;

use raft::ReadState;

use super::driver::Driver;
use super::input::{Bounds, Consistency, Fetched, Listed, Reply};
use crate::model::Millis;
use crate::model::{Code, List, Refusal};
use crate::plant::{self, Plant};
use crate::storage::Error;
use freshness::Freshness;

/// After how long an unanswered round is begun again.
const REPEAT_AFTER: Millis = 300;

/// The bytes of values after which a turn answers no further read. The rest is for the next turn, so that no number of
/// large reads at once holds up heartbeats.
const READ_BYTES_PER_TURN: usize = 4 << 20;

/// What a read, and each key of a page, counts besides its value.
const READ_COST: usize = 1 << 10;

/// How many contexts of a round are remembered.
const CONTEXTS: usize = 8;

/// A client that reads.
pub(crate) struct Reader {
    pub wanted: Wanted,
    pub consistency: Consistency,
    pub bounds: Bounds,
    pub deadline: Millis,
}

/// What a client wants to read, and where that goes.
pub(crate) enum Wanted {
    Key { key: Vec<u8>, reply: Reply<Result<Fetched, Refusal>> },
    Page { list: List, reply: Reply<Result<Listed, Refusal>> },
}

impl Reader {
    fn refuse(self, refusal: Refusal) {
        match self.wanted {
            Wanted::Key { reply, .. } => reply(Err(refusal)),
            Wanted::Page { reply, .. } => reply(Err(refusal)),
        }
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

impl Reads {
    pub fn new(nonce: (u64, u64)) -> Self {
        let freshness = Freshness::default();
        Self { nonce, counter: 0, queue: Vec::new(), round: None, confirmed: Vec::new(), freshness }
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

impl Driver {
    /// Takes a read in; a stale one is answered by the next turn that finds its index applied.
    pub(crate) fn read(&mut self, reader: Reader) -> Result<(), Error> {
        let consistency = reader.consistency;
        if let Some(mut refusal) = self.unavailable() {
            refusal.leader = self.core.leader();
            reader.refuse(refusal);
        } else if consistency == Consistency::Linearizable
            && let Some(refusal) = self.lagging()
        {
            self.fail_reads(vec![reader], || refusal.clone());
        } else if plant::is(Plant::ReadWithoutIndex) {
            self.answer_read(reader)?;
        } else if self.reads.len() >= self.core.options.pending_requests {
            reader.refuse(Refusal::not_applied(
                Code::Overloaded,
                "too many reads wait on this node (limits.pending_requests); try again in a moment",
            ));
        } else if consistency == Consistency::Stale && self.is_fresh_enough(&reader) {
            self.reads.confirm(0, reader);
        } else if consistency == Consistency::Stale && (self.core.raw.raft.leader_id == 0 || self.lagging().is_some()) {
            reader.refuse(self.too_stale());
        } else {
            self.reads.queue.push(reader);
        }
        Ok(())
    }

    /// Begins a round where reads wait and none is in flight, or the one in flight seems lost.
    pub(crate) fn issue_read_index(&mut self) {
        let ready =
            self.core.raw.raft.leader_id != 0 && (!self.core.leads() || self.core.raw.raft.commit_to_current_term());
        if !ready {
            return;
        }
        match &self.reads.round {
            None if self.reads.queue.is_empty() && !self.core.feed.wants_contact() => return,
            Some(round) if self.core.now < round.began + REPEAT_AFTER => return,
            _ => {}
        }
        let (context, now, applied) = (self.reads.context(), self.core.now, self.core.state_machine.applied().0);
        let queue = &mut self.reads.queue;
        let begin = || Round { contexts: Vec::new(), first: now, began: now, applied, readers: std::mem::take(queue) };
        let round = self.reads.round.get_or_insert_with(begin);
        round.began = now;
        if round.contexts.len() == CONTEXTS {
            round.contexts.remove(0);
        }
        round.contexts.push(context.clone());
        self.core.raw.read_index(context);
    }

    /// Another leader, another round: the one in flight is asked again at once.
    pub(crate) fn repeat_read_index(&mut self) {
        if let Some(round) = &mut self.reads.round {
            round.began = self.core.now.saturating_sub(REPEAT_AFTER);
        }
    }

    pub(crate) fn read_states(&mut self, states: Vec<ReadState>) {
        for state in states {
            let ours = self.reads.round.as_ref().is_some_and(|round| round.contexts.contains(&state.request_ctx));
            if ours && let Some(round) = self.reads.round.take() {
                if state.index < round.applied {
                    self.leader_lacks(state.index, round.applied);
                    let refusal = self.unavailable();
                    self.fail_reads(round.readers, || {
                        refusal.clone().unwrap_or_else(|| self.live.no_quorum(&self.core))
                    });
                    continue;
                }
                self.reads.freshness.confirmed(round.first, state.index);
                self.lag.told(state.index);
                for mut reader in round.readers {
                    // It began after the read came, so what it shows is new enough for any bound.
                    reader.bounds.max_stale_ms = None;
                    self.reads.confirm(state.index, reader);
                }
            }
        }
    }

    /// Answers confirmed reads whose index is applied.
    pub(crate) fn release_reads(&mut self) -> Result<(), Error> {
        let applied = self.core.state_machine.applied().0;
        self.reads.freshness.applied(applied);
        if self.unsent.is_full() {
            return Ok(());
        }
        let ready = self
            .reads
            .confirmed
            .extract_if(.., |(index, _)| *index <= applied || plant::is(Plant::ReadBeforeApplied))
            .collect::<Vec<_>>();
        let (mut left, mut later) = (READ_BYTES_PER_TURN, Vec::new());
        for (index, readers) in ready {
            let mut readers = readers.into_iter();
            while left > 0
                && !self.unsent.is_full()
                && (left == READ_BYTES_PER_TURN || !self.core.budget.is_late(self.core.background.now()))
                && let Some(reader) = readers.next()
            {
                left = left.saturating_sub(self.answer_read(reader)? + READ_COST);
            }
            if readers.len() > 0 {
                later.push((index, readers.collect()));
            }
        }
        self.reads.confirmed.splice(0..0, later);
        Ok(())
    }

    /// Whether a turn would answer reads that the last one left.
    pub(crate) fn any_read_ready(&self) -> bool {
        let applied = self.core.state_machine.applied().0;
        // Where it is full, the next tick looks again.
        !self.unsent.is_full() && self.reads.confirmed.iter().any(|(index, _)| *index <= applied)
    }

    /// Answers a read; what it cost, as [`READ_BYTES_PER_TURN`] counts.
    fn answer_read(&self, reader: Reader) -> Result<usize, Error> {
        let (index, term, clock) = (self.core.state_machine.applied().0, self.core.raw.raft.term, self.cluster_time());
        if !self.is_fresh_enough(&reader) {
            reader.refuse(self.too_stale());
            return Ok(0);
        }
        Ok(match reader.wanted {
            Wanted::Key { key, reply } => {
                let value = self.core.state_machine.get(&key)?;
                let fetched = Fetched { value, index, term, clock };
                let cost = fetched.bytes();
                reply(Ok(fetched));
                cost
            }
            Wanted::Page { list, reply } => {
                let page = self.core.state_machine.list(&list)?;
                let listed = Listed { page, index, term, clock };
                let cost = listed.page.items.len() * READ_COST + listed.bytes();
                reply(Ok(listed));
                cost
            }
        })
    }

    /// As of which moment this node's state is known to be the cluster's latest.
    pub(crate) fn fresh_as_of(&self) -> Option<Millis> {
        if plant::is(Plant::ContactWhenHandled) {
            return if self.core.leads() { Some(self.core.now) } else { self.live.leader_seen };
        }
        self.reads.freshness.as_of()
    }

    fn is_fresh_enough(&self, reader: &Reader) -> bool {
        let fresh = |most| self.fresh_as_of().is_some_and(|as_of| self.core.now.saturating_sub(as_of) <= most);
        reader.bounds.max_stale_ms.is_none_or(fresh)
    }

    fn too_stale(&self) -> Refusal {
        let since = match self.fresh_as_of() {
            Some(as_of) => {
                format!("a leader has last confirmed this node's state {} ms ago", self.core.now.saturating_sub(as_of))
            }
            None => "no leader has confirmed this node's state since it started".to_owned(),
        };
        let refusal = Refusal::not_applied(Code::TooStale, format!("{since}, more than max_stale; ask another one"));
        Refusal { leader: self.core.leader(), ..refusal }
    }

    pub(crate) fn expire_reads(&mut self) {
        let now = self.core.now;
        // Without a leader no round will be confirmed soon, and whoever reads stale does not wait for an election.
        let lost = self.core.raw.raft.leader_id == 0;
        let late = |reader: &mut Reader| reader.deadline <= now || (lost && reader.bounds.max_stale_ms.is_some());
        let mut expired = self.reads.queue.extract_if(.., late).collect::<Vec<_>>();
        if let Some(round) = &mut self.reads.round {
            expired.extend(round.readers.extract_if(.., late));
            // One without readers was begun for those who watch.
            if round.readers.is_empty() && now >= round.began + REPEAT_AFTER {
                self.reads.round = None;
            }
        }
        // What waits only for its turn lacks nothing that its client could be told of; it is answered, if late.
        let applied = self.core.state_machine.applied().0;
        let unapplied = self.take_unapplied(|reader| reader.deadline <= now);
        let unproven = |reader: &mut Reader| reader.bounds.max_stale_ms.is_some() && reader.bounds.min_index <= applied;
        for reader in expired.extract_if(.., unproven) {
            reader.refuse(self.too_stale());
        }
        let (behind, unconfirmed) = expired.into_iter().partition(|reader| reader.bounds.min_index > applied);
        self.fail_reads(behind, not_reached);
        self.fail_reads(unconfirmed, || self.live.no_quorum(&self.core));
        let (behind, unapplied): (Vec<_>, Vec<_>) =
            unapplied.into_iter().partition(|(_, reader)| reader.bounds.min_index > applied);
        self.fail_reads(behind.into_iter().map(|(_, reader)| reader).collect(), not_reached);
        self.refuse_unapplied(unapplied);
    }

    /// This node lags: what waits for it to apply what is committed would wait until its deadline. A read that asks for
    /// an index waits for that, as it was told to.
    pub(crate) fn refuse_reads_that_lag(&mut self) {
        let applied = self.core.state_machine.applied().0;
        let mut waiting = std::mem::take(&mut self.reads.queue);
        // The round goes on: it says how far the leader is.
        waiting.extend(self.reads.round.iter_mut().flat_map(|round| std::mem::take(&mut round.readers)));
        let mut waiting: Vec<_> = waiting.into_iter().map(|reader| (0, reader)).collect();
        let asks = |reader: &Reader| reader.consistency == Consistency::Stale && reader.bounds.min_index > applied;
        waiting.extend(self.take_unapplied(|reader| !asks(reader)));
        self.refuse_unapplied(waiting);
    }

    /// Takes the chosen reads that wait for an index to be applied, with that index.
    fn take_unapplied(&mut self, chosen: impl Fn(&Reader) -> bool) -> Vec<(u64, Reader)> {
        let (applied, mut taken) = (self.core.state_machine.applied().0, Vec::new());
        for (index, readers) in self.reads.confirmed.iter_mut().filter(|(index, _)| *index > applied) {
            taken.extend(readers.extract_if(.., |reader| chosen(reader)).map(|reader| (*index, reader)));
        }
        self.reads.confirmed.retain(|(_, readers)| !readers.is_empty());
        taken
    }

    fn refuse_unapplied(&self, readers: Vec<(u64, Reader)>) {
        for (index, reader) in readers {
            let refusal = match reader.consistency {
                Consistency::Stale => self.too_stale(),
                Consistency::Linearizable => self.lagging().unwrap_or_else(|| self.not_applied_yet(index)),
            };
            self.fail_reads(vec![reader], || refusal.clone());
        }
    }

    pub(crate) fn refuse_reads(&mut self, why: fn() -> Refusal) {
        let mut readers = std::mem::take(&mut self.reads.queue);
        readers.extend(self.reads.round.take().into_iter().flat_map(|round| round.readers));
        readers.extend(std::mem::take(&mut self.reads.confirmed).into_iter().flat_map(|(_, readers)| readers));
        self.fail_reads(readers, why);
    }

    fn fail_reads(&self, readers: Vec<Reader>, why: impl Fn() -> Refusal) {
        for reader in readers {
            let mut refusal = why();
            refusal.leader = self.core.leader();
            reader.refuse(refusal);
        }
    }
}
