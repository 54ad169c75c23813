//! Forwarded requests to one member, until each is answered.
//!
//! Why: the connection may break, the member may be removed, the deadline may pass, all at once and from different tasks; the
//! client behind the loop needs exactly one answer.
//!
//! ```text
//!   open --> waiting --sending--> sent --Reply--> answered
//!               |                  '--- deadline, broken connection: unknown
//!               '--- deadline, no connection: not_applied
//! ```
//!
//! Invariants: every token accepted by [`Forwards::open`] is answered exactly once: whichever task removes it from the table
//! answers it. `not_applied` is only used for a request that was never given to the connection; from then on it is `unknown`.
//!
//! See also: `link`, `dialed_connection`.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::consensus::{Handle, Input};
use crate::model::Millis;
use crate::model::{Answer, Code, Refusal};
use crate::transport::memory_budget::BudgetPermit;

/// The maximum requests waiting for one member.
const MAX_WAITING: usize = 4096;

/// The forwarded requests of one member.
pub struct Forwards {
    handle: Handle,
    peer: String,
    table: Mutex<ForwardTable>,
    deadline_moved: Notify,
}

#[derive(Default)]
struct ForwardTable {
    closed: bool,
    waiting: HashMap<u64, PendingForward>,
    deadlines: BTreeSet<(Instant, u64)>,
}

struct PendingForward {
    deadline: Instant,
    /// The same instant by the process's clock.
    until_ms: Millis,
    sent: bool,
}

impl ForwardTable {
    fn take(&mut self, token: u64) -> Option<PendingForward> {
        let waiting = self.waiting.remove(&token)?;
        self.deadlines.remove(&(waiting.deadline, token));
        debug_assert_eq!(self.waiting.len(), self.deadlines.len(), "one deadline per request");
        Some(waiting)
    }

    fn take_all(&mut self, which: impl Fn(&PendingForward) -> bool) -> Vec<(u64, PendingForward)> {
        let mut tokens: Vec<u64> =
            self.waiting.iter().filter(|(_, waiting)| which(waiting)).map(|(token, _)| *token).collect();
        tokens.sort_unstable();
        tokens.into_iter().filter_map(|token| Some((token, self.take(token)?))).collect()
    }
}

impl Forwards {
    /// Returns an empty table for the member `peer`.
    pub fn new(handle: Handle, peer: &str) -> Self {
        Self { handle, peer: peer.into(), table: Mutex::default(), deadline_moved: Notify::new() }
    }

    fn table(&self) -> MutexGuard<'_, ForwardTable> {
        self.table.lock().expect("no panic while the lock is held")
    }

    /// Adds a token; false if the table is full or closed.
    #[must_use]
    pub fn open(&self, token: u64, deadline: Instant) -> bool {
        let mut table = self.table();
        if table.closed || table.waiting.len() >= MAX_WAITING || table.waiting.contains_key(&token) {
            return false;
        }
        let until_ms = self.handle.clock().after(deadline.saturating_duration_since(Instant::now()));
        table.waiting.insert(token, PendingForward { deadline, until_ms, sent: false });
        table.deadlines.insert((deadline, token));
        // The expiry task sleeps until the earliest deadline: wakes it if this one is earlier.
        if table.deadlines.first() == Some(&(deadline, token)) {
            self.deadline_moved.notify_one();
        }
        true
    }

    /// Removes a token that could not be queued; false if it was answered already.
    #[must_use]
    pub fn withdraw(&self, token: u64) -> bool {
        self.table().take(token).is_some()
    }

    /// Marks a token as sent; returns its deadline by the process's clock, or None if it was answered already.
    pub fn sending(&self, token: u64) -> Option<Millis> {
        let mut table = self.table();
        let waiting = table.waiting.get_mut(&token)?;
        waiting.sent = true;
        Some(waiting.until_ms)
    }

    /// Answers one token, unless it was answered already.
    pub async fn answer(&self, token: u64, result: Result<Answer, Refusal>) {
        if self.withdraw(token) {
            self.handle.deliver(Input::Forwarded { token, result }).await;
        }
    }

    /// As [`Forwards::answer`], and releases the memory budget of the reply once the loop has it.
    pub async fn answer_counted(&self, token: u64, result: Result<Answer, Refusal>, permit: BudgetPermit) {
        if self.withdraw(token) {
            let input = Box::new(Input::Forwarded { token, result });
            self.handle.deliver(Input::Counted { input, room: Box::new(permit) }).await;
        }
    }

    /// The connection broke: answers what was sent as unknown.
    pub async fn broken(&self, reason: &str) {
        // Requests that were not sent stay: the next connection may still send them before their deadline.
        let lost = self.table().take_all(|waiting| waiting.sent);
        let detail = format!(
            "the request was sent on to {}, and then the connection broke ({reason}); it may or may not have been done",
            self.peer
        );
        for (token, _) in lost {
            let result = Err(Refusal::unknown(Code::Timeout, detail.clone()));
            self.handle.deliver(Input::Forwarded { token, result }).await;
        }
    }

    /// Closes the table and answers the rest.
    pub async fn close(&self, code: Code, reason: &str) {
        let left = {
            let mut table = self.table();
            table.closed = true;
            table.take_all(|_| true)
        };
        for (token, waiting) in left {
            let result = Err(if waiting.sent {
                Refusal::unknown(Code::Timeout, format!("the request was sent on to {}, but {reason}", self.peer))
            } else {
                Refusal::not_applied(code, format!("the request was not sent on to {}: {reason}", self.peer))
            });
            self.handle.deliver(Input::Forwarded { token, result }).await;
        }
    }

    /// Answers requests whose deadline passes, for ever.
    pub async fn expire(&self) {
        loop {
            let next = self.table().deadlines.first().copied();
            let Some((deadline, token)) = next else {
                self.deadline_moved.notified().await;
                continue;
            };
            if deadline > Instant::now() {
                tokio::select! {
                    () = sleep_until(deadline) => {}
                    () = self.deadline_moved.notified() => {}
                }
                continue;
            }
            // The lock was released since `first`: if the reply came meanwhile, its task has taken the token and
            // answered it.
            let Some(waiting) = self.table().take(token) else { continue };
            let result = Err(if waiting.sent {
                Refusal::unknown(
                    Code::Timeout,
                    format!("the request was sent on to {}, which did not answer in time", self.peer),
                )
            } else {
                Refusal::not_applied(
                    Code::NoLeader,
                    format!("the request could not be sent on to {} in time", self.peer),
                )
            });
            self.handle.deliver(Input::Forwarded { token, result }).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::consensus::{Inbox, channel};
    use crate::model::Outcome;

    fn forwards() -> (Forwards, Inbox) {
        let (handle, inbox) = channel(8);
        (Forwards::new(handle, "node2"), inbox)
    }

    fn outcomes(inbox: &mut Inbox) -> Vec<(u64, Option<(Code, Outcome)>)> {
        let mut outcomes = Vec::new();
        while let Ok(input) = inbox.peers.try_recv() {
            let Input::Forwarded { token, result } = input else { panic!("something else was delivered") };
            outcomes.push((token, result.err().map(|refusal| (refusal.code, refusal.outcome))));
        }
        outcomes
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(500)
    }

    #[tokio::test]
    async fn sent_requests_are_unknown_after_a_break_and_others_stay() {
        let (forwards, mut inbox) = forwards();
        assert!(forwards.open(1, soon()) && forwards.open(2, soon()));
        assert!(forwards.sending(1).is_some());
        forwards.broken("reset").await;
        assert_eq!(outcomes(&mut inbox), [(1, Some((Code::Timeout, Outcome::Unknown)))]);
        forwards.close(Code::Stopping, "the node stops").await;
        assert_eq!(outcomes(&mut inbox), [(2, Some((Code::Stopping, Outcome::NotApplied)))]);
        assert!(!forwards.open(3, soon()));
    }

    #[tokio::test]
    async fn a_token_is_answered_once() {
        let (forwards, mut inbox) = forwards();
        let moved = Answer::Transferred { node_id: "a".into() };
        assert!(forwards.open(1, soon()));
        assert!(!forwards.open(1, soon()));
        forwards.answer(1, Ok(moved.clone())).await;
        forwards.answer(1, Ok(moved)).await;
        forwards.broken("reset").await;
        assert_eq!(outcomes(&mut inbox), [(1, None)]);
        assert!(forwards.sending(1).is_none() && !forwards.withdraw(1));
    }

    #[tokio::test]
    async fn time_runs_out_in_the_order_of_the_deadlines() {
        let (forwards, mut inbox) = forwards();
        let now = Instant::now();
        assert!(forwards.open(1, now + Duration::from_millis(40)));
        assert!(forwards.open(2, now + Duration::from_secs(60)));
        let mut ended = Vec::new();
        let watch = async {
            while ended.len() < 2 {
                let Some(Input::Forwarded { token, result }) = inbox.peers.recv().await else { panic!("nothing came") };
                ended.push((token, result.map_err(|refusal| (refusal.code, refusal.outcome))));
                if ended.len() == 1 {
                    // Taken in while the book waits for one that is later.
                    assert!(forwards.open(3, Instant::now() + Duration::from_millis(20)));
                    assert!(forwards.sending(3).is_some());
                }
            }
        };
        tokio::select! {
            () = forwards.expire() => {}
            () = watch => {}
            () = tokio::time::sleep(Duration::from_secs(10)) => panic!("not expired"),
        }
        assert!(now.elapsed() >= Duration::from_millis(60));
        assert_eq!(ended[0], (1, Err((Code::NoLeader, Outcome::NotApplied))));
        assert_eq!(ended[1], (3, Err((Code::Timeout, Outcome::Unknown))));
        assert!(forwards.withdraw(2));
    }
}
