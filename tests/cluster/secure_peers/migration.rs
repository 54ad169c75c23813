//! A cluster that moves to TLS while it is written to, and one whose authority is replaced.

use std::fs;

use super::{member, secure_cluster, write};
use crate::harness::{Cluster, Load, check, eventually, secs};
use crate::test_ca::{Leaf, TestCa};

crate::harness::cases![
    a_cluster_under_load_moves_to_tls_without_a_failed_write.alone(),
    the_authority_is_replaced_without_a_restart_or_an_election,
];

fn a_cluster_under_load_moves_to_tls_without_a_failed_write() {
    let (home, ca) = (tempfile::tempdir().unwrap(), TestCa::new("huskv-ca"));
    let mut cluster = Cluster::of(3);
    for mode in ["accept", "on"] {
        for place in 0..3 {
            // The clients of the two other nodes must notice nothing, whichever of the three leads.
            let others: Vec<String> =
                (0..3).filter(|other| *other != place).map(|other| cluster.nodes[other].http.clone()).collect();
            let load = Load::start(&others, 4, &format!("{mode}-{place}"));
            let begun = load.acked();
            eventually(secs(20), "clients write", || check(load.acked() > begun + 50, load.acked()));
            let node = &mut cluster.nodes[place];
            node.sigterm();
            let folder = write(home.path(), node.name(), &ca.node(node.name()));
            node.set("HUSKV_TLS_DIR", folder.display());
            node.set("HUSKV_TLS_HTTP", "off");
            node.set("HUSKV_TLS_PEER", mode);
            node.start();
            assert_eq!(node.stats()["tls_peer"], mode);
            cluster.caught_up(secs(30));
            let back = load.acked();
            eventually(secs(20), "clients go on", || check(load.acked() > back + 50, load.acked()));
            let record = load.finish();
            assert_eq!(record.first_failure, None, "{mode}, {}", cluster.nodes[place].name());
            let last = cluster.followers()[0];
            record.verify(&cluster.nodes[last]);
        }
        // All connections have been made anew with the last restart of either end, and none is plain.
        for node in &cluster.nodes {
            let log = node.log();
            let last = |name: &str| {
                let found = log.lines().rfind(|line| line.contains("peer found") && line.contains(name));
                found.unwrap_or_else(|| panic!("{name}: {log}")).to_owned()
            };
            for other in cluster.nodes.iter().filter(|other| other.name() != node.name()) {
                assert!(last(other.name()).contains("tls: true"), "{}", last(other.name()));
            }
        }
    }
    // No node comes back to plain.
    let place = cluster.followers()[0];
    let node = &mut cluster.nodes[place];
    node.sigterm();
    node.set("HUSKV_TLS_PEER", "off");
    node.spawn();
    let others: Vec<&_> =
        cluster.nodes.iter().enumerate().filter(|(other, _)| *other != place).map(|it| it.1).collect();
    eventually(secs(20), "the others refuse it", || {
        let log = others.iter().map(|node| node.log()).collect::<String>();
        check(log.contains("takes TLS only from this one"), &log)
    });
}

fn the_authority_is_replaced_without_a_restart_or_an_election() {
    let (home, old, new) = (tempfile::tempdir().unwrap(), TestCa::new("old-ca"), TestCa::new("new-ca"));
    let cluster = secure_cluster(home.path(), &old);
    let before = cluster.reign();
    let lost = || -> usize {
        let lines =
            |log: &str| log.lines().filter(|line| line.contains("peer lost") && !line.contains("node4")).count();
        cluster.nodes.iter().map(|node| lines(&node.log())).sum()
    };
    let lost_before = lost();
    let load = Load::start(&cluster.addresses(), 2, "rotation");
    let both = old.certificate() + &new.certificate();
    // The three steps of docs/tls.md: the bundle with both, certificates of the new one, the bundle without the old one.
    type Step<'a> = (&'a dyn Fn(&str) -> Leaf, &'a str);
    let steps: [Step<'_>; 3] = [
        (&|name| Leaf { ca: both.clone(), ..old.node(name) }, "authorities: 2"),
        (&|name| Leaf { ca: both.clone(), ..new.node(name) }, "issued by CN=new-ca"),
        (&|name| new.node(name), "authorities: 1"),
    ];
    for (leaf, words) in steps {
        for node in &cluster.nodes {
            let folder = home.path().join(node.name());
            // Written beside and moved, as a tool does; between two of the moves a reload finds files that do not fit.
            let beside = home.path().join("beside");
            fs::create_dir_all(&beside).unwrap();
            leaf(node.name()).write(&beside);
            for file in ["ca.pem", "node-key.pem", "node.pem"] {
                fs::rename(beside.join(file), folder.join(file)).unwrap();
            }
            let lines = node.log().lines().count();
            node.sighup();
            eventually(secs(30), format!("{} has taken {words}", node.name()), || {
                let log = node.log();
                let found = log
                    .lines()
                    .skip(lines)
                    .any(|line| line.contains("new certificates are in use") && line.contains(words));
                check(found, &log)
            });
        }
    }
    // A node of the new authority alone comes in, and what the old one has issued does not.
    let joiner = member(crate::harness::Setup::named("node4"), home.path(), &new).start();
    let late = member(crate::harness::Setup::named("node5"), home.path(), &old).start();
    let leader = &cluster.nodes[cluster.agreed()];
    leader.join(&joiner).expect(200, "a node of the new authority");
    let refused =
        leader.join(&late).problem(409, "a node of the old authority").code("tls_refused", "the old authority");
    assert!(refused.word("detail").contains("unknown issuer CN=old-ca"), "{refused}");
    let record = load.finish();
    record.verify_no_failure("the rotation");
    assert_eq!(cluster.reign(), before, "no election");
    record.verify(&cluster.nodes[0]);
    // Connections were replaced before the old certificates lost their trust.
    assert_eq!(lost(), lost_before);
}
