//! The link to one member: dialled again and again for as long as the table lists it.
//!
//! Why: raft needs a channel to each member that may lose messages but keeps its appends in order. This is the state of that
//! channel between its connections.
//!
//! ```text
//!   dial_loop:  dial --ok--> use_connection --closed--> back_off (50 ms .. 1 s, jitter) --> dial
//!                |                                        ^
//!                +--failed--> handle_dial_failure --------+
//! ```
//!
//! Invariants: nothing queues up for an unreachable member: raft messages are dropped (raft repeats them) and requests are refused
//! at once. The loop gets one [`Input::PeerDown`] per period of dropping. There is always a backoff with jitter between two dials.
//! An address that is only self-reported or gossiped is worth a bounded number of dials ([`DialCredits`]) until the member has
//! answered there, because any peer can claim any address.
//!
//! See also: `dialed_connection` (an established connection).

pub(crate) mod accepted_connection;
pub(crate) mod counted_halves;
pub(crate) mod dialed_connection;
pub(crate) mod forwards;
pub(crate) mod peer_clock;
pub(crate) mod send_queue;

use std::mem::{Discriminant, discriminant};
use std::sync::Arc;
use std::time::Duration;

use slog::{Logger, info, warn};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::backoff::Backoff;
use super::handshake::dial::{DialError, Established, PeerAddress, dial};
use super::handshake::{Denial, Hello, Purpose};
use super::shared_state::Registry;
use super::socket::PeerStream;
use crate::consensus::Input;
use crate::model::{BootHistory, Code, IdentityConflict, Refusal};
use crate::telemetry::metrics::PeerFigures;
use dialed_connection::{DialerLink, End};
use forwards::Forwards;
use send_queue::{QueuedFrame, SendQueueEnd};

/// The maximum frames held while dialling.
const HELD_FRAMES: usize = 128;
/// A connection that lasted this long resets the backoff.
const STABLE_AFTER: Duration = Duration::from_secs(1);
/// The limit of a dial over all addresses of the name.
const DIAL_LIMIT: Duration = Duration::from_secs(6);
/// The dials to unverified addresses: those of a member that are not in the table, or earlier than the backoff allows.
const UNVERIFIED_DIALS: u32 = 16;
/// The interval after which one more is allowed.
const UNVERIFIED_DIAL_REFILL: Duration = Duration::from_secs(30);
/// The interval of log lines about an unreachable member.
const REMINDER_EVERY: Duration = Duration::from_secs(10);

/// A link to a member.
pub struct Peer {
    /// Its raft id.
    pub raft_id: u64,
    /// Its name, for messages.
    pub name: String,
    /// The hello of this node.
    pub hello: Hello,
    /// The shared state.
    pub registry: Arc<Registry>,
    /// The queued frames; closing it retires the link at once.
    pub queue: SendQueueEnd,
    /// The forwarded requests.
    pub forwards: Arc<Forwards>,
    /// The address; closing it retires the link after a moment.
    pub peer_address: watch::Receiver<PeerAddress>,
    /// What is counted of the member.
    pub figures: Arc<PeerFigures>,
    /// The state between two connections.
    pub state: LinkState,
}

/// The state of a link between two connections.
pub struct LinkState {
    attempt: usize,
    backoff: Backoff,
    away_since: Instant,
    last_reminder: Instant,
    /// The address that `attempt` counts from: a change restarts it.
    known: Option<PeerAddress>,
    /// The kinds of refusal already logged.
    logged_refusals: Vec<Discriminant<DialError>>,
    ever_up: bool,
    reported_down: bool,
    credits: DialCredits,
    /// The address at which the member last answered.
    verified_address: Option<String>,
}

/// A token bucket of dials to unverified addresses.
struct DialCredits {
    left: u32,
    since: Instant,
}

impl DialCredits {
    /// Takes one; false if none is left.
    fn take(&mut self, now: Instant) -> bool {
        // 16 dials at once, then one every 30 s. The bucket is full again after 8 minutes without a dial.
        while self.left < UNVERIFIED_DIALS && now.duration_since(self.since) >= UNVERIFIED_DIAL_REFILL {
            (self.left, self.since) = (self.left + 1, self.since + UNVERIFIED_DIAL_REFILL);
        }
        if self.left == UNVERIFIED_DIALS {
            self.since = now;
        }
        let some = self.left > 0;
        self.left -= u32::from(some);
        some
    }
}

impl LinkState {
    /// Returns the state before the first dial.
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            attempt: 0,
            backoff: Backoff::new(),
            away_since: now,
            last_reminder: now,
            known: None,
            logged_refusals: Vec::new(),
            ever_up: false,
            reported_down: false,
            credits: DialCredits { left: UNVERIFIED_DIALS, since: now },
            verified_address: None,
        }
    }
}

/// The result of a dial.
enum Dialled {
    Up(Box<Verified>, Vec<QueuedFrame>),
    Failed(String, DialError),
    Over,
}

/// A connection to the member itself.
struct Verified {
    stream: PeerStream,
    address: String,
    boot_history: BootHistory,
}

/// Dials the member `raft_id` at `address`, and checks that it is that member: by its certificate where there is TLS, by what it says, and
/// by its boot history, which is recorded durably.
pub async fn dial_verified(
    registry: &Registry,
    address: &str,
    hello: &Hello,
    raft_id: u64,
) -> Result<(PeerStream, BootHistory), DialError> {
    let Established { stream, welcome, certified } =
        dial(address, hello, &registry.target(Some(raft_id)), DIAL_LIMIT).await?;
    if (welcome.cluster_id, welcome.raft_id) != (hello.cluster_id, raft_id) {
        return Err(DialError::Denied(Denial::WrongNode { raft_id: welcome.raft_id }));
    }
    let recorded = async {
        if let Some(name) = &certified {
            registry.record_tls(raft_id, name).await?;
        }
        registry.record_peer(raft_id, &welcome.boot_history, true).await
    };
    match recorded.await {
        Ok(()) => Ok((stream, welcome.boot_history)),
        Err(Denial::Conflict(conflict)) => Err(DialError::Conflict(conflict)),
        Err(denial) => Err(DialError::Broken(denial.to_string())),
    }
}

impl Peer {
    /// Runs until the member is retired or the transport stops.
    pub async fn run(mut self) {
        let forwards = Arc::clone(&self.forwards);
        tokio::select! {
            () = self.dial_loop() => {}
            () = forwards.expire() => {}
        }
        forwards.close(Code::NoLeader, "the connection to it was given up").await;
    }

    async fn dial_loop(&mut self) {
        loop {
            self.state.reported_down = false;
            match self.dial().await {
                Dialled::Over => return,
                Dialled::Failed(address, error) => self.handle_dial_failure(&address, error).await,
                Dialled::Up(established, held) => {
                    if self.use_connection(*established, held).await {
                        return;
                    }
                }
            }
            if !self.back_off().await {
                return;
            }
        }
    }

    /// Dials once. Meanwhile raft messages are held for the connection, and requests are refused.
    async fn dial(&mut self) -> Dialled {
        let peer_address = self.peer_address.borrow_and_update().clone();
        if self.state.known.as_ref() != Some(&peer_address) {
            self.state.attempt = 0;
        }
        // Attempts alternate: the newest known address first, then the others.
        let mut address = peer_address.address(self.state.attempt).to_owned();
        // Example: any peer may claim that member 3 has moved to `h:22`. This node then dials h:22 16 times, then once
        // in 30 s, and the address in the table otherwise. Once member 3 has answered at h:22 the address costs no
        // credits.
        let trusted =
            address == peer_address.listed_address() || self.state.verified_address.as_ref() == Some(&address);
        if !trusted && !self.state.credits.take(Instant::now()) {
            peer_address.listed_address().clone_into(&mut address);
        }
        self.state.known = Some(peer_address);
        self.state.attempt += 1;
        // The hello carries boot history and address, which may have changed since the last dial.
        self.refresh_hello();
        let (at, hello, member) = (address.clone(), self.hello.clone(), self.raft_id);
        let registry = Arc::clone(&self.registry);
        let dialling = dial_verified(&registry, &at, &hello, member);
        tokio::pin!(dialling);
        let stopped = registry.stopped();
        tokio::pin!(stopped);
        let mut held = Vec::new();
        let result = loop {
            // While dialling, raft messages are held and requests are refused at once: a client should try another node now.
            let frame = tokio::select! {
                result = &mut dialling => break result,
                frame = self.queue.recv() => frame,
                () = &mut stopped => None,
            };
            match frame {
                None => return Dialled::Over,
                Some(QueuedFrame::Forward(..)) => self.discard(frame).await,
                Some(frame) if held.len() < HELD_FRAMES => held.push(frame),
                Some(_) => self.discard(frame).await,
            }
        };
        let error = match result {
            Ok((stream, boot_history)) => {
                return Dialled::Up(Box::new(Verified { stream, address, boot_history }), held);
            }
            Err(error) => error,
        };
        for frame in held {
            self.discard(Some(frame)).await;
        }
        Dialled::Failed(address, error)
    }

    /// Refreshes address and boot history since the last dial; the raft id stays the same.
    fn refresh_hello(&mut self) {
        let fresh = self.registry.hello(Purpose::Peer, self.raft_id);
        if (fresh.cluster_id, fresh.from) == (self.hello.cluster_id, self.hello.from) {
            self.hello = fresh;
        }
    }

    /// Uses a connection to its end; true if the member is not to be dialled again.
    async fn use_connection(&mut self, established: Verified, held: Vec<QueuedFrame>) -> bool {
        let Verified { stream, address, boot_history } = established;
        let address = address.as_str();
        let away = self.state.away_since.elapsed();
        info!(self.registry.log, "peer found"; "peer" => &self.name, "raft_id" => self.raft_id, "address" => address,
            "tls" => stream.is_tls(), "away_ms" => ms(away));
        let began = Instant::now();
        self.state.ever_up = true;
        self.state.verified_address = Some(address.to_owned());
        self.state.logged_refusals.clear();
        self.registry.handle.deliver(Input::PeerUp(self.raft_id)).await;
        let dialer_link = DialerLink {
            peer: self.raft_id,
            hello: &self.hello,
            registry: &self.registry,
            forwards: &self.forwards,
            boot_history: &boot_history,
            address,
            figures: &self.figures,
        };
        let active = &self.registry.handle.metrics().network.active_peers;
        active.inc();
        let end = Box::pin(dialer_link.run(stream, held, &mut self.queue, &mut self.peer_address)).await;
        active.dec();
        // Whatever the end was, what was sent and not answered is unknown now.
        let (event, reason) = match &end {
            End::Broken(reason) => ("peer lost", reason.as_str()),
            End::Over => ("peer released", "the connection is not needed any more"),
        };
        info!(self.registry.log, "{}", event; "peer" => &self.name, "raft_id" => self.raft_id, "address" => address,
            "reason" => reason, "up_ms" => ms(began.elapsed()));
        self.forwards.broken(reason).await;
        self.down().await;
        let now = Instant::now();
        // Unreachable from now on, for the log.
        (self.state.away_since, self.state.last_reminder) = (now, now);
        // Tries the same address first again.
        self.state.attempt -= 1;
        // A peer that welcomes and closes at once keeps the backoff growing.
        if now.duration_since(began) >= STABLE_AFTER {
            self.state.backoff.reset();
        }
        matches!(end, End::Over)
    }

    /// Waits before the next dial; false if the link was retired.
    async fn back_off(&mut self) -> bool {
        let mut until = Instant::now() + self.state.backoff.next_delay();
        let registry = Arc::clone(&self.registry);
        let stopped = registry.stopped();
        tokio::pin!(stopped);
        loop {
            tokio::select! {
                () = sleep_until(until) => return true,
                frame = self.queue.recv() => match frame {
                    None => return false,
                    frame => self.discard(frame).await,
                },
                changed = self.peer_address.changed() => {
                    if changed.is_err() {
                        return false;
                    }
                    // It has moved or has just dialled this node: tries again soon.
                    // Takes a credit, or a peer that claims a new address every millisecond would make this node dial
                    // as often.
                    if self.state.credits.take(Instant::now()) {
                        self.state.backoff.reset();
                        until = until.min(Instant::now() + self.state.backoff.next_delay());
                    }
                }
                () = &mut stopped => return false,
            }
        }
    }

    /// Drops a frame because there is no connection.
    async fn discard(&mut self, frame: Option<QueuedFrame>) {
        if frame.is_some() {
            self.figures.sent_failures.inc();
        }
        match frame {
            Some(QueuedFrame::Forward(token, ..)) => {
                let refusal = Refusal::not_applied(
                    Code::NoLeader,
                    format!("there is no connection to {} at the moment", self.name),
                );
                self.forwards.answer(token, Err(refusal)).await;
            }
            Some(QueuedFrame::Step(_) | QueuedFrame::Append(..)) => self.down().await,
            Some(QueuedFrame::Removed | QueuedFrame::Digest(_) | QueuedFrame::Space(_)) | None => {}
        }
    }

    async fn down(&mut self) {
        if !self.state.reported_down {
            self.state.reported_down = true;
            self.registry.handle.deliver(Input::PeerDown(self.raft_id)).await;
        }
    }

    /// Handles a failed dial, and logs it if due.
    async fn handle_dial_failure(&mut self, address: &str, error: DialError) {
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
        let answered =
            matches!(error, DialError::Version(_) | DialError::Denied(_) | DialError::Foreign(_) | DialError::Tls(_));
        if answered && !self.state.logged_refusals.contains(&kind) {
            warn!(log, "peer will not talk"; "peer" => &self.name, "address" => address, "reason" => %error);
            self.state.logged_refusals.push(kind);
        } else if self.state.last_reminder.elapsed() >= REMINDER_EVERY {
            self.state.last_reminder = Instant::now();
            self.log_unreachable(log, &error);
        }
    }

    fn log_unreachable(&self, log: &Logger, error: &DialError) {
        let addresses = {
            let peer_address = self.peer_address.borrow();
            let (first, second) = (peer_address.address(0), peer_address.address(1));
            if first == second { first.to_owned() } else { format!("{first}, {second}") }
        };
        warn!(log, "peer cannot be reached; it is dialled at the address given, and where nodes advertise host names \
             (HUSKV_ADVERTISE_HOST) instead of numbers they are found again after a move";
            "peer" => &self.name, "address" => addresses, "reason" => %error,
            "away_ms" => ms(self.state.away_since.elapsed()), "ever_up" => self.state.ever_up);
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dials_to_unverified_addresses_are_bounded() {
        let began = Instant::now();
        let mut credits = DialCredits { left: UNVERIFIED_DIALS, since: began };
        let mut take = |seconds| (0..1_000).filter(|_| credits.take(began + Duration::from_secs(seconds))).count();
        assert_eq!((take(5), take(20), take(36), take(66)), (16, 0, 1, 1));
        assert_eq!(take(100_000), 16);
    }
}
