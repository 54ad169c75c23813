//! ReadIndex for probes: whether a linearizable read would be confirmed now.
//!
//! Why: a node that knows a leader may have lost it a moment ago; only a round of ReadIndex proves that reads are answered.
//!
//! Invariants: however many probes come, they begin at most one round in [`ROUND`], and share its result. A probe waits at most
//! until its round is that old. The round waits in the queue of peers, so clients cannot keep it out, and counts in no figure of
//! reads.
//!
//! See also: what a round proves (`consensus::reads`), the other checks (`http::api::probes`).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::{Handle, stopping};
use crate::consensus::input::{Bounds, Consistency, Input, ReadGrant};
use crate::model::{Code, Refusal};

/// How long a round may take, and how long its result counts.
pub const ROUND: Duration = Duration::from_secs(1);

/// None while the round is under way.
type Outcome = Option<Result<(), Refusal>>;

/// The last round that probes have begun.
#[derive(Clone, Default)]
pub(super) struct LastRound(Arc<Mutex<Option<Round>>>);

struct Round {
    began: Instant,
    outcome: watch::Receiver<Outcome>,
}

impl Handle {
    /// Waits until a round of ReadIndex that began less than [`ROUND`] ago is confirmed and applied here, but no longer than `limit`.
    ///
    /// # Errors
    /// [`Refusal`] where it is not in that time, and where the node refuses reads.
    pub async fn probe_read_index(&self, limit: Duration) -> Result<(), Refusal> {
        let arrived = Instant::now();
        let (began, mut outcome) = self.join_round(arrived);
        // The outcome of a round that has ended in time counts, however little time is left.
        let ended = timeout_at((arrived + limit).min(began + ROUND), outcome.wait_for(Option::is_some)).await;
        match ended {
            Ok(Ok(outcome)) => outcome.clone().unwrap_or_else(|| Err(late())),
            // The loop has dropped the reply.
            Ok(Err(_)) => Err(stopping()),
            Err(_) => Err(late()),
        }
    }

    /// Returns the last round, or begins one where that is too old.
    fn join_round(&self, now: Instant) -> (Instant, watch::Receiver<Outcome>) {
        let mut last = self.read_index_probes.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(round) = last.as_ref().filter(|round| now < round.began + ROUND) {
            return (round.began, round.outcome.clone());
        }
        let (end, outcome) = watch::channel(None);
        let reply = Box::new(move |result: Result<ReadGrant, Refusal>| drop(end.send_replace(Some(result.map(drop)))));
        let (consistency, bounds) = (Consistency::Linearizable, Bounds::default());
        // A full queue drops the reply, and the probe fails.
        let _queued = self.offer(Input::Read { consistency, bounds, deadline: self.clock.after(ROUND), reply });
        *last = Some(Round { began: now, outcome: outcome.clone() });
        (now, outcome)
    }
}

fn late() -> Refusal {
    let detail =
        "no round of ReadIndex was confirmed and applied within 1 s; the other voters, or this node's loop, are slow";
    Refusal::not_applied(Code::NoQuorum, detail)
}

#[cfg(test)]
mod tests {
    use super::super::channel;
    use super::*;
    use crate::consensus::input::Reply;
    use crate::storage::{ReadPoint, StateReader};

    type Read = Reply<Result<ReadGrant, Refusal>>;

    /// The replies of the rounds that the loop was asked for since.
    fn asked(inbox: &mut super::super::Inbox) -> Vec<Read> {
        let mut replies = Vec::new();
        while let Ok(input) = inbox.peers.try_recv() {
            let Input::Read { reply, consistency: Consistency::Linearizable, .. } = input else { panic!("no read") };
            replies.push(reply);
        }
        assert!(inbox.clients.try_recv().is_err(), "clients have a queue of their own");
        replies
    }

    fn granted() -> ReadGrant {
        let state = StateReader::in_memory([], ReadPoint { index: 7, term: 1, clock: 0 });
        ReadGrant { state, term: 1, clock: 0 }
    }

    #[tokio::test(start_paused = true)]
    async fn probes_share_a_round_a_second() {
        let (handle, mut inbox) = channel(1);
        for _ in 0..3 {
            let probes = (0..100).map(|_| {
                tokio::spawn({
                    let handle = handle.clone();
                    async move { handle.probe_read_index(ROUND).await }
                })
            });
            let probes: Vec<_> = probes.collect();
            tokio::task::yield_now().await;
            tokio::time::advance(Duration::from_millis(500)).await;
            let mut replies = asked(&mut inbox);
            assert_eq!(replies.len(), 1);
            replies.remove(0)(Ok(granted()));
            for probe in probes {
                assert_eq!(probe.await.unwrap(), Ok(()));
            }
            tokio::time::advance(Duration::from_millis(499)).await;
            assert_eq!(handle.probe_read_index(ROUND).await, Ok(()));
            assert!(asked(&mut inbox).is_empty(), "the result is less than a second old");
            tokio::time::advance(Duration::from_millis(2)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_waits_no_longer_than_its_round_and_its_own_limit() {
        let (handle, mut inbox) = channel(1);
        let began = Instant::now();
        let brief = handle.probe_read_index(Duration::from_millis(10)).await.unwrap_err();
        assert!(brief.code == Code::NoQuorum && began.elapsed() < ROUND / 50, "{:?}", began.elapsed());
        tokio::time::advance(ROUND / 2).await;
        assert_eq!(handle.probe_read_index(ROUND).await.unwrap_err().code, Code::NoQuorum);
        assert!(began.elapsed() >= ROUND && began.elapsed() < ROUND * 11 / 10, "{:?}", began.elapsed());
        // One that ends too late proves nothing of now.
        asked(&mut inbox).remove(0)(Ok(granted()));
        assert_eq!(handle.probe_read_index(ROUND).await.unwrap_err().code, Code::NoQuorum);
        assert_eq!(asked(&mut inbox).len(), 1);
        drop(inbox);
        tokio::time::advance(ROUND).await;
        assert_eq!(handle.probe_read_index(ROUND).await.unwrap_err().code, Code::Stopping);
    }
}
