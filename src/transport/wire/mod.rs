//! The wire format: frames between two nodes.
//!
//! Why: one page shows what crosses the network, so that a change of it is seen as one and bumps the wire version.
//!
//! A frame is: payload length u32 LE, kind u8, payload, crc32 u32 LE of everything before it.
//!
//! Invariants: nothing is decoded before its length and checksum were checked, and no raft message before `precheck` has bounded
//! its size in memory. No input makes the decoder panic.
//!
//! See also: `handshake` (how a connection begins), `framing` (sockets and timeouts), `admission` (semantic checks).

pub(crate) mod frame_limits;
pub(crate) mod framing;
pub(crate) mod precheck;

use protobuf::Message as _;
use raft::eraftpb::Message;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::handshake::{Denial, Hello, Welcome};

use crate::model::{
    Answer, DiskSpace, EventReport, JoinAccepted, JoinOffer, NodeReport, Probe, ProbeReply, Refusal, Request,
    StateDigest, WhoAmI, codec,
};

/// The maximum bytes read and discarded while closing, 64 KiB.
pub const HANDSHAKE_BYTES: usize = 64 << 10;
/// The maximum payload of any frame, 32 MiB: more than the largest command or batch of entries. Each kind has its own
/// limit in `frame_limits`.
pub const FRAME_BYTES: usize = 32 << 20;
/// Length and kind.
pub const HEAD_BYTES: usize = 5;
/// The checksum behind the payload.
pub const CHECKSUM_BYTES: usize = 4;

/// A frame: everything after the preamble.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// Dialler, first: identity and purpose.
    Hello(Hello),
    /// Acceptor, first: admitted or not.
    Verdict(Result<Welcome, Denial>),
    /// Peer, dialler: a raft message.
    Step(Box<Message>),
    /// Peer, dialler: a client's request for the leader.
    Forward {
        /// The dialler's number for it.
        token: u64,
        /// The deadline, in milliseconds of the acceptor's clock.
        deadline: u64,
        /// Whether the receiver forwards it to the leader.
        relay: bool,
        /// The request.
        request: Request,
    },
    /// Peer, acceptor: the result of a forwarded request.
    Reply {
        /// The number of the request.
        token: u64,
        /// The answer.
        result: Result<Answer, Refusal>,
    },
    /// Both: keep-alive.
    Ping,
    /// Peer, dialler: self-reported addresses of other members: raft id and address.
    PeerAddresses(Vec<(u64, String)>),
    /// Peer, dialler, over TLS: the members in its table: raft id and name.
    Members(Vec<(u64, String)>),
    /// Peer, acceptor: the answer to a ping, with the acceptor's clock in milliseconds.
    Pong(u64),
    /// Peer, both, with each ping and pong: the raft id of the leader that the sender follows or is, 0 for none.
    Follows(u64),
    /// Peer, both: the receiver was removed from the cluster. Join offer, dialler: the join for which the receiver took
    /// this raft id has ended.
    Removed {
        /// The cluster.
        cluster_id: u64,
        /// The receiver's raft id.
        raft_id: u64,
    },
    /// Identify, acceptor: its identity.
    Who(Result<WhoAmI, Refusal>),
    /// Join offer, dialler: the offer.
    JoinOffer(JoinOffer),
    /// Join offer, acceptor: its answer.
    JoinAccepted(Result<JoinAccepted, Refusal>),
    /// Snapshot, dialler, first: the announcement.
    Announce {
        /// The index of the requested snapshot; the one sent is at this index or later.
        index: u64,
        /// About its bytes on the sender's disk, which is more than is sent.
        bytes: u64,
    },
    /// Snapshot, dialler: changes, at most 1 MiB and one change.
    Changes(Vec<u8>),
    /// Snapshot, dialler: the end; the MsgSnapshot with the final metadata.
    End(Box<Message>),
    /// Snapshot, acceptor: installed, or the reason why not.
    Taken(Result<(), String>),
    /// Join request, dialler: its name, and the address at which members dial it.
    JoinRequest(String, String),
    /// Join request, acceptor: whether it is a member now.
    JoinRequested(Result<(), Refusal>),
    /// Probe, dialler: the probe.
    Probe(Probe),
    /// Probe, acceptor: its answer.
    Probed(Result<ProbeReply, Refusal>),
    /// Peer, dialler: the digest of its state.
    Digest(StateDigest),
    /// Peer, dialler: its free disk space.
    Space(DiskSpace),
    /// Report, acceptor: its report.
    Report(Box<NodeReport>),
    /// Events, acceptor: its latest events.
    Events(Vec<EventReport>),
}

/// A wire error.
#[derive(Debug, Error)]
pub enum WireError {
    /// The other end closed the connection.
    #[error("the connection was closed")]
    Closed,
    /// The connection failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// No progress within the limit.
    #[error("nothing moved for {0} s")]
    Silent(u64),
    /// The length is over its limit; nothing was read or allocated.
    #[error("a frame of {0} bytes is over the bound of {1}")]
    TooLong(usize, usize),
    /// The checksum does not fit the bytes.
    #[error("a frame with a wrong checksum")]
    Checksum,
    /// The frame is sound but cannot be understood.
    #[error("malformed frame: {0}")]
    Malformed(String),
    /// The frame does not belong to this conversation.
    #[error("unexpected frame: {0}")]
    Unexpected(&'static str),
}

/// The encoded bytes of a forwarded write besides the write itself, roughly.
const FORWARD_BYTES: usize = 128;

impl Frame {
    /// Returns its kind on the wire, and its name in messages.
    #[must_use]
    pub fn kind(&self) -> (u8, &'static str) {
        match self {
            Self::Hello(_) => (1, "hello"),
            Self::Verdict(_) => (2, "verdict"),
            Self::Step(_) => (3, "step"),
            Self::Forward { .. } => (4, "forward"),
            Self::Reply { .. } => (5, "reply"),
            Self::Ping => (6, "ping"),
            Self::Pong(_) => (7, "pong"),
            Self::Removed { .. } => (8, "removed"),
            Self::Who(_) => (9, "who"),
            Self::JoinOffer(_) => (10, "join offer"),
            Self::JoinAccepted(_) => (11, "join accepted"),
            Self::Changes(_) => (12, "changes"),
            Self::End(_) => (13, "end"),
            Self::Taken(_) => (14, "taken"),
            Self::PeerAddresses(_) => (15, "peer addresses"),
            Self::Members(_) => (30, "members"),
            Self::JoinRequest(..) => (31, "join request"),
            Self::JoinRequested(_) => (32, "join requested"),
            Self::Probe(_) => (16, "probe"),
            Self::Probed(_) => (17, "probed"),
            Self::Digest(_) => (18, "digest"),
            Self::Announce { .. } => (21, "announce"),
            Self::Follows(_) => (28, "follows"),
            Self::Space(_) => (29, "space"),
            Self::Report(_) => (33, "report"),
            Self::Events(_) => (34, "events"),
        }
    }

    /// Encodes the frame, from its length to its checksum.
    ///
    /// # Errors
    /// [`WireError::TooLong`] for a payload over [`FRAME_BYTES`].
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        // The head is filled in at the end, when the length is known; the payload is encoded in place and not copied.
        let mut bytes = vec![0; HEAD_BYTES];
        match self {
            Self::Hello(hello) => codec::encode_into(hello, &mut bytes),
            Self::Verdict(verdict) => codec::encode_into(verdict, &mut bytes),
            Self::Step(message) | Self::End(message) => {
                bytes.reserve(message.compute_size() as usize + CHECKSUM_BYTES);
                message.write_to_vec(&mut bytes).map_err(|error| WireError::Malformed(error.to_string()))?;
            }
            Self::Forward { token, deadline, relay, request } => {
                if let Request::Write(write) = request {
                    bytes.reserve(write.size() + FORWARD_BYTES);
                }
                codec::encode_into(&(token, deadline, relay, request), &mut bytes);
            }
            Self::Reply { token, result } => codec::encode_into(&(token, result), &mut bytes),
            Self::Ping => {}
            Self::Pong(clock) => codec::encode_into(clock, &mut bytes),
            Self::Removed { cluster_id, raft_id } => codec::encode_into(&(cluster_id, raft_id), &mut bytes),
            Self::Who(result) => codec::encode_into(result, &mut bytes),
            Self::JoinOffer(offer) => codec::encode_into(offer, &mut bytes),
            Self::JoinAccepted(result) => codec::encode_into(result, &mut bytes),
            Self::Changes(changes) => bytes.extend_from_slice(changes),
            Self::Taken(result) => codec::encode_into(result, &mut bytes),
            Self::PeerAddresses(known) | Self::Members(known) => codec::encode_into(known, &mut bytes),
            Self::JoinRequest(name, address) => codec::encode_into(&(name, address), &mut bytes),
            Self::JoinRequested(result) => codec::encode_into(result, &mut bytes),
            Self::Probe(probe) => codec::encode_into(probe, &mut bytes),
            Self::Probed(result) => codec::encode_into(result, &mut bytes),
            Self::Digest(digest) => codec::encode_into(digest, &mut bytes),
            Self::Announce { index, bytes: size } => codec::encode_into(&(index, size), &mut bytes),
            Self::Follows(leader) => codec::encode_into(leader, &mut bytes),
            Self::Space(space) => codec::encode_into(space, &mut bytes),
            Self::Report(report) => codec::encode_into(&**report, &mut bytes),
            Self::Events(events) => codec::encode_into(events, &mut bytes),
        }
        let length = bytes.len() - HEAD_BYTES;
        let field = u32::try_from(length).ok().filter(|_| length <= FRAME_BYTES);
        let field = field.ok_or(WireError::TooLong(length, FRAME_BYTES))?;
        bytes[..4].copy_from_slice(&field.to_le_bytes());
        bytes[4] = self.kind().0;
        let checksum = crc32fast::hash(&bytes);
        bytes.extend(checksum.to_le_bytes());
        Ok(bytes)
    }

    /// Decodes the payload and checksum that follow `head`.
    ///
    /// # Errors
    /// [`WireError::Checksum`] and [`WireError::Malformed`].
    pub fn decode(head: [u8; HEAD_BYTES], mut body: Vec<u8>) -> Result<Self, WireError> {
        let split = body.len().checked_sub(CHECKSUM_BYTES).ok_or(WireError::Checksum)?;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&head);
        hasher.update(&body[..split]);
        if body[split..] != hasher.finalize().to_le_bytes() {
            return Err(WireError::Checksum);
        }
        body.truncate(split);
        Ok(match head[4] {
            1 => Self::Hello(value(&body)?),
            2 => Self::Verdict(value(&body)?),
            3 => Self::Step(message(body, false)?),
            4 => {
                let (token, deadline, relay, request) = value(&body)?;
                Self::Forward { token, deadline, relay, request }
            }
            5 => {
                let (token, result) = value(&body)?;
                Self::Reply { token, result }
            }
            6 if body.is_empty() => Self::Ping,
            7 => Self::Pong(value(&body)?),
            8 => {
                let (cluster_id, raft_id) = value(&body)?;
                Self::Removed { cluster_id, raft_id }
            }
            9 => Self::Who(value(&body)?),
            10 => Self::JoinOffer(value(&body)?),
            11 => Self::JoinAccepted(value(&body)?),
            12 => Self::Changes(body),
            13 => Self::End(message(body, true)?),
            14 => Self::Taken(value(&body)?),
            15 => Self::PeerAddresses(value(&body)?),
            16 => Self::Probe(value(&body)?),
            17 => Self::Probed(value(&body)?),
            18 => Self::Digest(value(&body)?),
            21 => {
                let (index, bytes) = value(&body)?;
                Self::Announce { index, bytes }
            }
            28 => Self::Follows(value(&body)?),
            29 => Self::Space(value(&body)?),
            30 => Self::Members(value(&body)?),
            31 => {
                let (name, address) = value(&body)?;
                Self::JoinRequest(name, address)
            }
            32 => Self::JoinRequested(value(&body)?),
            33 => Self::Report(value(&body)?),
            34 => Self::Events(value(&body)?),
            kind => return Err(WireError::Malformed(format!("kind {kind} with {} bytes", body.len()))),
        })
    }
}

fn value<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    codec::decode(bytes).map_err(|error| WireError::Malformed(error.to_string()))
}

/// The entries of the message share its bytes instead of copying them.
fn message(bytes: Vec<u8>, ends_snapshot: bool) -> Result<Box<Message>, WireError> {
    precheck::check(&bytes, ends_snapshot).map_err(|reason| WireError::Malformed(reason.into()))?;
    let message =
        Message::parse_from_carllerche_bytes(&bytes.into()).map_err(|error| WireError::Malformed(error.to_string()))?;
    Ok(Box::new(message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        BootHistory, BootId, Code, Command, FieldReport, IdentityConflict, LeaderReport, ReportedRole, TransferReport,
    };
    use crate::transport::handshake::Purpose;
    use proptest::prelude::*;

    fn decode(bytes: &[u8]) -> Result<Frame, WireError> {
        let (head, body) = bytes.split_at(HEAD_BYTES);
        Frame::decode(head.try_into().unwrap(), body.to_vec())
    }

    fn samples() -> Vec<Frame> {
        let (before, now) = (BootId { count: 1, nonce: 8 }, BootId { count: 2, nonce: 9 });
        let boot_history = BootHistory { current: now, before: vec![before] };
        let hello = Hello {
            purpose: Purpose::Peer,
            cluster_id: 7,
            from: 1,
            to: 2,
            node_id: "a".into(),
            raft_address: "h:1".into(),
            moved: true,
            boot_history: boot_history.clone(),
            known: Some(now),
        };
        let mut append = Message { from: 1, term: 3, ..Message::default() };
        append.entries.push(raft::eraftpb::Entry { index: 4, ..Default::default() });
        let mut end = Message { from: 1, term: 3, ..Message::default() };
        end.mut_snapshot().mut_metadata().index = 4;
        let put = Command::put("k", "1");
        vec![
            Frame::Hello(hello),
            Frame::Verdict(Ok(Welcome { cluster_id: 7, raft_id: 2, boot_history })),
            Frame::Verdict(Err(Denial::Conflict(IdentityConflict { known: before, claimed: now }))),
            Frame::Verdict(Err(Denial::Removed { cluster_id: 7, raft_id: 1 })),
            Frame::Step(Box::new(append.clone())),
            Frame::Forward { token: 9, deadline: 500, relay: true, request: Request::Write(put.into()) },
            Frame::Reply { token: 9, result: Err(Refusal::unknown(Code::Timeout, "late")) },
            Frame::Ping,
            Frame::Pong(1_234),
            Frame::Follows(7),
            Frame::Removed { cluster_id: 7, raft_id: 2 },
            Frame::Who(Err(Refusal::not_applied(Code::Stopping, "bye"))),
            Frame::Announce { index: 9, bytes: 1 << 30 },
            Frame::Changes(vec![0, 1, 2]),
            Frame::End(Box::new(end)),
            Frame::Taken(Err("full".into())),
            Frame::Members(vec![(7, "kv1".into())]),
            Frame::JoinRequest("kv1".into(), "h:1".into()),
            Frame::JoinRequested(Err(Refusal::not_applied(Code::NoLeader, "no"))),
            Frame::Probe(Probe { cluster_id: 7, raft_id: 1, digest: Some((5, u64::MAX)), entry: Some((4, 2)) }),
            Frame::Probed(Err(Refusal::not_applied(Code::OtherCluster, "no"))),
            Frame::Digest(StateDigest { term: 1, index: 2, digest: u64::MAX }),
            Frame::Space(DiskSpace { free_bytes: u64::MAX, reserve_bytes: 1 << 28 }),
            Frame::Report(Box::new(NodeReport {
                version: "1.2.3".into(),
                role: ReportedRole::Learner,
                term: 3,
                last_index: 9,
                applied_index: 8,
                disk_free_bytes: Some(1 << 30),
                disk_total_bytes: None,
                uptime_seconds: 60,
                not_ready: Some(("no_leader".into(), "there is none".into())),
                leads: Some(LeaderReport { failure_tolerance: 1, matched: vec![(2, 9)] }),
                transfers: vec![TransferReport { to: 3, bytes: 1, total_bytes: 2, bytes_per_second: 1 }],
            })),
            Frame::Events(vec![EventReport {
                id: 3,
                at: "now".into(),
                index: 9,
                term: 4,
                kind: "peer_lost".into(),
                detail: "nothing".into(),
                fields: vec![("ms".into(), FieldReport::Number(7)), ("peer".into(), FieldReport::Text("a".into()))],
            }]),
        ]
    }

    #[test]
    fn a_frame_has_these_bytes() {
        let removed = Frame::Removed { cluster_id: 7, raft_id: 2 }.encode().unwrap();
        let sealed = b"\x11\0\0\0\x08\x01\x07\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0";
        assert_eq!(removed, [&sealed[..], &crc32fast::hash(sealed).to_le_bytes()].concat());
    }

    #[test]
    fn every_frame_survives_a_round_trip() {
        for frame in samples() {
            assert_eq!(decode(&frame.encode().unwrap()).unwrap(), frame);
        }
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        for frame in samples() {
            let bytes = frame.encode().unwrap();
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(decode(&flipped).is_err(), "{frame:?}, bit {bit}");
            }
        }
    }

    #[test]
    fn a_frame_of_empty_entries_is_refused_before_it_takes_memory() {
        let payload = [0x3a, 0].repeat(4 << 20);
        let mut head = [0; HEAD_BYTES];
        head[..4].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        head[4] = 3;
        let checksum = crc32fast::hash(&[&head[..], &payload].concat()).to_le_bytes();
        let body = [&payload[..], &checksum].concat();
        let taken = allocation_counter::measure(|| {
            assert!(matches!(Frame::decode(head, body), Err(WireError::Malformed(_))));
        });
        assert!(taken.bytes_max < 1 << 10, "{} bytes", taken.bytes_max);
    }

    #[test]
    fn a_payload_over_the_bound_is_not_sent() {
        let result = Frame::Changes(vec![0; FRAME_BYTES + 1]).encode();
        assert!(matches!(result, Err(WireError::TooLong(_, FRAME_BYTES))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoding_panic(kind in 0u8..40, payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut head = [0; HEAD_BYTES];
            head[..4].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
            head[4] = kind;
            for version in [None, Some(codec::VERSION)] {
                let payload = version.into_iter().chain(payload.iter().copied()).collect::<Vec<_>>();
                let checksum = crc32fast::hash(&[&head[..], &payload].concat()).to_le_bytes();
                drop(Frame::decode(head, [&payload[..], &checksum].concat()));
            }
            drop(Frame::decode(head, payload));
        }
    }
}
