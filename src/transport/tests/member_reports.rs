//! Tests of the questions to members for their reports and events: who is answered, how often it is asked, and an earlier version.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::consensus::{Handle, Names, Readiness};
use crate::model::{Asked, AskedMember};
use crate::telemetry::node_events::Kind;
use crate::transport::handshake::dial::{DialError, dial};
use crate::transport::handshake::{Denial, Hello, Purpose, WIRE_VERSION, Welcome, preamble};
use crate::transport::wire::Frame;
use crate::transport::wire::frame_limits::ANY;
use crate::transport::wire::framing::{read_frame, read_preamble, write_frame_within};

impl Node {
    fn handle(&self) -> Handle {
        self.transport.as_ref().expect("it runs").registry.handle.clone()
    }

    /// Asks until the answer of its only peer is one that the test waits for.
    async fn asks_until(&self, what: &str, is_it: impl Fn(&AskedMember) -> bool) -> AskedMember {
        let asking = async {
            loop {
                let answers = self.handle().ask_members().await;
                if let Some(found) = answers.iter().find(|it| is_it(it)) {
                    return found.clone();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(TEST_TIMEOUT, asking).await.unwrap_or_else(|_| panic!("never: {what}"))
    }
}

#[tokio::test]
async fn a_member_is_asked_once_for_all_that_want_to_know() {
    let (a, b) = pair().await;
    let refusal = crate::model::Refusal::not_applied(crate::model::Code::NoLeader, "there is none");
    b.inbox
        .publish(&Names { readiness: Readiness { leader: Some(refusal), ..Readiness::default() }, ..Names::default() });
    let handle = a.handle();
    let (one, two) = tokio::join!(handle.ask_members(), handle.ask_members());
    assert!(Arc::ptr_eq(&one, &two), "one round of questions");
    let found = a.asks_until("a report", |it| matches!(it.asked, Asked::Answered(_))).await;
    let Asked::Answered(report) = found.asked else { panic!("{found:?}") };
    assert_eq!((found.raft_id, report.version.as_str()), (2, env!("CARGO_PKG_VERSION")));
    assert_eq!(report.not_ready, Some(("no_leader".into(), "there is none".into())));
}

#[tokio::test]
async fn a_member_is_asked_for_its_events_beside_its_report() {
    let (a, b) = pair().await;
    b.handle().events().note(Kind::PeerLost { peer: "node9".into(), last_contact_ms: Some(5) });
    let handle = a.handle();
    let (one, two, _) =
        tokio::join!(handle.ask_members_for_events(), handle.ask_members_for_events(), handle.ask_members());
    assert!(Arc::ptr_eq(&one, &two), "one round of questions");
    let asking = async {
        loop {
            let answers = handle.ask_members_for_events().await;
            if let Some(Asked::Answered(events)) = answers.first().map(|it| it.asked.clone()) {
                return *events;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let events = timeout(TEST_TIMEOUT, asking).await.expect("its events");
    assert_eq!(events, b.handle().latest_events());
    assert!(events.iter().any(|event| event.kind == "peer_lost" && event.detail.contains("node9")), "{events:?}");
    let both = async {
        while !matches!(handle.ask_members().await.first().map(|it| &it.asked), Some(Asked::Answered(_))) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(TEST_TIMEOUT, both).await.expect("its report too");
}

#[tokio::test]
async fn a_member_that_is_gone_is_asked_in_vain() {
    let (mut a, mut b) = pair().await;
    b.transport.take().unwrap().stop().await;
    a.down(2).await;
    a.asks_until("no answer", |it| it.asked == Asked::NoAnswer).await;
    a.post.publish(PeerTable { removed: true, ..a.table(&[]) });
    let nothing = async {
        while !a.handle().ask_members().await.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(TEST_TIMEOUT, nothing).await.expect("a removed node asks no other");
}

#[tokio::test]
async fn only_members_are_answered_and_a_joiner_answers_its_cluster() {
    let mut b = Node::start(2);
    b.publish(&[(1, "127.0.0.1:1")]);
    let hello = |from| Hello {
        purpose: Purpose::Events,
        cluster_id: CLUSTER,
        from,
        to: 2,
        node_id: format!("node{from}"),
        raft_address: "127.0.0.1:1".into(),
        moved: false,
        boot_history: Disk::new(BootHistory::default()).boot_history,
        known: None,
    };
    let asked = dial(&b.address, &hello(9), &plain(), TEST_TIMEOUT).await;
    assert_eq!(asked.unwrap_err(), DialError::Denied(Denial::Unlisted));
    let other = Hello { cluster_id: 8, ..hello(1) };
    let asked = dial(&b.address, &other, &plain(), TEST_TIMEOUT).await;
    assert_eq!(asked.unwrap_err(), DialError::Denied(Denial::OtherCluster { cluster_id: CLUSTER }));
    b.post.publish(PeerTable { joining: true, ..b.table(&[]) });
    let mut asked = dial(&b.address, &hello(9), &plain(), TEST_TIMEOUT).await.unwrap().stream;
    assert!(matches!(read_frame(&mut asked, ANY).await.unwrap(), Frame::Events(_)));
    let hello = Hello { purpose: Purpose::Report, ..hello(9) };
    let mut asked = dial(&b.address, &hello, &plain(), TEST_TIMEOUT).await.unwrap().stream;
    assert!(matches!(read_frame(&mut asked, ANY).await.unwrap(), Frame::Report(_)));
}

/// Takes connections as a node of an earlier version: the first one is welcome, and those for a purpose that it does not know are
/// closed and counted.
async fn take_as_earlier(listener: TcpListener, refused: Arc<AtomicUsize>) {
    let mut links: Vec<TcpStream> = Vec::new();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_preamble(&mut stream).await.unwrap();
        let Ok(Frame::Hello(hello)) = read_frame(&mut stream, ANY).await else { continue };
        if matches!(hello.purpose, Purpose::Report | Purpose::Events) {
            refused.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        tokio::io::AsyncWriteExt::write_all(&mut stream, &preamble(WIRE_VERSION)).await.unwrap();
        let welcome = Welcome { cluster_id: CLUSTER, raft_id: 2, boot_history: BootHistory::default() };
        write_frame_within(&mut stream, &Frame::Verdict(Ok(welcome)), TEST_TIMEOUT).await.unwrap();
        links.push(stream);
    }
}

#[tokio::test]
async fn a_member_of_an_earlier_version_is_there_without_a_report_and_keeps_its_link() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (mut a, refused) = (Node::start(1), Arc::new(AtomicUsize::new(0)));
    a.publish(&[(2, &listener.local_addr().unwrap().to_string())]);
    let earlier = tokio::spawn(take_as_earlier(listener, Arc::clone(&refused)));
    a.up(2).await;
    a.asks_until("no report", |it| it.asked == Asked::WithoutReport).await;
    // In the rounds after it the answer is the same, and it is not asked again.
    let before = refused.load(Ordering::Relaxed);
    let first = a.handle().ask_members().await;
    let later = async {
        loop {
            let answers = a.handle().ask_members().await;
            if !Arc::ptr_eq(&first, &answers) {
                return answers;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let later = timeout(TEST_TIMEOUT, later).await.expect("another round");
    assert_eq!((later[0].asked.clone(), refused.load(Ordering::Relaxed)), (Asked::WithoutReport, before));
    assert_eq!(a.lines.count("peer lost"), 0);
    let events = a.handle().ask_members_for_events().await;
    assert_eq!((&events[0].asked, refused.load(Ordering::Relaxed)), (&Asked::WithoutReport, before + 1));
    earlier.abort();
}
