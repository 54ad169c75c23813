//! TLS of the HTTP port: real nodes, certificates of an authority of the test, clients that verify them.

mod client_certificates;
mod https;
mod reload;
mod start;
mod whole_cluster;

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::harness::{Answer, Case, Node, Request, Setup, check, eventually, secs};
use crate::test_ca::{Leaf, TestCa};

/// The tests of this folder.
pub fn cases() -> Vec<Case> {
    [https::cases(), start::cases(), client_certificates::cases(), reload::cases(), whole_cluster::cases()]
        .into_iter()
        .flatten()
        .collect()
}

/// A node whose HTTP port uses the certificates in `folder`.
fn with_tls(folder: &Path) -> Setup {
    Setup::named("node1").set("HUSKV_TLS_DIR", folder.display()).set("HUSKV_TLS_PEER", "off")
}

/// Sends a request over TLS, as a client that trusts `ca` and has the certificate `own`.
fn ask(node: &Node, ca: &TestCa, own: Option<&Leaf>, request: Request) -> std::io::Result<Answer> {
    request.send_over(ca.connect(&node.http, own), &node.http)
}

/// Starts a node, and waits until it answers a client that trusts `ca` and has the certificate `own`.
#[track_caller]
fn start(setup: Setup, ca: &TestCa, own: Option<&Leaf>) -> Node {
    let mut node = setup.spawn();
    eventually(secs(20), "the node answers over TLS", || {
        if let Some(status) = node.exited() {
            panic!("it exited with {status}: {}", node.log());
        }
        let text = fs::read_to_string(node.directory().join("addresses.json")).map_err(|error| error.to_string())?;
        let addresses: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        node.http = addresses["http"].as_str().unwrap_or("").to_owned();
        node.raft = addresses["raft"].as_str().unwrap_or("").to_owned();
        let answer = ask(&node, ca, own, Request::new("GET", "/readyz")).map_err(|error| error.to_string())?;
        check(answer.status == 200, &answer)
    });
    node
}

/// Waits until the log has a line with all of `words`.
#[track_caller]
fn logged(node: &Node, words: &[&str]) {
    eventually(secs(10), format!("a line with {words:?}"), || {
        let log = node.log();
        check(log.lines().any(|line| words.iter().all(|word| line.contains(word))), &log)
    });
}
