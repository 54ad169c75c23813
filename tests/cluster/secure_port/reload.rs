//! Certificates that are replaced while a node runs.

use std::fs;
use std::time::Instant;

use super::{ask, logged, start, with_tls};
use crate::harness::{Request, check, eventually, secs};
use crate::test_ca::TestCa;

crate::harness::cases![
    a_signal_takes_new_certificates_and_disturbs_no_request,
    new_certificates_are_found_without_a_signal,
    wrong_certificates_change_nothing,
];

fn a_signal_takes_new_certificates_and_disturbs_no_request() {
    let (folder, old, new) = (tempfile::tempdir().unwrap(), TestCa::new("old-ca"), TestCa::new("new-ca"));
    old.node("kv1").write(folder.path());
    let node = start(with_tls(folder.path()), &old, None);
    node.sighup();
    logged(&node, &["settings reloaded", "SIGHUP"]);
    // A read that waits for the second write from now.
    let put = || Request::new("PUT", "/store/key").body("1");
    let version = ask(&node, &old, None, put()).unwrap().expect(200, "a write").data()["version"].as_u64().unwrap();
    let waiting = format!("/store/key?consistency=stale&min_index={}&timeout=30s", version + 2);
    let connection = old.connect(&node.http, None);
    let address = node.http.clone();
    let read = std::thread::spawn(move || Request::new("GET", waiting).send_over(connection, &address));
    new.node("kv2").write(folder.path());
    node.sighup();
    logged(&node, &["new certificates are in use", "CN=kv2", "issued by CN=new-ca"]);
    ask(&node, &old, None, put()).map(drop).expect_err("the new certificate is not of the old CA");
    for _ in 0..2 {
        ask(&node, &new, None, put()).unwrap().expect(200, "a client that trusts the new CA");
    }
    read.join().unwrap().unwrap().expect(200, "the request that was under way");
}

fn new_certificates_are_found_without_a_signal() {
    let (folder, ca) = (tempfile::tempdir().unwrap(), TestCa::new("huskv-ca"));
    // As Kubernetes does it: the directory is a symbolic link, which is replaced.
    let (one, two, link) = (folder.path().join("1"), folder.path().join("2"), folder.path().join("tls"));
    for (place, name) in [(&one, "kv1"), (&two, "kv2")] {
        fs::create_dir(place).unwrap();
        ca.node(name).write(place);
    }
    std::os::unix::fs::symlink(&one, &link).unwrap();
    let node = start(with_tls(&link), &ca, None);
    let next = folder.path().join("next");
    std::os::unix::fs::symlink(&two, &next).unwrap();
    fs::rename(&next, &link).unwrap();
    let begun = Instant::now();
    eventually(secs(30), "the new certificate is in use", || {
        let log = node.log();
        check(log.contains("new certificates are in use") && log.contains("CN=kv2"), &log)
    });
    assert!(begun.elapsed() < secs(12), "{:?}", begun.elapsed());
    ask(&node, &ca, None, Request::new("GET", "/store")).unwrap().expect(200, "a read");
}

fn wrong_certificates_change_nothing() {
    let (folder, ca) = (tempfile::tempdir().unwrap(), TestCa::new("huskv-ca"));
    ca.node("kv1").write(folder.path());
    let node = start(with_tls(folder.path()), &ca, None);
    let is_served = || ask(&node, &ca, None, Request::new("GET", "/store")).unwrap().expect(200, "the old pair");
    ca.leaf("kv2", |leaf| leaf.days((-9, -1))).write(folder.path());
    for _ in 0..3 {
        node.sighup();
    }
    logged(&node, &["stay in use", "node.pem", "expired on 20"]);
    is_served();
    fs::write(folder.path().join("node.pem"), "garbage").unwrap();
    node.sighup();
    logged(&node, &["stay in use", "node.pem", "no certificate in PEM form"]);
    is_served();
    let lines = |words: &str| node.log().lines().filter(|line| line.contains(words)).count();
    // The look every 2 s logs the same failure once, and each reload that was asked for has a line; signals may fall together.
    assert_eq!(lines("stay in use"), 2, "{}", node.log());
    assert!((2..=4).contains(&lines("the reload failed and has changed nothing")), "{}", node.log());
    ca.node("kv3").write(folder.path());
    logged(&node, &["new certificates are in use", "CN=kv3"]);
    is_served();
}
