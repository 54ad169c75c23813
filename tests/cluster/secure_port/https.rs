//! HTTPS with the tools that users have, beside plain HTTP, and under many half handshakes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};

use super::{ask, logged, start, with_tls};
use crate::harness::{Need, Node, Request, check, eventually, secs};
use crate::test_ca::TestCa;

crate::harness::cases![
    a_tls_directory_makes_a_node_that_serves_https_only,
    curl_needs_the_ca_and_nothing_else.needs(Need::Curl),
    openssl_gets_tls_1_2_and_1_3_and_no_older_version.needs(Need::Openssl),
    in_the_mode_accept_one_port_serves_both,
    half_handshakes_keep_no_client_out,
];

fn a_tls_directory_makes_a_node_that_serves_https_only() {
    let (folder, ca) = (tempfile::tempdir().unwrap(), TestCa::new("huskv-ca"));
    ca.leaf("kv1", |leaf| leaf.days((-1, 13))).write(folder.path());
    let node = start(with_tls(folder.path()), &ca, None);
    ask(&node, &ca, None, Request::new("PUT", "/store/key").body("1")).unwrap().expect(200, "a write");
    let stats = ask(&node, &ca, None, Request::new("GET", "/raft/stats")).unwrap().expect(200, "stats").data();
    assert_eq!(stats["tls_http"], "on");
    let not_after = stats["tls_http_not_after"].as_str().unwrap();
    assert!(not_after.ends_with('Z') && not_after.len() == 20, "{not_after}");
    // Less than 14 days are left.
    logged(&node, &["WARN", "the certificate expires on", not_after, "in 12 days", "CN=kv1", "DNS:localhost"]);
    let plain = node.get("/store/key").problem(400, "plain HTTP").code("https_required", "plain HTTP");
    assert_eq!(plain.word("detail"), "This port speaks HTTPS; use https:// instead of http://.");
    logged(&node, &["a TLS handshake was refused", "plain HTTP", "address: 127.0.0.1:"]);
    // A page that was loaded over http is not this node's.
    let port = node.http.rsplit(':').next().unwrap();
    for (scheme, status) in [("http", 403), ("https", 200)] {
        let request = Request::new("GET", "/health").header("Origin", &format!("{scheme}://localhost:{port}"));
        assert_eq!(ask(&node, &ca, None, request).unwrap().status, status, "{scheme}");
    }
}

fn curl(node: &Node, arguments: &[&str]) -> Output {
    let port = node.http.rsplit(':').next().unwrap();
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "20"]).args(arguments);
    command.arg(format!("https://localhost:{port}/store/key")).output().unwrap()
}

fn curl_needs_the_ca_and_nothing_else() {
    let (folder, ca) = (tempfile::tempdir().unwrap(), TestCa::new("huskv-ca"));
    ca.node("kv1").write(folder.path());
    let node = start(with_tls(folder.path()), &ca, None);
    let file = folder.path().join("ca.pem").display().to_string();
    let put = curl(&node, &["--cacert", &file, "-X", "PUT", "-d", "42", "-H", "Content-Type: application/json"]);
    assert!(put.status.success(), "{put:?}");
    let got = curl(&node, &["--cacert", &file]);
    assert!(String::from_utf8_lossy(&got.stdout).contains(r#""value":42"#), "{got:?}");
    let refused = curl(&node, &[]);
    assert_eq!(refused.status.code(), Some(60), "the CA is unknown: {refused:?}");
    logged(&node, &["a TLS handshake was refused", "does not know the CA of this node's certificate"]);
}

/// What `openssl s_client` says to a server that it must be able to verify.
fn s_client(node: &Node, ca: &str, arguments: &[&str]) -> String {
    let mut client = Command::new("openssl");
    client.args(["s_client", "-connect", &node.http, "-servername", "localhost", "-CAfile", ca]);
    client.args(["-verify_return_error", "-verify_hostname", "localhost", "-alpn", "http/1.1"]).args(arguments);
    let output = client.stdin(Stdio::null()).output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn openssl_gets_tls_1_2_and_1_3_and_no_older_version() {
    let (folder, ca) = (tempfile::tempdir().unwrap(), TestCa::new("huskv-ca"));
    ca.node("kv1").write(folder.path());
    let node = start(with_tls(folder.path()), &ca, None);
    let file = folder.path().join("ca.pem").display().to_string();
    for (flag, version) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let said = s_client(&node, &file, &[flag]);
        assert!(said.contains(version) && said.contains("Verification: OK"), "{flag}: {said}");
        assert!(said.contains("ALPN protocol: http/1.1"), "{flag}: {said}");
        assert!(!said.contains("TLS session ticket:"), "no ticket may be issued: {flag}: {said}");
    }
    let said = s_client(&node, &file, &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]);
    assert!(said.contains("no peer certificate available"), "{said}");
    logged(&node, &["a TLS handshake was refused", "no common TLS version"]);
}

fn in_the_mode_accept_one_port_serves_both() {
    let (folder, ca) = (tempfile::tempdir().unwrap(), TestCa::new("huskv-ca"));
    ca.node("kv1").write(folder.path());
    let mut node = with_tls(folder.path()).set("HUSKV_TLS_HTTP", "accept").start();
    node.put("key", 1);
    let got = ask(&node, &ca, None, Request::new("GET", "/store/key")).unwrap().expect(200, "over TLS");
    assert_eq!(got.data()["value"], 1);
    assert_eq!(node.stats()["tls_http"], "accept");
    let port = node.http.rsplit(':').next().unwrap().to_owned();
    for scheme in ["http", "https"] {
        let request = Request::new("GET", "/health").header("Origin", &format!("{scheme}://localhost:{port}"));
        node.request(request).expect(200, scheme);
    }
    assert!(node.sigterm().success());
    node.set("HUSKV_TLS_HTTP", "off");
    node.start();
    assert_eq!((node.value("key"), &node.stats()["tls_http"]), (1.into(), &"off".into()));
}

fn half_handshakes_keep_no_client_out() {
    let (folder, ca) = (tempfile::tempdir().unwrap(), TestCa::new("huskv-ca"));
    ca.node("kv1").write(folder.path());
    // 64 connections at most, and all of 256.
    for files in [256, 4096] {
        let limit = format!(r#"ulimit -n {files}; exec "$0" "$@""#);
        let node = start(with_tls(folder.path()).wrapped(&["sh", "-c", &limit]), &ca, None);
        let halves: Vec<_> = (0..256)
            .map(|_| {
                let mut stream = TcpStream::connect(&node.http).unwrap();
                // A record of 512 bytes, of which five have come; a connection that was closed already may take no more.
                drop(stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03"));
                stream
            })
            .collect();
        let mut served = 0;
        eventually(secs(20), format!("{files} files: 20 clients in a row are served"), || {
            let answer = ask(&node, &ca, None, Request::new("PUT", "/store/key").body("1"));
            let is_served = answer.as_ref().is_ok_and(|answer| answer.status == 200);
            served = if is_served { served + 1 } else { 0 };
            check(served == 20, format!("{answer:?}"))
        });
        if files == 4096 {
            // The others are dropped when a head has taken 10 s, without an answer.
            let mut rest = Vec::new();
            let mut last = halves.last().unwrap();
            last.set_read_timeout(Some(secs(20))).unwrap();
            drop(last.read_to_end(&mut rest));
            assert_eq!(rest, b"");
            logged(&node, &["a TLS handshake was refused", "no complete handshake within 10 s"]);
        }
    }
}
