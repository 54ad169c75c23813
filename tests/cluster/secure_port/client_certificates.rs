//! Client certificates: who is refused, and what the log says of it.

use std::fs;
use std::io::{Read, Write};
use std::time::Instant;

use super::{ask, logged, start, with_tls};
use crate::harness::{Node, Request, secs};
use crate::test_ca::{Leaf, TestCa, TlsClient};

crate::harness::cases![
    where_certificates_are_required_each_refusal_has_its_reason_in_the_log,
    where_they_are_optional_a_client_without_one_is_served,
    a_client_whose_authority_is_withdrawn_loses_its_connection_and_its_watch,
];

#[track_caller]
fn is_served(node: &Node, ca: &TestCa, own: Option<&Leaf>) {
    ask(node, ca, own, Request::new("GET", "/store")).unwrap().expect(200, "a client that is let in");
}

/// Panics unless the client gets no answer, and the log has the reason with all of `words`.
#[track_caller]
fn is_refused(node: &Node, ca: &TestCa, own: Option<&Leaf>, words: &[&str]) {
    let answer = ask(node, ca, own, Request::new("GET", "/store"));
    let error = answer.map(|answer| answer.to_string()).expect_err("no answer").to_string();
    // The client gets the alert, not a reset.
    assert!(error.contains("alert"), "{words:?}: {error}");
    logged(node, &[&["a TLS handshake was refused", "address: 127.0.0.1:"], words].concat());
}

fn where_certificates_are_required_each_refusal_has_its_reason_in_the_log() {
    let (folder, ca, other) = (tempfile::tempdir().unwrap(), TestCa::new("huskv-ca"), TestCa::new("other-ca"));
    ca.node("kv1").write(folder.path());
    let client = ca.client("billing");
    let setup = with_tls(folder.path()).set("HUSKV_TLS_HTTP_CLIENT_AUTH", "required");
    let node = start(setup, &ca, Some(&client));
    is_served(&node, &ca, Some(&client));
    is_refused(&node, &ca, None, &["no certificate was sent", "subject: none"]);
    let foreign = other.client("foreign");
    is_refused(&node, &ca, Some(&foreign), &["unknown issuer CN=other-ca", "subject: CN=foreign", "DNS:foreign"]);
    let expired = ca.leaf("late", |leaf| leaf.days((-9, -1)));
    is_refused(&node, &ca, Some(&expired), &["the certificate expired on 20", "subject: CN=late", "not_after: 20"]);
    let future = ca.leaf("early", |leaf| leaf.days((1, 9)));
    is_refused(&node, &ca, Some(&future), &["not valid before 20", "subject: CN=early"]);
    let server = ca.leaf("server", |leaf| leaf.for_servers_only());
    is_refused(&node, &ca, Some(&server), &["not for this use", "subject: CN=server"]);
    // A flood of them does not flood the log.
    for _ in 0..40 {
        ask(&node, &ca, None, Request::new("GET", "/store")).map(drop).unwrap_err();
    }
    let log = node.log();
    assert!(log.lines().filter(|line| line.contains("no certificate was sent")).count() < 20, "{log}");
    is_served(&node, &ca, Some(&client));
}

fn where_they_are_optional_a_client_without_one_is_served() {
    let (folder, ca, other) = (tempfile::tempdir().unwrap(), TestCa::new("huskv-ca"), TestCa::new("other-ca"));
    ca.node("kv1").write(folder.path());
    let setup = with_tls(folder.path()).set("HUSKV_TLS_HTTP_CLIENT_AUTH", "optional");
    let node = start(setup, &ca, None);
    is_served(&node, &ca, Some(&ca.client("billing")));
    is_refused(&node, &ca, Some(&other.client("foreign")), &["unknown issuer CN=other-ca"]);
}

/// Sends a request on a connection that stays open.
fn send(client: &mut TlsClient, path: &str) {
    client.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).unwrap();
    client.flush().unwrap();
}

/// Reads until the text has `words`.
#[track_caller]
fn read_until(client: &mut TlsClient, words: &str) -> String {
    let mut text = String::new();
    while !text.contains(words) {
        let mut buffer = [0; 4096];
        let count = client.read(&mut buffer).unwrap();
        assert!(count > 0, "it ended without {words:?}: {text}");
        text += std::str::from_utf8(&buffer[..count]).unwrap();
    }
    text
}

fn a_client_whose_authority_is_withdrawn_loses_its_connection_and_its_watch() {
    let (folder, ca, next) = (tempfile::tempdir().unwrap(), TestCa::new("huskv-ca"), TestCa::new("next-ca"));
    ca.node("kv1").write(folder.path());
    let client = ca.client("billing");
    let setup = with_tls(folder.path()).set("HUSKV_TLS_HTTP_CLIENT_AUTH", "required");
    let node = start(setup, &ca, Some(&client));
    let (mut watch, mut kept) = (ca.connect(&node.http, Some(&client)), ca.connect(&node.http, Some(&client)));
    send(&mut watch, "/watch?prefix=");
    read_until(&mut watch, "retry:");
    send(&mut kept, "/livez");
    let served = read_until(&mut kept, "ok\n");
    assert!(served.starts_with("HTTP/1.1 200") && served.contains("x-huskv-node"), "{served}");
    // Without a signal: the files are looked at every 10 s.
    let begun = Instant::now();
    fs::write(folder.path().join("ca.pem"), next.certificate()).unwrap();
    let denied = read_until(&mut watch, "connect again");
    assert!(begun.elapsed() < secs(12), "{:?}", begun.elapsed());
    assert!(denied.contains("event:denied") && denied.contains("unknown issuer CN=huskv-ca"), "{denied}");
    send(&mut kept, "/livez");
    let mut refused = String::new();
    kept.read_to_string(&mut refused).unwrap();
    assert!(refused.starts_with("HTTP/1.1 401") && refused.contains("connect again"), "{refused}");
    assert!(refused.to_lowercase().contains("connection: close"), "{refused}");
    assert!(!refused.contains("x-huskv-"), "it learns nothing of the cluster: {refused}");
    is_refused(&node, &ca, Some(&client), &["unknown issuer CN=huskv-ca"]);
    is_served(&node, &ca, Some(&next.client("billing")));
}
