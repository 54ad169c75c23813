//! Single-request connections: identify, probe, join offer, join request; the report of a member in a file of its own. Both ends.
//!
//! Why: they go to addresses that an operator typed, before the node there is a member, so they have connections of their own and
//! errors for humans.
//!
//! Invariants: each ends within its limit. Once a join offer was sent, a missing answer means unknown: the joiner may have accepted
//! it.
//!
//! See also: `consensus::membership` (the caller).

pub mod member_reports;

use std::time::Duration;

use slog::debug;
use tokio::time::{Instant, timeout};

use crate::consensus::Input;
use crate::model::{Code, JoinAccepted, JoinOffer, Probe, ProbeReply, Refusal, Request, WhoAmI};
use crate::transport::admission::{check_join_accepted, check_node, check_offer, check_who};
use crate::transport::handshake::dial::{DialError, Established, dial};
use crate::transport::handshake::{Denial, Purpose, WIRE_VERSION};
use crate::transport::memory_budget::ConnectionShare;
use crate::transport::shared_state::Registry;
use crate::transport::socket::PeerStream;
use crate::transport::wire::frame_limits;
use crate::transport::wire::framing::{close_gracefully, read_budgeted, read_frame_within, write_frame_within};
use crate::transport::wire::{Frame, HANDSHAKE_BYTES, WireError};

/// The limit of identify; the loop expects 3 s.
const IDENTIFY_LIMIT: Duration = Duration::from_millis(2_900);
/// The limit of a join offer; the loop expects 6 s.
const JOIN_OFFER_LIMIT: Duration = Duration::from_millis(5_900);
/// The limit of a join that a node asks for itself.
const JOIN_REQUEST_LIMIT: Duration = Duration::from_secs(60);
/// The limit of sending the request, and of reading the answer.
const OFFER_LIMIT: Duration = Duration::from_secs(3);
/// The limit of the loop's answer; the dialler has given up long before.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// The limit of a graceful close.
const CLOSE_LIMIT: Duration = Duration::from_millis(500);

/// Asks the node at `address` for its identity.
///
/// # Errors
/// [`Refusal`] naming the address and what happened there.
pub async fn identify(registry: &Registry, address: &str) -> Result<WhoAmI, Refusal> {
    let deadline = Instant::now() + IDENTIFY_LIMIT;
    let hello = registry.hello(Purpose::Identify, 0);
    let dialled = dial(address, &hello, &registry.target(None), IDENTIFY_LIMIT).await;
    let Established { mut stream, certified, .. } = match dialled {
        Ok(established) => established,
        Err(error) => return Err(dial_refusal(registry, address, &error)),
    };
    let left = deadline.saturating_duration_since(Instant::now());
    match read_frame_within(&mut stream, frame_limits::WHO, left).await {
        Ok(Frame::Who(Ok(who))) => match (check_who(&who), certified) {
            (Ok(()), Some(certified)) if certified != who.node_id => Err(Refusal::not_applied(
                Code::TlsRefused,
                format!(
                    "the node at {address} says that it is {}, and its certificate is that of {certified}; the name in the \
                     certificate and RAFT_NODE_ID must be the same",
                    who.node_id
                ),
            )),
            (Ok(()), certified) if registry.authentication.is_downgrade(&who.node_id, certified.as_deref()) => {
                Err(Refusal::not_applied(
                    Code::TlsRefused,
                    format!(
                        "the node at {address} says that it is {} and has no TLS, and {} has spoken TLS with this node before; \
                         give it its certificate, or another name",
                        who.node_id, who.node_id
                    ),
                ))
            }
            (Ok(()), _) => Ok(who),
            (Err(detail), _) => Err(no_answer(address, &WireError::Malformed(detail))),
        },
        Ok(Frame::Who(Err(refusal))) => Err(identify_refusal(address, refusal.code)),
        Ok(other) => Err(no_answer(address, &WireError::Unexpected(other.kind().1))),
        Err(error) => Err(no_answer(address, &error)),
    }
}

/// Probes the node at `address`; where that is a member's, only that member may answer.
///
/// # Errors
/// [`Refusal`] naming the address and what happened there.
pub async fn probe(registry: &Registry, address: &str, probe: Probe) -> Result<ProbeReply, Refusal> {
    let deadline = Instant::now() + IDENTIFY_LIMIT;
    let left = || deadline.saturating_duration_since(Instant::now());
    let hello = registry.hello(Purpose::Probe, 0);
    let member = registry.table().and_then(|table| table.peers.iter().find(|(.., at)| at == address).map(|it| it.0));
    let mut stream = match dial(address, &hello, &registry.target(member), IDENTIFY_LIMIT).await {
        Ok(established) => established.stream,
        Err(error) => return Err(dial_refusal(registry, address, &error)),
    };
    let answered = async {
        write_frame_within(&mut stream, &Frame::Probe(probe), left()).await?;
        match read_frame_within(&mut stream, frame_limits::PROBED, left()).await? {
            Frame::Probed(result) => Ok(result),
            other => Err(WireError::Unexpected(other.kind().1)),
        }
    };
    answered.await.unwrap_or_else(|error| Err(no_answer(address, &error)))
}

/// Offers the node at `address` to join.
///
/// # Errors
/// [`Refusal`]: the joiner's own, or a failure on the way; unknown if the offer was already sent.
pub async fn offer_join(registry: &Registry, address: &str, offer: JoinOffer) -> Result<JoinAccepted, Refusal> {
    let deadline = Instant::now() + JOIN_OFFER_LIMIT;
    let left = || deadline.saturating_duration_since(Instant::now());
    let hello = registry.hello(Purpose::JoinOffer, 0);
    // The joiner has said who it is, and its certificate must name the member that it becomes.
    let target = registry.authentication.target_named(&offer.node_id);
    let mut stream = match dial(address, &hello, &target, JOIN_OFFER_LIMIT).await {
        Ok(established) => established.stream,
        Err(error) => return Err(dial_refusal(registry, address, &error)),
    };
    // Up to here no offer was sent, and a failure is `not_applied`.
    let frame = Frame::JoinOffer(offer);
    let answered = async {
        write_frame_within(&mut stream, &frame, left()).await?;
        match read_frame_within(&mut stream, frame_limits::JOIN_ACCEPTED, left()).await? {
            Frame::JoinAccepted(Ok(accepted)) => match check_join_accepted(&accepted) {
                Ok(()) => Ok(Ok(accepted)),
                Err(detail) => Err(WireError::Malformed(detail)),
            },
            Frame::JoinAccepted(Err(refusal)) => Ok(Err(joiner_refusal(address, refusal))),
            other => Err(WireError::Unexpected(other.kind().1)),
        }
    };
    answered.await.unwrap_or_else(|error| {
        // The offer may have been accepted before the connection failed, so the outcome is unknown.
        let code = if matches!(error, WireError::Silent(_)) { Code::Timeout } else { Code::Unreachable };
        let detail = format!(
            "{address} was asked to join, and then there was no answer ({error}); it may have joined: try the same again"
        );
        Err(Refusal::unknown(code, detail))
    })
}

/// Asks the member at `address` to join the node called `name`, which members dial at `raft_address`: this node, which forms a cluster.
///
/// # Errors
/// [`Refusal`] of that member, or a failure on the way. The join may go on all the same.
pub async fn request_join(registry: &Registry, address: &str, name: &str, raft_address: &str) -> Result<(), Refusal> {
    let hello = registry.hello(Purpose::JoinRequest, 0);
    let mut stream = match dial(address, &hello, &registry.target(None), IDENTIFY_LIMIT).await {
        Ok(established) => established.stream,
        Err(error) => return Err(dial_refusal(registry, address, &error)),
    };
    let frame = Frame::JoinRequest(name.to_owned(), raft_address.to_owned());
    let answered = async {
        write_frame_within(&mut stream, &frame, OFFER_LIMIT).await?;
        match read_frame_within(&mut stream, frame_limits::JOIN_REQUESTED, JOIN_REQUEST_LIMIT + OFFER_LIMIT).await? {
            Frame::JoinRequested(result) => Ok(result),
            other => Err(WireError::Unexpected(other.kind().1)),
        }
    };
    answered.await.unwrap_or_else(|error| Err(Refusal::unknown(Code::Unreachable, format!("{address}: {error}"))))
}

/// Carries out the join that a node asks for. It asks for itself alone: with TLS by the name in its certificate.
pub async fn answer_join_request(registry: &Registry, who: &str, certified: Option<&str>, mut stream: PeerStream) {
    let (node_id, raft_address) = match read_frame_within(&mut stream, frame_limits::JOIN_REQUEST, OFFER_LIMIT).await {
        Ok(Frame::JoinRequest(node_id, raft_address)) => (node_id, raft_address),
        Ok(other) => return registry.warn_limited("malformed join request", who, other.kind().1),
        Err(error) => return registry.warn_limited("malformed join request", who, &error.to_string()),
    };
    let refused = match check_node(&node_id, &raft_address) {
        Err(reason) => Some(reason),
        Ok(()) if certified.is_some_and(|certified| certified != node_id) => {
            Some("the node that is to be joined is not the one of the certificate".to_owned())
        }
        Ok(()) => None,
    };
    let result = match refused {
        Some(reason) => {
            registry.warn_limited("a join request is refused", who, &reason);
            Err(Refusal::not_applied(Code::BadRequest, reason))
        }
        None => {
            let request = Request::Join { node_id, raft_address, force: false };
            registry.handle.request(request, JOIN_REQUEST_LIMIT).await.map(drop)
        }
    };
    finish(&mut stream, &Frame::JoinRequested(result)).await;
}

/// Notifies the node at `address` that its join has ended, if it can be reached.
pub async fn end_join(registry: &Registry, address: &str, cluster_id: u64, raft_id: u64) {
    let hello = registry.hello(Purpose::JoinOffer, 0);
    let dialled = dial(address, &hello, &registry.target(None), JOIN_OFFER_LIMIT).await;
    let Ok(Established { mut stream, .. }) = dialled else { return };
    finish(&mut stream, &Frame::Removed { cluster_id, raft_id }).await;
}

/// Answers identify.
pub async fn answer_identify(registry: &Registry, mut stream: PeerStream) {
    let Ok(answer) = timeout(ANSWER_LIMIT, registry.handle.who_am_i()).await else { return };
    finish(&mut stream, &Frame::Who(answer)).await;
}

/// Answers a probe.
pub async fn answer_probe(registry: &Registry, who: &str, mut stream: PeerStream) {
    let probe = match read_frame_within(&mut stream, frame_limits::PROBE, OFFER_LIMIT).await {
        Ok(Frame::Probe(probe)) => probe,
        Ok(other) => return registry.warn_limited("malformed probe", who, other.kind().1),
        Err(error) => return registry.warn_limited("malformed probe", who, &error.to_string()),
    };
    let Ok(answer) = timeout(ANSWER_LIMIT, registry.handle.probe(probe)).await else { return };
    finish(&mut stream, &Frame::Probed(answer)).await;
}

/// Passes a join offer to the loop, and returns its answer. `certified` is the name of the dialler in its certificate.
pub async fn answer_join_offer(registry: &Registry, who: &str, certified: Option<&str>, mut stream: PeerStream) {
    let share = ConnectionShare::new();
    let reserve = |bytes| registry.budget.reserve(&share, false, bytes);
    // The permit is held until the loop has answered.
    let (offer, _room) = match read_budgeted(&mut stream, frame_limits::JOIN_OFFER, OFFER_LIMIT, reserve).await {
        Ok((Frame::JoinOffer(offer), permit)) => (offer, permit),
        Ok((Frame::Removed { cluster_id, raft_id }, _)) => {
            return registry.handle.deliver(Input::JoinEnded { cluster_id, raft_id }).await;
        }
        Ok((other, _)) => return registry.warn_limited("malformed join offer", who, other.kind().1),
        Err(error) => return registry.warn_limited("malformed join offer", who, &error.to_string()),
    };
    if let Err(detail) = check_offer(&offer) {
        registry.warn_limited("malformed join offer", who, &detail);
        let refusal = Refusal::not_applied(Code::BadRequest, format!("the offer cannot be taken: {detail}"));
        return finish(&mut stream, &Frame::JoinAccepted(Err(refusal))).await;
    }
    if certified.is_some_and(|certified| certified != offer.leader_name) {
        registry.warn_limited(
            "a join offer is refused",
            who,
            "the leader that it names is not the one of its certificate",
        );
        let detail = "the leader that the offer names is not the one of the certificate";
        return finish(&mut stream, &Frame::JoinAccepted(Err(Refusal::not_applied(Code::BadRequest, detail)))).await;
    }
    let (leader, prepare) = (offer.leader_id, offer.prepare);
    // The loop refuses, or answers once this node has switched incarnations durably (or, to a mere question, would).
    let Ok(answer) = timeout(ANSWER_LIMIT, registry.handle.receive_join_offer(offer)).await else { return };
    if let (Ok(_), Some(certified), false) = (&answer, certified, prepare) {
        registry.authentication.accepted_offer_of(leader, certified);
    }
    finish(&mut stream, &Frame::JoinAccepted(answer)).await;
}

async fn finish(stream: &mut PeerStream, answer: &Frame) {
    // The dialler may be gone by now.
    if write_frame_within(stream, answer, OFFER_LIMIT).await.is_ok() {
        close_gracefully(stream, HANDSHAKE_BYTES, CLOSE_LIMIT).await;
    }
}

/// Returns the refusal of a node that did not identify itself. Only its code is used, never its text: a client that may
/// cause a dial must not read other hosts, and they must not speak through this node.
fn identify_refusal(address: &str, code: Code) -> Refusal {
    let passes = matches!(code, Code::Stopping | Code::Starting | Code::Verifying);
    let detail = format!("the node at {address} does not say who it is now ({}); try again in a moment", code.as_str());
    Refusal::not_applied(if passes { code } else { Code::Unreachable }, detail)
}

/// Sanitizes the refusal of a joiner, which is no member yet: bounded, one line, and only codes that mean that it does
/// not join.
fn joiner_refusal(address: &str, refusal: Refusal) -> Refusal {
    const MOST: usize = 600;
    let printable = |char: &char| !char.is_control();
    let text: String = refusal.detail.chars().filter(printable).take(MOST).collect();
    let code = match refusal.code {
        Code::BadRequest
        | Code::HasData
        | Code::JoinInProgress
        | Code::LeaderUnreachable
        | Code::OtherCluster
        | Code::Starting
        | Code::Stopping
        | Code::DiskNearlyFull
        | Code::TlsRefused
        | Code::Timeout => refusal.code,
        _ => Code::BadRequest,
    };
    Refusal {
        code,
        outcome: refusal.outcome,
        detail: format!("the node at {address} does not join: {text}"),
        leader: None,
    }
}

/// Explains a failed dial to the client.
fn dial_refusal(registry: &Registry, address: &str, error: &DialError) -> Refusal {
    if let DialError::Foreign(text) = error {
        debug!(registry.log, "another protocol answered a dial"; "address" => address, "said" => text);
    }
    match error {
        DialError::Version(version) => Refusal::not_applied(
            Code::VersionMismatch,
            format!(
                "the node at {address} speaks wire version {version}, this one speaks {WIRE_VERSION}; \
                 run the same huskv on both"
            ),
        ),
        DialError::Tls(_) | DialError::Denied(Denial::TlsRequired | Denial::NoNode | Denial::OtherNode) => {
            Refusal::not_applied(Code::TlsRefused, format!("there is no trusted connection to {address}: {error}"))
        }
        error => {
            Refusal::not_applied(Code::Unreachable, format!("{address} cannot be used as a peer address: {error}"))
        }
    }
}

fn no_answer(address: &str, error: &WireError) -> Refusal {
    Refusal::not_applied(Code::Unreachable, format!("the node at {address} did not say who it is: {error}"))
}
