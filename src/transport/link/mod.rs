//! One member, from this side: dialled again and again, for as long as the table lists it.
//!
//! Why: raft wants a channel to each member that may lose messages but never mixes up their order; this is the life of
//! that channel between its connections.
//!
//! Laws: nothing queues up for a member that cannot be reached: raft's messages are dropped (raft repeats them) and
//! requests are given back at once. The loop is told [`Input::PeerDown`] once for each spell of dropping. Between two
//! dials lies a backoff with jitter, whatever happens. What was only said, in a handshake or by another member, is worth
//! a bounded number of dials ([`Hints`]) until the member has answered there: anybody can say it, of anybody's address.
//!
//! Not here: what is said on an established connection (`dialer`).

pub(crate) mod acceptor;
pub(crate) mod dialer;
pub(crate) mod forwards;
pub(crate) mod peer_clock;
pub(crate) mod send_queue;

use std::mem::{Discriminant, discriminant};
use std::sync::Arc;
use std::time::Duration;

use slog::{Logger, info, warn};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::handshake::dial::{DialError, PeerAddress, dial};
use super::handshake::{Denial, Hello, Purpose};
use super::registry::Registry;
use crate::consensus::Input;
use crate::model::{BootHistory, Code, IdentityConflict, Refusal};
use dialer::{End, Outgoing};
use forwards::Forwards;
use send_queue::QueuedFrame;

/// The most parcels kept for the connection that is being dialled.
const HELD_PARCELS: usize = 128;
/// The shortest time between two dials.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// The longest time between two dials.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// A connection that lived this long was a good one: the backoff begins anew.
const GOOD_CONNECTION: Duration = Duration::from_secs(1);
/// How long one dial may take, all addresses of the name together.
const DIAL_LIMIT: Duration = Duration::from_secs(6);
/// How many dials at once an unproven word is worth: the first of a member to an address that is not the table's, or sooner
/// than the backoff has it.
const HINTS_AT_ONCE: u32 = 16;
/// How long it takes until another one is.
const HINT_EVERY: Duration = Duration::from_secs(30);
/// How often the log says what is dialled in vain.
const REMINDER_EVERY: Duration = Duration::from_secs(10);

/// A member and what belongs to it.
pub struct Peer {
    /// Its raft id.
    pub raft_id: u64,
    /// Its name, for messages.
    pub name: String,
    /// How this node introduces itself.
    pub hello: Hello,
    /// What all share.
    pub registry: Arc<Registry>,
    /// What is to be sent; its end retires the member at once.
    pub queue: mpsc::Receiver<QueuedFrame>,
    /// The requests on their way.
    pub forwards: Arc<Forwards>,
    /// Where it may be found; its end retires the member after a moment.
    pub whereabouts: watch::Receiver<PeerAddress>,
    /// What is remembered between two connections.
    pub life: LinkState,
}

/// What is remembered of a member between two connections.
pub struct LinkState {
    attempt: usize,
    backoff: Duration,
    away_since: Instant,
    reminded: Instant,
    /// What the attempts count from: a newer word begins them anew.
    known: Option<PeerAddress>,
    /// The kinds of refusal that the log has told already.
    told: Vec<Discriminant<DialError>>,
    ever_up: bool,
    told_down: bool,
    hints: Hints,
    /// The address at which the member answered last.
    proven: Option<String>,
}

/// How many dials an unproven word is still worth.
struct Hints {
    left: u32,
    since: Instant,
}

impl Hints {
    /// Takes one; false where none is left.
    fn take(&mut self, now: Instant) -> bool {
        while self.left < HINTS_AT_ONCE && now.duration_since(self.since) >= HINT_EVERY {
            (self.left, self.since) = (self.left + 1, self.since + HINT_EVERY);
        }
        if self.left == HINTS_AT_ONCE {
            self.since = now;
        }
        let some = self.left > 0;
        self.left -= u32::from(some);
        some
    }
}

impl LinkState {
    /// The life of a member begins with its first dial.
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            attempt: 0,
            backoff: BACKOFF_MIN,
            away_since: now,
            reminded: now,
            known: None,
            told: Vec::new(),
            ever_up: false,
            told_down: false,
            hints: Hints { left: HINTS_AT_ONCE, since: now },
            proven: None,
        }
    }
}

/// How a dial ended.
enum Dialled {
    Up(Box<Met>, Vec<QueuedFrame>),
    Failed(String, DialError),
    Over,
}

/// A connection on which both ends have introduced themselves.
struct Met {
    stream: TcpStream,
    address: String,
    lives: BootHistory,
}

impl Peer {
    /// Lives until the member is retired or the transport stops.
    pub async fn run(mut self) {
        let forwards = Arc::clone(&self.forwards);
        tokio::select! {
            () = self.live() => {}
            () = forwards.expire() => {}
        }
        forwards.close(Code::NoLeader, "the connection to it was given up").await;
    }

    async fn live(&mut self) {
        loop {
            self.life.told_down = false;
            match self.dial().await {
                Dialled::Over => return,
                Dialled::Failed(address, error) => self.note(&address, error).await,
                Dialled::Up(met, held) => {
                    if self.converse(*met, held).await {
                        return;
                    }
                }
            }
            if !self.pause().await {
                return;
            }
        }
    }

    /// Dials once. Raft's messages are held for the connection meanwhile, requests are given back.
    async fn dial(&mut self) -> Dialled {
        let whereabouts = self.whereabouts.borrow_and_update().clone();
        if self.life.known.as_ref() != Some(&whereabouts) {
            self.life.attempt = 0;
        }
        let mut address = whereabouts.address(self.life.attempt).to_owned();
        let vouched = address == whereabouts.listed_address() || self.life.proven.as_ref() == Some(&address);
        if !vouched && !self.life.hints.take(Instant::now()) {
            whereabouts.listed_address().clone_into(&mut address);
        }
        self.life.known = Some(whereabouts);
        self.life.attempt += 1;
        self.introduce_anew();
        let (target, hello) = (address.clone(), self.hello.clone());
        let expected = (hello.cluster_id, self.raft_id);
        let dialling = dial(&target, &hello, DIAL_LIMIT);
        tokio::pin!(dialling);
        let registry = Arc::clone(&self.registry);
        let stopped = registry.stopped();
        tokio::pin!(stopped);
        let mut held = Vec::new();
        let result = loop {
            let parcel = tokio::select! {
                result = &mut dialling => break result,
                parcel = self.queue.recv() => parcel,
                () = &mut stopped => None,
            };
            match parcel {
                None => return Dialled::Over,
                Some(QueuedFrame::Forward(..)) => self.discard(parcel).await,
                Some(parcel) if held.len() < HELD_PARCELS => held.push(parcel),
                Some(_) => self.discard(parcel).await,
            }
        };
        let error = match result {
            Ok((stream, welcome)) if (welcome.cluster_id, welcome.raft_id) == expected => {
                match self.registry.meet(self.raft_id, &welcome.lives, true).await {
                    Ok(()) => return Dialled::Up(Box::new(Met { stream, address, lives: welcome.lives }), held),
                    Err(Denial::Conflict(conflict)) => DialError::Conflict(conflict),
                    Err(denial) => DialError::Broken(denial.to_string()),
                }
            }
            Ok((_, welcome)) => DialError::Denied(Denial::SomebodyElse { raft_id: welcome.raft_id }),
            Err(error) => error,
        };
        for parcel in held {
            self.discard(Some(parcel)).await;
        }
        Dialled::Failed(address, error)
    }

    /// This node's address, or what the member has heard of its lives, may be another since the last dial. Who it is stays.
    fn introduce_anew(&mut self) {
        let fresh = self.registry.hello(Purpose::Peer, self.raft_id);
        if (fresh.cluster_id, fresh.from) == (self.hello.cluster_id, self.hello.from) {
            self.hello = fresh;
        }
    }

    /// Uses a connection to its end; true where nothing is to be dialled any more.
    async fn converse(&mut self, met: Met, held: Vec<QueuedFrame>) -> bool {
        let Met { stream, address, lives } = met;
        let address = address.as_str();
        let away = self.life.away_since.elapsed();
        info!(self.registry.log, "peer found"; "peer" => &self.name, "raft_id" => self.raft_id, "address" => address,
            "away_ms" => ms(away));
        let began = Instant::now();
        self.life.ever_up = true;
        self.life.proven = Some(address.to_owned());
        self.life.told.clear();
        self.registry.handle.deliver(Input::PeerUp(self.raft_id)).await;
        let outgoing = Outgoing {
            peer: self.raft_id,
            hello: &self.hello,
            registry: &self.registry,
            forwards: &self.forwards,
            lives: &lives,
        };
        let end = Box::pin(outgoing.run(stream, held, &mut self.queue, &mut self.whereabouts)).await;
        let (event, reason) = match &end {
            End::Broken(reason) => ("peer lost", reason.as_str()),
            End::Over => ("peer let go", "the connection is not wanted any more"),
        };
        info!(self.registry.log, "{}", event; "peer" => &self.name, "raft_id" => self.raft_id, "address" => address,
            "reason" => reason, "up_ms" => ms(began.elapsed()));
        self.forwards.broken(reason).await;
        self.down().await;
        let now = Instant::now();
        (self.life.away_since, self.life.reminded) = (now, now);
        // What was good once is tried first again.
        self.life.attempt -= 1;
        if now.duration_since(began) >= GOOD_CONNECTION {
            self.life.backoff = BACKOFF_MIN;
        }
        matches!(end, End::Over)
    }

    /// Waits before the next dial; false where there is to be none.
    async fn pause(&mut self) -> bool {
        let mut until = Instant::now() + jitter(self.life.backoff);
        self.life.backoff = (self.life.backoff * 2).min(BACKOFF_MAX);
        let registry = Arc::clone(&self.registry);
        let stopped = registry.stopped();
        tokio::pin!(stopped);
        loop {
            tokio::select! {
                () = sleep_until(until) => return true,
                parcel = self.queue.recv() => match parcel {
                    None => return false,
                    parcel => self.discard(parcel).await,
                },
                changed = self.whereabouts.changed() => {
                    if changed.is_err() {
                        return false;
                    }
                    // It moved, or has just dialled this node: it is worth a try.
                    if self.life.hints.take(Instant::now()) {
                        self.life.backoff = BACKOFF_MIN;
                        until = until.min(Instant::now() + jitter(BACKOFF_MIN));
                    }
                }
                () = &mut stopped => return false,
            }
        }
    }

    /// Gives up a parcel because there is no connection.
    async fn discard(&mut self, parcel: Option<QueuedFrame>) {
        match parcel {
            Some(QueuedFrame::Forward(token, ..)) => {
                let refusal = Refusal::not_applied(
                    Code::NoLeader,
                    format!("there is no connection to {} at the moment", self.name),
                );
                self.forwards.answer(token, Err(refusal)).await;
            }
            Some(QueuedFrame::Step(..)) => self.down().await,
            Some(QueuedFrame::Removed | QueuedFrame::Digest(_) | QueuedFrame::Space(_)) | None => {}
        }
    }

    async fn down(&mut self) {
        if !self.life.told_down {
            self.life.told_down = true;
            self.registry.handle.deliver(Input::PeerDown(self.raft_id)).await;
        }
    }

    /// Draws the consequences of a failed dial, and logs it where that is due.
    async fn note(&mut self, address: &str, error: DialError) {
        if let DialError::Denied(Denial::Removed { cluster_id, raft_id }) = error
            && (cluster_id, raft_id) == (self.hello.cluster_id, self.hello.from)
        {
            self.registry.handle.deliver(Input::Removed { cluster_id, raft_id }).await;
        }
        let conflict: Option<(bool, IdentityConflict)> = match error {
            DialError::Conflict(conflict) => Some((false, conflict)),
            DialError::Denied(Denial::Conflict(conflict)) => Some((true, conflict)),
            _ => None,
        };
        if let Some((of_this_node, conflict)) = conflict {
            let who = format!("{} ({address})", self.name);
            return self.registry.conflict(self.raft_id, &who, of_this_node, conflict).await;
        }
        let log = &self.registry.log;
        let kind = discriminant(&error);
        let answered = matches!(error, DialError::Version(_) | DialError::Denied(_) | DialError::Foreign(_));
        if answered && !self.life.told.contains(&kind) {
            warn!(log, "peer will not talk"; "peer" => &self.name, "address" => address, "reason" => %error);
            self.life.told.push(kind);
        } else if self.life.reminded.elapsed() >= REMINDER_EVERY {
            self.life.reminded = Instant::now();
            self.remind(log, &error);
        }
    }

    fn remind(&self, log: &Logger, error: &DialError) {
        let addresses = {
            let whereabouts = self.whereabouts.borrow();
            let (first, second) = (whereabouts.address(0), whereabouts.address(1));
            if first == second { first.to_owned() } else { format!("{first}, {second}") }
        };
        warn!(log, "peer cannot be reached; it is dialled at the address given, and where nodes advertise host names \
             (HUSKV_ADVERTISE_HOST) instead of numbers they are found again after a move";
            "peer" => &self.name, "address" => addresses, "reason" => %error,
            "away_ms" => ms(self.life.away_since.elapsed()), "ever_up" => self.life.ever_up);
    }
}

/// Somewhere between half of `backoff` and all of it, so that nodes do not dial in step.
fn jitter(backoff: Duration) -> Duration {
    // Without randomness the longest wait is right too.
    let part = getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX));
    backoff.mul_f64(0.5 + part / 2.0)
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_bounded_and_come_back_slowly() {
        let began = Instant::now();
        let mut hints = Hints { left: HINTS_AT_ONCE, since: began };
        let mut take = |seconds| (0..1_000).filter(|_| hints.take(began + Duration::from_secs(seconds))).count();
        assert_eq!((take(5), take(20), take(36), take(66)), (16, 0, 1, 1));
        assert_eq!(take(100_000), 16);
    }

    #[test]
    fn the_jitter_stays_between_half_and_all() {
        for _ in 0..100 {
            let wait = jitter(BACKOFF_MAX);
            assert!(wait >= BACKOFF_MAX / 2 && wait <= BACKOFF_MAX);
        }
    }
}
