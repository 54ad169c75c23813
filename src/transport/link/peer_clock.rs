//! What the dialler knows of the acceptor's clock.
//!
//! Why: a request that is sent on has a deadline, and how much of it is left when it arrives cannot be told from the time
//! of its arrival: a process that was stopped finds it in its socket, seconds after it came. So the deadline travels as a
//! moment of the acceptor's own clock.
//!
//! Laws: a pong carries the acceptor's clock as it was before it was sent, so the clock is at least that far ahead when the
//! pong is read. The greatest of the latest of these differences is used: a deadline comes early by at most the time that
//! such a pong took, and never late. Nothing is sent on before the first pong.
//!
//! Not here: what is done with the deadline (`consensus::proposals`).

use std::collections::VecDeque;

use tokio::sync::watch;

use crate::consensus::Clock;
use crate::model::Millis;

/// How many of the latest pongs count; clocks drift.
const SAMPLES: usize = 16;

/// The acceptor's clock, as seen over one connection.
pub struct PeerClock {
    own: Clock,
    /// By how many milliseconds it is ahead, at least.
    ahead: watch::Sender<VecDeque<i64>>,
}

impl PeerClock {
    /// One of which nothing is known yet.
    pub fn new(own: Clock) -> Self {
        Self { own, ahead: watch::Sender::default() }
    }

    /// The acceptor's clock was at `theirs` before now.
    pub fn heard(&self, theirs: Millis) {
        let ahead = signed(theirs).saturating_sub(signed(self.own.now()));
        self.ahead.send_modify(|samples| {
            samples.truncate(SAMPLES - 1);
            samples.push_front(ahead);
        });
    }

    /// Whether nothing is known yet.
    pub fn is_unknown(&self) -> bool {
        self.ahead.borrow().is_empty()
    }

    /// Waits until something is known.
    pub async fn known(&self) {
        // The sender lives as long as `self`.
        drop(self.ahead.subscribe().wait_for(|samples| !samples.is_empty()).await);
    }

    /// A moment of the own clock by the acceptor's, rather too early than too late.
    pub fn theirs(&self, own: Millis) -> Millis {
        let ahead = self.ahead.borrow().iter().copied().max().unwrap_or(i64::MIN);
        u64::try_from(signed(own).saturating_add(ahead)).unwrap_or(0)
    }
}

fn signed(millis: Millis) -> i64 {
    i64::try_from(millis).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_quickest_of_the_latest_pongs_counts() {
        let own = Clock::start();
        let clock = PeerClock::new(own);
        assert!(clock.is_unknown() && clock.theirs(5_000) == 0);
        clock.heard(own.now() + 10_000);
        clock.known().await;
        // One that took 3 s, as one does that is read by a process which was stopped.
        clock.heard(own.now() + 7_000);
        let theirs = clock.theirs(5_000);
        assert!((14_900..=15_000).contains(&theirs), "{theirs}");
        (0..SAMPLES).for_each(|_| clock.heard(own.now() + 8_000));
        let theirs = clock.theirs(5_000);
        assert!((12_900..=13_000).contains(&theirs), "{theirs}");
        clock.heard(u64::MAX);
        clock.theirs(u64::MAX);
    }
}
