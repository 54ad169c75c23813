//! The acceptor's clock as the dialler estimates it.
//!
//! Why: a forwarded request has a deadline, and the time of its arrival does not tell how much of it is left: a stopped process
//! finds the request in its socket seconds after it came. So the deadline is sent in the acceptor's own clock.
//!
//! Invariants: a pong carries the acceptor's clock before it was sent, so that clock is at least this far ahead when the pong is
//! read. The greatest of the latest differences is used: a deadline may be early by the delay of that pong, and is never late.
//!
//! Example: the acceptor's clock is 10 000 ms ahead. A pong that carries 15 000 is read at 5 003, 3 ms late: at least 9 997 ahead.
//! The next one carries 16 000 and is read at 7 000, because this process was stopped: at least 9 000 ahead. The greater one counts,
//! so a local deadline of 8 000 is sent as 17 997.
//!
//! See also: `consensus::proposals` (how the deadline is used).

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::consensus::Clock;
use crate::model::Millis;

/// The number of latest pongs used; clocks drift.
const SAMPLES: usize = 16;

/// The estimated clock of the acceptor of one connection.
pub struct PeerClock {
    local: Clock,
    /// The offsets of the latest pongs, in milliseconds; lower bounds.
    ahead: watch::Sender<VecDeque<i64>>,
    /// When the pings were sent that have no pong yet; a connection without pongs ends before they are many.
    pings: Mutex<VecDeque<Instant>>,
}

impl PeerClock {
    /// Returns an estimate without samples.
    pub fn new(local: Clock) -> Self {
        Self { local, ahead: watch::Sender::default(), pings: Mutex::default() }
    }

    /// Notes that a ping is sent.
    pub fn record_ping(&self) {
        self.pings().push_back(Instant::now());
    }

    /// Adds a pong that carried this time; returns the time since its ping.
    pub fn record_pong(&self, to_peer_time: Millis) -> Option<Duration> {
        // A lower bound: the pong took some time to get here, so the acceptor's clock is at least this far ahead by
        // now.
        let ahead = signed(to_peer_time).saturating_sub(signed(self.local.now()));
        self.ahead.send_modify(|samples| {
            samples.truncate(SAMPLES - 1);
            samples.push_front(ahead);
        });
        // Pongs come in the order of the pings.
        self.pings().pop_front().map(|sent| sent.elapsed())
    }

    fn pings(&self) -> MutexGuard<'_, VecDeque<Instant>> {
        self.pings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no pong was received yet.
    pub fn is_unknown(&self) -> bool {
        self.ahead.borrow().is_empty()
    }

    /// Waits for the first pong.
    pub async fn wait_for_first(&self) {
        // The sender lives as long as `self`.
        drop(self.ahead.subscribe().wait_for(|samples| !samples.is_empty()).await);
    }

    /// Converts a local time to the acceptor's clock, too early rather than too late.
    pub fn to_peer_time(&self, local: Millis) -> Millis {
        let ahead = self.ahead.borrow().iter().copied().max().unwrap_or(i64::MIN);
        u64::try_from(signed(local).saturating_add(ahead)).unwrap_or(0)
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
        let local = Clock::start();
        let clock = PeerClock::new(local);
        assert!(clock.is_unknown() && clock.to_peer_time(5_000) == 0);
        clock.record_ping();
        assert!(clock.record_pong(local.now() + 10_000).is_some(), "the round trip of its ping");
        clock.wait_for_first().await;
        // One that took 3 s, as one does that is read by a process which was stopped.
        assert!(clock.record_pong(local.now() + 7_000).is_none(), "it answers no ping");
        let to_peer_time = clock.to_peer_time(5_000);
        assert!((14_900..=15_000).contains(&to_peer_time), "{to_peer_time}");
        for _ in 0..SAMPLES {
            clock.record_pong(local.now() + 8_000);
        }
        let to_peer_time = clock.to_peer_time(5_000);
        assert!((12_900..=13_000).contains(&to_peer_time), "{to_peer_time}");
        clock.record_pong(u64::MAX);
        clock.to_peer_time(u64::MAX);
    }
}
