//! Boot id tests: members and clones of their disks.

use super::*;
use crate::model::IdentityConflict;
use crate::transport::handshake::dial::{DialError, Established, dial};
use crate::transport::handshake::{Denial, Hello, Purpose};

impl Node {
    /// Ends it; what it had on its disk.
    async fn end(mut self) -> Disk {
        self.transport.take().unwrap().stop().await;
        self.disk
    }

    /// The next word of an identity conflict: with whom, and whether this node is the one that is refused.
    async fn conflict(&mut self) -> (u64, bool) {
        self.wait(|input| match input {
            Input::IdentityConflict { raft_id, of_this_node, detail } => {
                assert!(detail.contains("/raft/join"), "{detail}");
                Some((raft_id, of_this_node))
            }
            _ => None,
        })
        .await
    }

    fn heard_nothing(&mut self) {
        while let Ok(input) = self.inbox.peers.try_recv() {
            assert!(!matches!(input, Input::Step(_)), "a raft message was heard");
        }
    }
}

#[tokio::test]
async fn a_restored_disk_is_refused_by_peers_with_a_later_boot_id() {
    let (mut a, b) = pair().await;
    let (old, address) = (b.disk.copy(), b.address.clone());
    let disk = b.end().await;
    a.down(2).await;
    let mut b = Node::start_on(disk, 2, &address);
    b.publish(&[(1, &a.address)]);
    a.up(2).await;
    b.up(1).await;
    b.end().await;
    a.down(2).await;
    let mut b = Node::start_on(old, 2, &address);
    b.publish(&[(1, &a.address)]);
    b.post.send(vec![append(2, 1, 6, 1)]);
    a.post.send(vec![append(1, 2, 6, 1)]);
    assert_eq!(a.conflict().await, (2, false));
    assert_eq!(b.conflict().await, (1, true));
    a.lines.wait("identity conflict").await;
    b.lines.wait("identity conflict").await;
    // As the one that dials, `a` refuses it too.
    while a.conflict().await != (2, false) {}
    a.heard_nothing();
    b.heard_nothing();
}

#[tokio::test]
async fn of_two_clones_the_first_connected_one_is_the_member() {
    let (mut a, b) = pair().await;
    let (copy, address) = (b.disk.copy(), b.address.clone());
    let disk = b.end().await;
    a.down(2).await;
    let mut b = Node::start_on(disk, 2, &address);
    b.publish(&[(1, &a.address)]);
    a.up(2).await;
    // Under another address it is a clone all the same, and a higher count does not help.
    let mut copy = Node::start_on(Node::start_on(copy, 2, "127.0.0.1:0").end().await, 2, "127.0.0.1:0");
    copy.post.publish(PeerTable { moved: true, ..copy.table(&[(1, &a.address)]) });
    copy.post.send(vec![append(2, 1, 6, 1)]);
    assert_eq!(copy.conflict().await, (1, true));
    a.post.send(vec![append(1, 2, 7, 1)]);
    assert_eq!(b.message().await.index, 6);
    a.heard_nothing();
    copy.heard_nothing();
}

#[tokio::test]
async fn a_clone_cannot_replace_a_member_that_is_down() {
    let (mut a, b) = pair().await;
    let (copy, address) = (b.disk.copy(), b.address.clone());
    let disk = b.end().await;
    a.down(2).await;
    let mut copy = Node::start_on(copy, 2, "127.0.0.1:0");
    copy.post.publish(PeerTable { moved: true, ..copy.table(&[(1, &a.address)]) });
    copy.lines.wait("peer will not talk").await;
    a.lines.wait("a peer is refused").await;
    let mut b = Node::start_on(disk, 2, &address);
    b.publish(&[(1, &a.address)]);
    a.up(2).await;
    b.up(1).await;
    assert_eq!(copy.conflict().await, (1, true));
    a.heard_nothing();
}

#[tokio::test]
async fn an_unlisted_peer_learns_no_boot_id_and_cannot_impersonate_a_member() {
    let (a, b) = pair().await;
    let unidentified = |from, boot_history: &BootHistory| Hello {
        purpose: Purpose::Peer,
        cluster_id: CLUSTER,
        from,
        to: 2,
        node_id: "x".into(),
        raft_address: "x:1".into(),
        moved: false,
        boot_history: boot_history.clone(),
        known: None,
    };
    let Established { welcome, .. } =
        dial(&b.address, &unidentified(9, &BootHistory::default()), &plain(), TEST_TIMEOUT).await.unwrap();
    assert_eq!(welcome.boot_history, BootHistory::default());
    let mut guessed = BootHistory::default();
    assert!(dial(&b.address, &unidentified(1, &guessed), &plain(), TEST_TIMEOUT).await.is_err());
    (0..9).for_each(|nonce| guessed.start(nonce));
    assert!(dial(&b.address, &unidentified(1, &guessed), &plain(), TEST_TIMEOUT).await.is_err());
    assert_eq!(Peers::open(b.disk.engine.clone()).unwrap().boot_id(1), Some(a.disk.boot_history.current));
}

/// A refused node does not learn the recorded boot id, and a node that knows it all the same cannot replace a connected
/// member.
#[tokio::test]
async fn a_connected_member_is_not_overtaken() {
    let (a, b) = pair().await;
    let address = a.address.clone();
    let hello = |boot_history: &BootHistory| Hello {
        purpose: Purpose::Peer,
        cluster_id: CLUSTER,
        from: 1,
        to: 2,
        node_id: "x".into(),
        raft_address: address.clone(),
        moved: false,
        boot_history: boot_history.clone(),
        known: None,
    };
    let real = a.disk.boot_history.current;
    let mut guessed = BootHistory::default();
    guessed.start(1);
    let Err(DialError::Denied(Denial::Conflict(reported_to))) =
        dial(&b.address, &hello(&guessed), &plain(), TEST_TIMEOUT).await
    else {
        panic!("a guessed boot id is a conflict");
    };
    assert!(reported_to.known.count == real.count && reported_to.known.nonce != real.nonce);
    for known in [reported_to.known, real] {
        let mut forged = BootHistory { current: known, before: Vec::new() };
        forged.start(4711);
        let refused = dial(&b.address, &hello(&forged), &plain(), TEST_TIMEOUT).await;
        let wanted = if known == real { "connected there" } else { "does not continue" };
        let error = refused.expect_err("the member is connected").to_string();
        assert!(error.contains(wanted), "{error}");
    }
    assert_eq!(Peers::open(b.disk.engine.clone()).unwrap().boot_id(1), Some(real));
}

#[tokio::test]
async fn a_member_with_an_old_table_reports_its_history_to_peers_that_know_it() {
    let (mut a, b) = pair().await;
    let address = b.address.clone();
    let disk = b.end().await;
    a.down(2).await;
    let mut b = Node::start_on(disk, 2, &address);
    b.publish(&[]);
    a.up(2).await;
    a.post.send(vec![append(1, 2, 6, 1)]);
    assert_eq!(b.message().await.index, 5);
    assert_eq!(a.lines.count("identity conflict"), 0);
}

#[tokio::test]
async fn a_member_that_was_started_often_while_another_was_down_is_known_again() {
    let (a, b) = pair().await;
    let (at, address) = (a.address.clone(), b.address.clone());
    let (away, mut disk) = (a.end().await, b.end().await);
    for _ in 0..20 {
        let mut b = Node::start_on(disk, 2, &address);
        b.publish(&[(1, &at)]);
        disk = b.end().await;
    }
    let (mut a, mut b) = (Node::start_on(away, 1, &at), Node::start_on(disk, 2, &address));
    a.publish(&[(2, &address)]);
    b.publish(&[(1, &at)]);
    tokio::join!(a.up(2), b.up(1));
}

#[tokio::test]
async fn a_boot_id_is_durable_before_the_peer_is_served() {
    let (a, b) = pair().await;
    let known = Peers::open(a.disk.engine.clone()).unwrap();
    assert_eq!(known.boot_id(2), Some(b.disk.boot_history.current));
    let reported = BootHistory::default();
    let expected = IdentityConflict { known: b.disk.boot_history.current, claimed: reported.current };
    assert_eq!(known.check(2, &reported), Err(expected));
}
