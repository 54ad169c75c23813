//! Strangers at a peer port with TLS: half handshakes, plain protocols, and openssl.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use super::secure_cluster;
use crate::harness::{Need, check, eventually, secs, wire};
use crate::test_ca::TestCa;

crate::harness::cases![
    half_handshakes_and_plain_protocols_keep_no_member_out,
    openssl_gets_mutual_tls_1_2_and_1_3_and_nothing_older.needs(Need::Openssl),
];

fn half_handshakes_and_plain_protocols_keep_no_member_out() {
    let (home, ca) = (tempfile::tempdir().unwrap(), TestCa::new("huskv-ca"));
    let mut cluster = secure_cluster(home.path(), &ca);
    let leader = cluster.agreed();
    let half: Vec<TcpStream> = (0..256)
        .map(|_| {
            let mut stream = TcpStream::connect(&cluster.nodes[leader].raft).unwrap();
            stream.write_all(&[0x16, 3, 1, 2, 0, 1, 0]).unwrap();
            stream
        })
        .collect();
    let follower = cluster.followers()[0];
    cluster.nodes[follower].kill9();
    cluster.nodes[follower].start();
    cluster.nodes[follower].put("beside half handshakes", 1);
    drop(half);
    // Plain HTTP is closed, a plain huskv is told; neither is served.
    let mut http = TcpStream::connect(&cluster.nodes[leader].raft).unwrap();
    http.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    http.set_read_timeout(Some(secs(10))).unwrap();
    let mut said = Vec::new();
    drop(http.read_to_end(&mut said));
    assert!(said.is_empty(), "{said:?}");
    let mut plain = TcpStream::connect(&cluster.nodes[leader].raft).unwrap();
    plain.write_all(&wire::preamble(&cluster.nodes[leader])).unwrap();
    plain.write_all(&[0xff; 64]).unwrap();
    plain.set_read_timeout(Some(secs(10))).unwrap();
    drop(plain.read_to_end(&mut said));
    eventually(secs(10), "the refusals are in the log", || {
        let log = cluster.nodes[leader].log();
        check(log.contains("plain HTTP on a port that speaks TLS only") && log.contains("side: peer"), &log)
    });
    cluster.nodes[follower].put("after", 2);
}

fn openssl_gets_mutual_tls_1_2_and_1_3_and_nothing_older() {
    let (home, ca) = (tempfile::tempdir().unwrap(), TestCa::new("huskv-ca"));
    let cluster = secure_cluster(home.path(), &ca);
    let port = cluster.nodes[0].raft.rsplit(':').next().unwrap().to_owned();
    let certificates = home.path().join("node2");
    let client = |arguments: &[&str]| {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-servername", "node.test.huskv"]);
        command.arg("-CAfile").arg(certificates.join("ca.pem")).args(["-verify_return_error", "-verify_hostname"]);
        command.args(["node1.test.huskv"]).args(arguments).stdin(Stdio::null());
        let output = command.output().unwrap();
        (String::from_utf8_lossy(&output.stdout) + &*String::from_utf8_lossy(&output.stderr)).into_owned()
    };
    let (cert, key) = (certificates.join("node.pem"), certificates.join("node-key.pem"));
    let own = ["-cert", cert.to_str().unwrap(), "-key", key.to_str().unwrap()];
    for (flag, version) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let said = client(&[&own[..], &[flag]].concat());
        assert!(said.contains("Verify return code: 0 (ok)") && said.contains(version), "{flag}: {said}");
        assert!(said.contains("Acceptable client certificate CA names"), "{flag}: {said}");
    }
    let said = client(&[&own[..], &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]].concat());
    assert!(said.contains("no peer certificate available"), "{said}");
    let said = client(&["-tls1_2"]);
    assert!(said.contains("alert"), "{said}");
    eventually(secs(10), "both refusals are in the log", || {
        let log = cluster.nodes[0].log();
        let both =
            log.contains("no certificate was sent, and one is required") && log.contains("no common TLS version");
        check(both, &log)
    });
}
