//! `huskv status`: output and exit code.

use std::process::{Command, Output};

use crate::harness::{Cluster, Setup, binary, check, eventually, free_port, secs};

crate::harness::cases![
    status_is_0_where_all_nodes_know_their_leader_and_1_without_a_quorum,
    status_without_arguments_asks_the_node_that_the_same_variables_start,
    status_of_a_node_that_waits_for_its_cluster_is_1,
    status_refuses_an_invalid_address,
    status_warns_of_dead_voters_while_there_is_a_quorum,
];

pub fn status(variables: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(binary());
    command.env_clear().envs(variables.iter().copied()).arg("status").args(arguments);
    let Output { status, stdout, stderr } = command.output().expect("huskv can be started");
    (status.code(), String::from_utf8([stdout, stderr].concat()).expect("UTF-8"))
}

fn status_is_0_where_all_nodes_know_their_leader_and_1_without_a_quorum() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.agreed();
    let addresses = cluster.addresses().join(",");
    let (code, said) = status(&[], &["--endpoints", &addresses]);
    assert_eq!(code, Some(0), "{said}");
    for (place, line) in said.lines().enumerate() {
        let name = cluster.nodes[place].name();
        let leads = cluster.nodes[leader].name();
        let does = if place == leader { format!("{name} leads") } else { format!("{name} follows {leads}") };
        assert!(line.starts_with(&format!("{}: {does}, term ", cluster.nodes[place].http)), "{line}");
        assert!(line.contains(", 3 voters, applied "), "{line}");
    }

    let stays = (leader + 1) % 3;
    let gone = (leader + 2) % 3;
    cluster.nodes[gone].kill9();
    let (code, said) = status(&[], &["--endpoints", &addresses]);
    assert_eq!(code, Some(1), "one of three does not answer: {said}");
    cluster.nodes[leader].kill9();
    eventually(secs(30), "the last node is not ready", || {
        let (code, said) = status(&[], &["--endpoints", &cluster.nodes[stays].http]);
        check(code == Some(1) && said.contains("\n  not ready: leader: this node knows no leader"), said)
    });
}

fn status_without_arguments_asks_the_node_that_the_same_variables_start() {
    let port = free_port().to_string();
    let own = [
        ("SERVER_PORT", port.as_str()),
        ("HUSKV_HOST", "0.0.0.0"),
        ("HUSKV_ADVERTISE_HOST", "localhost"),
        ("HUSKV_NETWORK_INSECURE", "true"),
    ];
    let (code, said) = status(&own, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("127.0.0.1:{port}")) && said.contains("refused"), "{said}");
    let setup = own.iter().fold(Setup::named("node1"), |setup, (name, value)| setup.set(name, value));
    let _node = setup.start();
    eventually(secs(30), "a lone node leads itself", || {
        let (code, said) = status(&own, &[]);
        check(code == Some(0) && said.starts_with(&format!("127.0.0.1:{port}: node1 leads, term ")), said)
    });
    let (code, said) = status(&[("SERVER_PORT", "0")], &[]);
    assert_eq!((code, said.contains("addresses.json")), (Some(2), true), "{said}");
    let (code, said) = status(&[("SERVER_PORT", "x")], &[]);
    assert_eq!((code, said.contains("server.port")), (Some(2), true), "{said}");
}

fn status_of_a_node_that_waits_for_its_cluster_is_1() {
    let port = free_port().to_string();
    let list = format!("127.0.0.1:{port},127.0.0.1:1");
    let node = Setup::named("node1").set("SERVER_PORT", &port).set("HUSKV_JOIN", list).start();
    let (code, said) = status(&[], &["--endpoints", &node.http]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("node1 waits for a cluster"), "{said}");
}

fn status_warns_of_dead_voters_while_there_is_a_quorum() {
    let mut cluster = Cluster::of(5);
    let dead: Vec<usize> = cluster.followers()[..2].to_vec();
    dead.iter().for_each(|&place| cluster.nodes[place].kill9());
    let names: Vec<String> = dead.iter().map(|&place| cluster.nodes[place].name().to_owned()).collect();
    for node in cluster.nodes.iter().filter(|node| node.runs()) {
        eventually(secs(30), format!("{} tells of both", node.name()), || {
            let (code, said) = status(&[], &["--endpoints", &node.http]);
            let told = said.contains(", 5 voters, ") && names.iter().all(|name| said.contains(&format!("{name} (")));
            check(code == Some(0) && told && said.trim_end().ends_with(": 0 more may fail"), said)
        });
        let stats = node.stats();
        let counts = [&stats["voters"], &stats["voters_unreachable"], &stats["failure_tolerance"]];
        assert_eq!(counts, [5, 2, 0], "{stats}");
    }
}

fn status_refuses_an_invalid_address() {
    for list in ["localhost", "ftp://localhost:1", "http://localhost:1/store", "localhost:1,", ""] {
        let (code, said) = status(&[], &["--endpoints", list]);
        assert_eq!(code, Some(2), "{list:?}: {said}");
        assert!(said.contains("--endpoints") && said.lines().count() == 1, "{list:?}: {said}");
    }
}
