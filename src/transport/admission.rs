//! Admission: which peers and which raft messages are accepted.
//!
//! Why: raft itself checks neither sender, nor receiver, nor cluster; one foreign heartbeat deposes a leader.
//!
//! Invariants: pure functions of the published table and of the received message.
//!
//! See also: `listener`, `accepted_connection`, `snapshot_stream` (the callers).

use std::str::FromStr;

use raft::eraftpb::{Message, MessageType};

use super::handshake::{Denial, Hello, InboundPeer};
use crate::model::{JoinAccepted, JoinOffer, NodeAddress, NodeName, PeerTable, WhoAmI};
use crate::plant::{self, Plant};

/// The largest accepted term or index. No cluster ever counts that far, raft adds to both without a check, and a node
/// that recorded such a term could never start again.
const MAX_COUNT: u64 = 1 << 62;

/// Checks the name and the address of a node.
///
/// # Errors
/// The reason, for the log and the peer.
pub fn check_node(name: &str, address: &str) -> Result<(), String> {
    NodeName::from_str(name).map_err(|reason| format!("its node name: {reason}"))?;
    NodeAddress::from_str(address).map(drop).map_err(|reason| format!("its address: {reason}"))
}

/// Checks the name and address of a hello; a starting node has neither.
///
/// # Errors
/// The reason, for the log.
pub fn check_hello(hello: &Hello) -> Result<(), String> {
    let starting = hello.cluster_id == 0 && hello.node_id.is_empty() && hello.raft_address.is_empty();
    if starting { Ok(()) } else { check_node(&hello.node_id, &hello.raft_address) }
}

/// Checks that a peer speaks for the node that its certificate names: in its hello, and by its raft id where `table` lists it.
/// On a plain connection nothing is certified, and nothing is checked.
///
/// # Errors
/// [`Denial::OtherNode`], to be sent back.
pub fn check_certified(table: Option<&PeerTable>, peer: &InboundPeer) -> Result<(), Denial> {
    let Some(certified) = &peer.certified else { return Ok(()) };
    // A node that is still starting has no name yet, and no raft id that could be a member's.
    let says = Some(&peer.hello.node_id).filter(|name| !name.is_empty());
    let listed = table.and_then(|table| table.name_of(peer.hello.from));
    let all_same = says.into_iter().chain(listed).all(|name| name == certified);
    if all_same { Ok(()) } else { Err(Denial::OtherNode) }
}

/// Whether a node whose certificate names it `certified` may speak as the member `raft_id`. The name of a member is its identity, so it
/// may come under a new raft id. A raft id that the table does not have yet needs a member that has told of it: `is_told`.
/// A joiner has no table: `offered_by` is the raft id and the name of the leader whose offer it has accepted, or None if it has
/// restarted since, and then it believes every node of its cluster until the first snapshot.
///
/// Example: node 1 was away while kv4 joined and began to lead. It takes nothing from kv4 before kv2 or kv3, which it knows,
/// have told it of kv4; and nothing from kv9, a node that no member knows, whatever its certificate is worth.
#[must_use]
pub fn is_member(
    table: &PeerTable,
    raft_id: u64,
    certified: &str,
    offered_by: Option<(u64, &str)>,
    is_told: impl FnOnce() -> bool,
) -> bool {
    if plant::is(Plant::CertificatesIgnored) {
        return true;
    }
    match table.name_of(raft_id) {
        Some(name) => name == certified,
        None if table.joining => offered_by.is_none_or(|leader| leader == (raft_id, certified)) || is_told(),
        None => table.peers.iter().any(|(_, name, _)| name == certified) || is_told(),
    }
}

/// Checks the names and addresses of a join offer.
///
/// # Errors
/// The reason, for the log and the leader.
pub fn check_offer(offer: &JoinOffer) -> Result<(), String> {
    check_node(&offer.leader_name, &offer.leader_address)?;
    check_node(&offer.node_id, &offer.raft_address)
}

/// Checks the name and addresses of an identify answer.
///
/// # Errors
/// The reason, for the client.
pub fn check_who(who: &WhoAmI) -> Result<(), String> {
    check_node(&who.node_id, &who.http_address)?;
    check_node(&who.node_id, &who.raft_address)
}

/// Checks the name and address of a joiner.
///
/// # Errors
/// The reason, for the client.
pub fn check_join_accepted(accepted: &JoinAccepted) -> Result<(), String> {
    check_node(&accepted.started_as, &accepted.http_address)
}

/// Decides whether a peer is admitted by `table`; `check` looks at its certificate, and compares its boot history with the recorded
/// one. A clone of a member's disk is reported as an identity conflict whatever its address, so that check comes before the
/// address.
///
/// # Errors
/// [`Denial`], to be sent back.
pub fn admit(
    table: Option<&PeerTable>,
    hello: &Hello,
    check: impl FnOnce() -> Result<(), Denial>,
) -> Result<(), Denial> {
    let table = table.ok_or(Denial::Starting)?;
    if table.removed {
        return Err(Denial::AcceptorRemoved);
    }
    if hello.cluster_id != table.cluster_id {
        return Err(Denial::OtherCluster { cluster_id: table.cluster_id });
    }
    // The order of the checks is the order of the answers: removal before identity, identity before address.
    if table.tombstones.contains(&hello.from) {
        return Err(Denial::Removed { cluster_id: table.cluster_id, raft_id: hello.from });
    }
    if hello.from == table.raft_id || hello.from == 0 {
        return Err(Denial::SelfDial);
    }
    if hello.to != table.raft_id {
        return Err(Denial::WrongNode { raft_id: table.raft_id });
    }
    check()?;
    if table.lists(hello.from) && hello.boot_history.current.count == 0 {
        return Err(Denial::NoBootId);
    }
    match table.unconfirmed_move(hello.from, hello.moved, &hello.raft_address) {
        Some(listed) => Err(Denial::Moved { listed: listed.into() }),
        None => Ok(()),
    }
}

/// Checks a raft message of the peer `from` on the node `to`.
///
/// # Errors
/// The reason, for the log.
pub fn check_message(message: &Message, from: u64, to: u64) -> Result<(), String> {
    // Raft believes the `from` of a message. A member that could speak for another one would acknowledge entries in its
    // name, and a commit would count a copy that does not exist.
    if (message.from, message.to) != (from, to) {
        return Err(format!("a message from {} to {}, between {from} and {to}", message.from, message.to));
    }
    let kind = message.msg_type;
    // Bounded before raft adds to them: `index + 1` of u64::MAX overflows.
    let points = [message.index, message.commit, message.reject_hint, message.request_snapshot];
    let terms = [message.term, message.log_term, message.commit_term];
    if points.iter().chain(&terms).any(|count| *count > MAX_COUNT) {
        return Err(format!("{kind:?} with a term or an index that no cluster reaches"));
    }
    match kind {
        MessageType::MsgAppend => check_entries(message)?,
        MessageType::MsgAppendResponse
        | MessageType::MsgRequestVote
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgHeartbeat
        | MessageType::MsgHeartbeatResponse
        | MessageType::MsgTransferLeader
        | MessageType::MsgTimeoutNow
        | MessageType::MsgReadIndexResp
        | MessageType::MsgRequestPreVote
        | MessageType::MsgRequestPreVoteResponse => {}
        // The only message without a term.
        MessageType::MsgReadIndex => return Ok(()),
        MessageType::MsgSnapshot
        | MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgPropose
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum => return Err(format!("{kind:?}, which never travels so")),
    }
    if message.term == 0 {
        // Raft treats a message without a term as local.
        return Err(format!("{kind:?} without a term"));
    }
    Ok(())
}

/// Checks the MsgSnapshot at the end of a stream.
///
/// # Errors
/// The reason.
pub fn check_snapshot(message: &Message, from: u64, to: u64) -> Result<(), String> {
    let metadata = message.get_snapshot().get_metadata();
    // The stream was opened by `from`, so a member can only offer a snapshot in its own name; `metadata.term <=
    // message.term` as a leader has no entry of a later term than its own.
    let sound = message.msg_type == MessageType::MsgSnapshot
        && (message.from, message.to) == (from, to)
        && message.term != 0
        && metadata.index != 0
        && metadata.term != 0
        && metadata.term <= message.term
        && message.term.max(metadata.index) <= MAX_COUNT;
    if sound { Ok(()) } else { Err("the stream ended in a message that is no snapshot for this node".into()) }
}

/// Checks that entries are contiguous with monotone terms: raft panics otherwise.
///
/// Example: after (4, term 2), the entries (5, 2) (6, 3) pass; (6, 3) alone has a gap; (5, 3) (6, 2) has a falling
/// term.
fn check_entries(message: &Message) -> Result<(), String> {
    let mut before = (message.index, message.log_term);
    for entry in message.entries.iter() {
        if before.0.checked_add(1) != Some(entry.index) || entry.term < before.1 || entry.term > message.term {
            return Err(format!(
                "an append of term {} with entry ({}, {}) behind ({}, {})",
                message.term, entry.index, entry.term, before.0, before.1
            ));
        }
        before = (entry.index, entry.term);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BootHistory, BootId, IdentityConflict};
    use crate::transport::handshake::Purpose;
    use raft::eraftpb::Entry;

    fn table() -> PeerTable {
        PeerTable { raft_id: 2, cluster_id: 7, tombstones: vec![9], ..PeerTable::default() }
    }

    fn hello(cluster_id: u64, from: u64, to: u64) -> Hello {
        let (node_id, raft_address) = ("a".into(), "h:1".into());
        let (moved, boot_history) = (false, BootHistory::default());
        Hello { purpose: Purpose::Peer, cluster_id, from, to, node_id, raft_address, moved, boot_history, known: None }
    }

    #[test]
    fn only_members_of_the_cluster_that_mean_this_node_come_in() {
        let table = table();
        let admit = |hello: Hello| admit(Some(&table), &hello, || Ok(()));
        assert_eq!(admit(hello(7, 1, 2)), Ok(()));
        assert_eq!(admit(hello(8, 1, 2)), Err(Denial::OtherCluster { cluster_id: 7 }));
        assert_eq!(admit(hello(7, 9, 2)), Err(Denial::Removed { cluster_id: 7, raft_id: 9 }));
        assert_eq!(admit(hello(7, 1, 3)), Err(Denial::WrongNode { raft_id: 2 }));
        assert_eq!(admit(hello(7, 2, 2)), Err(Denial::SelfDial));
        assert_eq!(admit(hello(7, 0, 2)), Err(Denial::SelfDial));
    }

    #[test]
    fn a_certified_peer_speaks_for_its_own_name_only() {
        let table = PeerTable { peers: vec![(1, "a".into(), "h:1".into()), (3, "b".into(), "h:3".into())], ..table() };
        let check = |from: u64, says: &str, certified: Option<&str>| {
            let hello = Hello { node_id: says.into(), ..hello(7, from, 2) };
            check_certified(Some(&table), &InboundPeer { hello, certified: certified.map(str::to_owned) })
        };
        for (from, says, certified, verdict) in [
            (1, "a", Some("a"), Ok(())),
            (1, "a", None, Ok(())),
            (1, "a", Some("b"), Err(Denial::OtherNode)),
            (1, "b", Some("b"), Err(Denial::OtherNode)),
            (1, "b", Some("a"), Err(Denial::OtherNode)),
            (3, "b", Some("b"), Ok(())),
            (9, "c", Some("c"), Ok(())),
            (9, "a", Some("c"), Err(Denial::OtherNode)),
            (0, "", Some("c"), Ok(())),
            (1, "", Some("c"), Err(Denial::OtherNode)),
        ] {
            assert_eq!(check(from, says, certified), verdict, "{from} {says} {certified:?}");
        }
    }

    #[test]
    fn only_members_and_nodes_that_members_list_may_speak() {
        let table = PeerTable { peers: vec![(1, "a".into(), "h:1".into())], ..table() };
        for (raft_id, certified, is_told, expected) in [
            (1, "a", false, true),
            (1, "b", true, false),
            (8, "a", false, true),
            (8, "b", false, false),
            (8, "b", true, true),
        ] {
            let offered_by = Some((8, "b"));
            let found = is_member(&table, raft_id, certified, offered_by, || is_told);
            assert_eq!(found, expected, "{raft_id} {certified}");
        }
        let alone = PeerTable::default();
        assert!(!is_member(&alone, 8, "b", None, || false));
        let joiner = PeerTable { joining: true, ..alone };
        let joins = |offered_by, is_told| is_member(&joiner, 8, "b", offered_by, || is_told);
        assert!(joins(None, false) && joins(Some((8, "b")), false) && joins(Some((9, "b")), true));
        assert!(!joins(Some((8, "c")), false) && !joins(Some((9, "b")), false));
    }

    #[test]
    fn names_and_addresses_are_validated() {
        assert_eq!(check_hello(&hello(7, 1, 2)), Ok(()));
        let starting = Hello { node_id: String::new(), raft_address: String::new(), ..hello(0, 0, 0) };
        assert_eq!(check_hello(&starting), Ok(()), "it has not started completely");
        assert!(check_hello(&Hello { cluster_id: 7, ..starting }).is_err());
        for bad in ["a\nb", "", "a\u{1b}[31m"] {
            assert!(check_hello(&Hello { node_id: bad.into(), ..hello(7, 1, 2) }).is_err());
            assert!(check_hello(&Hello { raft_address: bad.into(), ..hello(7, 1, 2) }).is_err());
        }
    }

    #[test]
    fn no_peer_is_admitted_before_the_start_or_after_the_removal() {
        assert_eq!(admit(None, &hello(7, 1, 2), || Ok(())), Err(Denial::Starting));
        let removed = PeerTable { removed: true, ..table() };
        assert_eq!(admit(Some(&removed), &hello(7, 1, 2), || Ok(())), Err(Denial::AcceptorRemoved));
    }

    #[test]
    fn a_member_that_moved_comes_in_once_the_table_says_so_or_where_moves_are_followed() {
        let table = PeerTable { peers: vec![(1, "a".into(), "old:1".into())], ..table() };
        let admit = |table: &PeerTable, hello: &Hello| admit(Some(table), hello, || Ok(()));
        let known = |hello: Hello| Hello {
            boot_history: BootHistory { current: BootId { count: 1, nonce: 1 }, ..hello.boot_history },
            ..hello
        };
        assert_eq!(admit(&table, &hello(7, 1, 2)), Err(Denial::NoBootId));
        let moved = Hello { moved: true, ..known(hello(7, 1, 2)) };
        assert_eq!(admit(&table, &moved), Err(Denial::Moved { listed: "old:1".into() }));
        assert_eq!(admit(&table, &known(hello(7, 1, 2))), Ok(()), "its table has it under another spelling");
        let follows = PeerTable { follow_moves: true, ..table.clone() };
        assert_eq!(admit(&follows, &moved), Ok(()));
        let posted = PeerTable { peers: vec![(1, "a".into(), "h:1".into())], ..table };
        assert_eq!(admit(&posted, &moved), Ok(()));
    }

    #[test]
    fn a_clone_is_refused_at_any_address() {
        let table = PeerTable { peers: vec![(1, "a".into(), "old:1".into())], ..table() };
        let conflict =
            IdentityConflict { known: BootId { count: 2, nonce: 1 }, claimed: BootId { count: 2, nonce: 2 } };
        for moved in [false, true] {
            let hello = Hello { moved, ..hello(7, 1, 2) };
            assert_eq!(
                admit(Some(&table), &hello, || Err(Denial::Conflict(conflict))),
                Err(Denial::Conflict(conflict))
            );
        }
    }

    fn append(index: u64, log_term: u64, term: u64, entries: &[(u64, u64)]) -> Message {
        let entries = entries.iter().map(|&(index, term)| Entry { index, term, ..Entry::default() });
        let entries = entries.collect::<Vec<_>>().into();
        let msg_type = MessageType::MsgAppend;
        Message { msg_type, from: 1, to: 2, index, log_term, term, entries, ..Message::default() }
    }

    #[test]
    fn messages_of_others_and_local_ones_are_refused() {
        let of = |msg_type, term| Message { msg_type, from: 1, to: 2, term, ..Message::default() };
        assert_eq!(check_message(&of(MessageType::MsgHeartbeat, 3), 1, 2), Ok(()));
        assert!(check_message(&of(MessageType::MsgHeartbeat, 3), 1, 3).is_err());
        assert!(check_message(&of(MessageType::MsgHeartbeat, 3), 4, 2).is_err());
        assert!(check_message(&of(MessageType::MsgHeartbeat, 0), 1, 2).is_err());
        assert_eq!(check_message(&of(MessageType::MsgReadIndex, 0), 1, 2), Ok(()));
        for local in [
            MessageType::MsgHup,
            MessageType::MsgBeat,
            MessageType::MsgPropose,
            MessageType::MsgSnapshot,
            MessageType::MsgUnreachable,
            MessageType::MsgSnapStatus,
            MessageType::MsgCheckQuorum,
        ] {
            assert!(check_message(&of(local, 3), 1, 2).is_err(), "{local:?}");
        }
    }

    #[test]
    fn appends_with_gaps_or_terms_that_go_back_are_refused() {
        let check = |message: Message| check_message(&message, 1, 2).is_ok();
        assert!(check(append(4, 2, 3, &[])));
        assert!(check(append(4, 2, 3, &[(5, 2), (6, 3)])));
        assert!(!check(append(4, 2, 3, &[(6, 3)])));
        assert!(!check(append(4, 2, 3, &[(5, 3), (7, 3)])));
        assert!(!check(append(4, 2, 3, &[(5, 3), (6, 2)])));
        assert!(!check(append(4, 2, 3, &[(5, 1)])));
        assert!(!check(append(4, 2, 3, &[(5, 4)])));
        assert!(!check(append(u64::MAX, 2, 3, &[(0, 3)])));
    }

    #[test]
    fn terms_and_indexes_that_raft_could_not_count_on_from_are_refused() {
        for msg_type in [MessageType::MsgAppend, MessageType::MsgRequestVote, MessageType::MsgHeartbeat] {
            let sound = Message { msg_type, from: 1, to: 2, term: MAX_COUNT, ..Message::default() };
            assert_eq!(check_message(&sound, 1, 2), Ok(()));
            for wrong in [
                Message { term: MAX_COUNT + 1, ..sound.clone() },
                Message { log_term: u64::MAX, ..sound.clone() },
                Message { index: u64::MAX, ..sound.clone() },
                Message { commit: u64::MAX, ..sound.clone() },
                Message { commit_term: u64::MAX, ..sound.clone() },
                Message { reject_hint: u64::MAX, ..sound.clone() },
            ] {
                assert!(check_message(&wrong, 1, 2).is_err(), "{wrong:?}");
            }
        }
        let mut message = Message { msg_type: MessageType::MsgSnapshot, from: 1, to: 2, term: 3, ..Message::default() };
        (message.mut_snapshot().mut_metadata().term, message.mut_snapshot().mut_metadata().index) = (3, u64::MAX);
        assert!(check_snapshot(&message, 1, 2).is_err());
    }

    #[test]
    fn a_stream_ends_in_a_snapshot_for_this_node() {
        let mut message = Message { msg_type: MessageType::MsgSnapshot, from: 1, to: 2, term: 3, ..Message::default() };
        assert!(check_snapshot(&message, 1, 2).is_err());
        message.mut_snapshot().mut_metadata().index = 8;
        message.mut_snapshot().mut_metadata().term = 3;
        assert_eq!(check_snapshot(&message, 1, 2), Ok(()));
        assert!(check_snapshot(&message, 1, 4).is_err());
        message.msg_type = MessageType::MsgAppend;
        assert!(check_snapshot(&message, 1, 2).is_err());
    }
}
