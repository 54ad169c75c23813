//! Loss of one link of three: the follower reports what it hears, and its writes go through another voter.

use serde_json::{Value, json};

use crate::harness::{Cluster, Node, Request, Setup, check, eventually, free_port, member, secs};
use crate::tcp_proxy::{self, Links, State};

crate::harness::cases![
    a_follower_that_does_not_hear_its_leader_reports_it_and_writes_through_another_voter,
    a_follower_that_cannot_send_to_its_leader_writes_through_another_voter,
];

/// Three nodes whose peers all come through proxies: the cluster, the links, and the places of the leader and the others.
pub fn linked(adjust: impl Fn(Setup) -> Setup) -> (Cluster, Links, [usize; 3]) {
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let proxies = Links::new(&ports);
    let mut nodes: Vec<Node> = ports
        .iter()
        .enumerate()
        .map(|(place, port)| {
            let setup = adjust(Setup::named(&format!("node{}", place + 1))).set("RAFT_PORT", port);
            setup.set("HUSKV_ADVERTISE_HOST", tcp_proxy::host(place)).spawn()
        })
        .collect();
    nodes.iter_mut().for_each(Node::await_up);
    for (place, port) in ports.iter().enumerate().skip(1) {
        let body =
            json!({"node_id": nodes[place].name(), "raft_address": format!("{}:{port}", tcp_proxy::host(place))});
        nodes[0].post("/raft/join", &body).expect(200, "a join");
    }
    let cluster = Cluster { nodes };
    let leader = cluster.agreed();
    let others = cluster.followers();
    (cluster, proxies, [leader, others[0], others[1]])
}

fn put(node: &Node, key: &str, timeout: &str) -> crate::harness::Answer {
    let body = json!({"key": key, "value": key}).to_string();
    node.request(Request::new("POST", format!("/store?timeout={timeout}")).body(body).within(secs(40)))
}

/// Waits until the node counts this member as reachable, or as not.
#[track_caller]
fn sees(node: &Node, other: &Node, connected: bool) -> Value {
    eventually(secs(30), format!("{} hears {}: {connected}", node.name(), other.name()), || {
        let stats = node.try_stats()?;
        let row = member(&stats, other.name()).cloned().unwrap_or_default();
        check(row["connected"] == connected && row["heard_ms"].is_u64(), &stats).map(|()| stats)
    })
}

fn a_follower_that_does_not_hear_its_leader_reports_it_and_writes_through_another_voter() {
    let (cluster, proxies, [leader, cut, third]) = linked(|setup| setup);
    let (led, lonely, between) = (&cluster.nodes[leader], &cluster.nodes[cut], &cluster.nodes[third]);
    for (node, other) in [(led, lonely), (lonely, led), (lonely, between), (between, lonely)] {
        sees(node, other, true);
        eventually(secs(30), "every node is a voter", || {
            let stats = node.try_stats()?;
            check(stats["voters"] == 3, &stats)
        });
    }
    for (from, to) in [(leader, cut), (cut, leader)] {
        proxies.set(from, to, State::Cut);
    }
    for (node, silent, heard, tolerance) in [(lonely, led, between, 0), (led, lonely, between, 0)] {
        sees(node, silent, false);
        let stats = sees(node, heard, true);
        assert_eq!(
            (&stats["voters_unreachable"], &stats["failure_tolerance"]),
            (&json!(1), &json!(tolerance)),
            "{stats}"
        );
    }
    assert_eq!(
        sees(between, lonely, true)["failure_tolerance"],
        1,
        "a node that hears all voters tolerates one failure"
    );
    eventually(secs(20), "it knows no leader", || {
        let stats = lonely.try_stats()?;
        check(stats["leader"] == Value::Null, stats)
    });

    // Its writes go through the other follower, and conditions and versions are those of the cluster.
    let written = put(lonely, "relayed", "20s").expect(200, "a write past the cut link");
    let version = written.data()["version"].clone();
    let read = led.get("/store/relayed").expect(200, "on the leader");
    assert_eq!(read.data()["version"], version);
    let again = lonely.post("/store?timeout=20s", &json!({"key": "relayed", "value": 2, "if_version": 0}));
    again.problem(412, "a condition that is not true").code("precondition_failed", "a condition");

    // What is not relayed says why, and whom to ask.
    let (leader_name, third_name) = (led.name(), between.name());
    let cut_link = format!("{} does not hear {leader_name}, which {third_name} follows", lonely.name());
    let heard = format!("{} hears {third_name} (", lonely.name());
    let read = lonely.get("/store/relayed?timeout=500ms").problem(503, "a linearizable read");
    let change = lonely.post("/raft/transfer?timeout=500ms", &json!({})).problem(503, "a membership change");
    for answer in [read.code("no_quorum", "a read"), change.code("no_leader", "a change")] {
        let detail = answer.word("detail");
        for part in [&cut_link, &heard, &format!("through {third_name}, ask it directly"), "not", leader_name] {
            assert!(detail.contains(part), "no {part:?} in {detail}");
        }
    }
    lonely.get("/store/relayed?consistency=stale").problem(404, "it has not applied what it cannot hear of");

    proxies.open();
    sees(lonely, led, true);
    cluster.agreed();
    assert_eq!(lonely.value("relayed"), "relayed");
}

fn a_follower_that_cannot_send_to_its_leader_writes_through_another_voter() {
    let (cluster, proxies, [leader, cut, _]) = linked(|setup| setup);
    let reign = cluster.reign();
    let lonely = &cluster.nodes[cut];
    let lost =
        || lonely.log().lines().filter(|line| line.contains("peer lost, peer: ") && line.contains(&reign.0)).count();
    let before = lost();
    proxies.set(cut, leader, State::Cut);
    // What is under way on a connection that breaks is unknown, and no matter of this test.
    eventually(secs(20), "the connection is gone", || check(lost() > before, lonely.log()));
    for round in 0..3 {
        let key = format!("k{round}");
        put(lonely, &key, "20s").expect(200, "a write past the cut link");
        assert_eq!(cluster.nodes[leader].value(&key), key);
    }
    assert_eq!(lonely.stats()["leader"]["node_id"], reign.0, "it hears its leader all the while");
    assert_eq!(cluster.reign(), reign);
}
