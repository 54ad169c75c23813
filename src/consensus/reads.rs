//! Linearizable reads by ReadIndex (Raft thesis 6.4), batched.
//!
//! Why: a node that believes it leads may be deposed already; only a round of heartbeats proves the commit index that a
//! read must wait for. One round serves all reads that were there when it began.
//!
//! Laws: one round is in flight, the next takes everything that came meanwhile. A read is answered when the machine has
//! applied the index that its round confirmed. Raft drops a ReadIndex silently when there is no leader, before the
//! leader's first commit of its term and at any change of roles, so a round is repeated with a new context until the
//! deadline; an answer to any context of the round counts, for all its reads came before all of them. Leases are not
//! used: a transfer of leadership breaks them.
//!
//! Not here: raft's own bookkeeping of acknowledgements.

use raft::ReadState;

use super::driver::Driver;
use super::input::{Consistency, Fetched, Millis, Reply};
use crate::model::{Code, Refusal};
use crate::plant::{self, Plant};
use crate::storage::Error;

/// After how long an unanswered round is begun again.
const REPEAT_AFTER: Millis = 300;

/// The bytes of values after which a turn answers no further read. The rest is for the next turn, so that no number of
/// large reads at once holds up heartbeats.
const READ_BYTES_PER_TURN: usize = 4 << 20;

/// What a read counts besides its value.
const READ_COST: usize = 1 << 10;

/// The index of stale reads, which wait for none.
const STALE: u64 = 0;

/// How many contexts of a round are remembered.
const CONTEXTS: usize = 8;

struct Reader {
    key: Vec<u8>,
    deadline: Millis,
    reply: Reply<Result<Fetched, Refusal>>,
}

struct Round {
    contexts: Vec<Vec<u8>>,
    began: Millis,
    readers: Vec<Reader>,
}

/// All reads on this node.
pub(super) struct Reads {
    /// Raft id and the process's random number: no other life of any node makes the same contexts.
    nonce: (u64, u64),
    counter: u64,
    queue: Vec<Reader>,
    round: Option<Round>,
    /// Confirmed reads with the index they wait for.
    confirmed: Vec<(u64, Vec<Reader>)>,
}

impl Reads {
    pub fn new(nonce: (u64, u64)) -> Self {
        Self { nonce, counter: 0, queue: Vec::new(), round: None, confirmed: Vec::new() }
    }

    /// Goes on under another raft id; the counter goes on, so no context is used twice.
    pub fn renew(&mut self, nonce: (u64, u64)) {
        self.nonce = nonce;
    }

    fn context(&mut self) -> Vec<u8> {
        self.counter += 1;
        [self.nonce.0, self.nonce.1, self.counter].iter().flat_map(|part| part.to_be_bytes()).collect()
    }

    fn take_stale(&mut self, reader: Reader) {
        match self.confirmed.last_mut() {
            Some((STALE, readers)) => readers.push(reader),
            _ => self.confirmed.push((STALE, vec![reader])),
        }
    }

    fn len(&self) -> usize {
        self.queue.len()
            + self.round.as_ref().map_or(0, |round| round.readers.len())
            + self.confirmed.iter().map(|(_, readers)| readers.len()).sum::<usize>()
    }
}

fn no_quorum() -> Refusal {
    Refusal::not_applied(
        Code::NoQuorum,
        "the read could not be confirmed by a majority before its deadline; ?consistency=stale reads what this node has",
    )
}

impl Driver {
    /// Takes a read in; a stale one is answered by the next turn.
    pub(super) fn read(
        &mut self,
        key: Vec<u8>,
        consistency: Consistency,
        deadline: Millis,
        reply: Reply<Result<Fetched, Refusal>>,
    ) -> Result<(), Error> {
        if let Some(mut refusal) = self.unavailable() {
            refusal.leader = self.leader();
            reply(Err(refusal));
        } else if plant::is(Plant::ReadWithoutIndex) {
            self.answer_read(Reader { key, deadline, reply })?;
        } else if self.reads.len() >= self.options.pending_requests {
            reply(Err(Refusal::not_applied(
                Code::Overloaded,
                "too many reads wait on this node (limits.pending_requests); try again in a moment",
            )));
        } else if consistency == Consistency::Stale {
            self.reads.take_stale(Reader { key, deadline, reply });
        } else {
            self.reads.queue.push(Reader { key, deadline, reply });
        }
        Ok(())
    }

    /// Begins a round where reads wait and none is in flight, or the one in flight seems lost.
    pub(super) fn issue_read_index(&mut self) {
        let ready = self.raw.raft.leader_id != 0 && (!self.leads() || self.raw.raft.commit_to_current_term());
        if !ready {
            return;
        }
        match &self.reads.round {
            None if self.reads.queue.is_empty() => return,
            Some(round) if self.now < round.began + REPEAT_AFTER => return,
            _ => {}
        }
        let context = self.reads.context();
        let round =
            self.reads.round.get_or_insert_with(|| Round { contexts: Vec::new(), began: 0, readers: Vec::new() });
        if round.readers.is_empty() {
            round.readers = std::mem::take(&mut self.reads.queue);
        }
        round.began = self.now;
        if round.contexts.len() == CONTEXTS {
            round.contexts.remove(0);
        }
        round.contexts.push(context.clone());
        self.raw.read_index(context);
    }

    /// Another leader, another round: the one in flight is asked again at once.
    pub(super) fn repeat_read_index(&mut self) {
        if let Some(round) = &mut self.reads.round {
            round.began = self.now.saturating_sub(REPEAT_AFTER);
        }
    }

    pub(super) fn read_states(&mut self, states: Vec<ReadState>) {
        for state in states {
            let ours = self.reads.round.as_ref().is_some_and(|round| round.contexts.contains(&state.request_ctx));
            if ours && let Some(round) = self.reads.round.take() {
                self.reads.confirmed.push((state.index, round.readers));
            }
        }
    }

    /// Answers confirmed reads whose index is applied.
    pub(super) fn release_reads(&mut self) -> Result<(), Error> {
        if self.reads.confirmed.is_empty() {
            return Ok(());
        }
        let applied = self.machine.applied().0;
        let ready = self
            .reads
            .confirmed
            .extract_if(.., |(index, _)| *index <= applied || plant::is(Plant::ReadBeforeApplied))
            .collect::<Vec<_>>();
        let (mut left, mut later) = (READ_BYTES_PER_TURN, Vec::new());
        for (index, readers) in ready {
            let mut readers = readers.into_iter();
            while left > 0
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
    pub(super) fn any_read_ready(&self) -> bool {
        let applied = self.machine.applied().0;
        self.reads.confirmed.iter().any(|(index, _)| *index <= applied)
    }

    /// Answers a read; the bytes of the value.
    fn answer_read(&self, reader: Reader) -> Result<usize, Error> {
        let value = self.machine.get(&reader.key)?;
        let bytes = value.as_ref().map_or(0, |found| found.value.len());
        let (index, _) = self.machine.applied();
        (reader.reply)(Ok(Fetched { value, index, term: self.raw.raft.term }));
        Ok(bytes)
    }

    pub(super) fn expire_reads(&mut self) {
        let now = self.now;
        let late = |reader: &mut Reader| reader.deadline <= now;
        let mut expired = self.reads.queue.extract_if(.., late).collect::<Vec<_>>();
        if let Some(round) = &mut self.reads.round {
            expired.extend(round.readers.extract_if(.., late));
            if round.readers.is_empty() {
                self.reads.round = None;
            }
        }
        // A stale read needs no majority, so its client is told no such thing.
        for (_, readers) in self.reads.confirmed.iter_mut().filter(|(index, _)| *index != STALE) {
            expired.extend(readers.extract_if(.., late));
        }
        self.reads.confirmed.retain(|(_, readers)| !readers.is_empty());
        self.fail_reads(expired, no_quorum);
    }

    pub(super) fn refuse_reads(&mut self, why: fn() -> Refusal) {
        let mut readers = std::mem::take(&mut self.reads.queue);
        readers.extend(self.reads.round.take().into_iter().flat_map(|round| round.readers));
        readers.extend(std::mem::take(&mut self.reads.confirmed).into_iter().flat_map(|(_, readers)| readers));
        self.fail_reads(readers, why);
    }

    fn fail_reads(&self, readers: Vec<Reader>, why: fn() -> Refusal) {
        for reader in readers {
            let mut refusal = why();
            refusal.leader = self.leader();
            (reader.reply)(Err(refusal));
        }
    }
}
