//! Variables of the subcommands for TLS and tokens: `huskv status` as a process, against a small TLS server.
//!
//! See also: `src/client/tests/tls.rs` (the client itself), `src/trust/connector.rs` (reasons of refusals).

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, mpsc};
use std::thread;

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

#[path = "support/test_ca.rs"]
mod test_ca;

use test_ca::{Leaf, TestCa};

const SECRET: &str = "hkv_secret";
const STATS: &str = r#"{"data":{"node_id":"kv1","state":"Leader","term":"3","applied_index":"17","members":[],
    "leader":{"node_id":"kv1","http_address":"kv1:1"}}}"#;

/// Runs huskv with these environment variables only; the secret must be in nothing that it prints.
fn huskv(variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_huskv"));
    let output = command.env_clear().envs(variables.iter().copied()).args(arguments).output().expect("it starts");
    let printed = [&output.stdout[..], &output.stderr].concat();
    assert!(!String::from_utf8_lossy(&printed).contains(SECRET), "{output:?}");
    output
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

/// Serves stats of a node over TLS, whatever is asked; returns the port, and the requests as they come.
fn serve(leaf: &Leaf) -> (String, mpsc::Receiver<String>) {
    let chain = vec![CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).expect("PEM")];
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).expect("PEM");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let config = Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).expect("a pair"));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port().to_string();
    let (seen, requests) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // A refused handshake is the client's to explain.
            if let Some(request) = answer(&config, stream) {
                seen.send(request).ok();
            }
        }
    });
    (port, requests)
}

fn answer(config: &Arc<ServerConfig>, stream: TcpStream) -> Option<String> {
    let connection = ServerConnection::new(Arc::clone(config)).ok()?;
    let mut stream = StreamOwned::new(connection, stream);
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        request.extend(byte);
    }
    let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", STATS.len());
    stream.write_all(&[head.as_bytes(), STATS.as_bytes()].concat()).ok()?;
    stream.conn.send_close_notify();
    stream.flush().ok()?;
    String::from_utf8(request).ok()
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).to_str().expect("UTF-8").to_owned()
}

#[test]
fn the_variables_name_ca_and_token_and_beside_a_node_its_directory_is_enough() {
    let (folder, ca) = (tempfile::tempdir().expect("a folder"), TestCa::new("ca"));
    let leaf = ca.node("kv1");
    leaf.write(folder.path());
    let (port, requests) = serve(&leaf);
    let (bundle, token) = (path(folder.path(), "ca.pem"), path(folder.path(), "token"));
    fs::write(&token, format!("{SECRET}\n")).expect("written");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).expect("changed");
    let (dir, url) = (folder.path().to_str().expect("UTF-8"), format!("https://localhost:{port}"));
    let bearer = format!("authorization: bearer {SECRET}\r\n");
    for (variables, has_token) in [
        (&[("HUSKV_ENDPOINTS", url.as_str()), ("HUSKV_CA", &bundle), ("HUSKV_TOKEN_FILE", &token)][..], true),
        (&[("HUSKV_ENDPOINTS", &url), ("HUSKV_TLS_DIR", dir), ("HUSKV_TOKEN", SECRET)], true),
        (&[("SERVER_PORT", &port), ("HUSKV_TLS_DIR", dir)], false),
    ] {
        let output = huskv(variables, &["status"]);
        assert_eq!(output.status.code(), Some(0), "{variables:?}: {output:?}");
        assert!(text(&output.stdout).contains("kv1 leads, term 3"), "{output:?}");
        // Each on a connection of its own, so in any order.
        let mut sent: Vec<_> = (0..2).map(|_| requests.recv().expect("a request").to_lowercase()).collect();
        sent.sort();
        for (request, start) in sent.iter().zip(["get /raft/stats ", "get /readyz?verbose "]) {
            assert!(request.starts_with(start) && request.contains(&bearer) == has_token, "{request}");
        }
    }
    // Another CA, in both kinds of subcommands: at once, and in words.
    fs::write(&bundle, TestCa::new("other").certificate()).expect("written");
    let variables = [("HUSKV_ENDPOINTS", url.as_str()), ("HUSKV_CA", &bundle), ("HUSKV_TOKEN_FILE", &token)];
    let words = format!("unknown issuer CN=ca: it is not among the trusted authorities in {bundle}");
    let status = huskv(&variables, &["status"]);
    assert!(status.status.code() == Some(1) && text(&status.stdout).contains(&words), "{status:?}");
    let put = huskv(&variables, &["put", "k", "v", "--timeout", "1h"]);
    assert!(put.status.code() == Some(1) && text(&put.stderr).contains(&words), "{put:?}");
}

#[test]
fn wrong_variables_are_one_line_and_exit_code_2() {
    let folder = tempfile::tempdir().expect("a folder");
    TestCa::new("ca").node("kv1").write(folder.path());
    let (bundle, cert) = (path(folder.path(), "ca.pem"), path(folder.path(), "node.pem"));
    let remote = ("HUSKV_ENDPOINTS", "kv1:1");
    let secure = [("HUSKV_ENDPOINTS", "https://kv1:1"), ("HUSKV_CA", bundle.as_str())];
    for (variables, words) in [
        (vec![secure[0]], "give its file in HUSKV_CA"),
        (vec![("HUSKV_ENDPOINTS", "https://a:1,b:2")], "give all or none of them with it"),
        (vec![secure[0], ("HUSKV_CA", "/nowhere/ca.pem")], "/nowhere/ca.pem: No such file"),
        ([&secure[..], &[("HUSKV_CERT", &cert)]].concat(), "HUSKV_CERT is set and HUSKV_KEY is not"),
        (vec![remote, ("HUSKV_TOKEN", SECRET)], "HUSKV_TOKEN goes only over TLS or to this machine"),
        (vec![remote, ("HUSKV_TOKEN", SECRET), ("HUSKV_TOKEN_FILE", "t")], "HUSKV_TOKEN_FILE are both set"),
        ([&secure[..], &[("HUSKV_TOKEN_FILE", "/nowhere/t")]].concat(), "HUSKV_TOKEN_FILE: /nowhere/t: No such file"),
        ([&secure[..], &[("HUSKV_TOKEN", "hkv_secret two")]].concat(), "HUSKV_TOKEN: it holds no token"),
    ] {
        for arguments in [&["status"][..], &["get", "k"]] {
            let output = huskv(&variables, arguments);
            let complaint = text(&output.stderr);
            assert_eq!((output.status.code(), complaint.lines().count()), (Some(2), 1), "{variables:?}: {complaint}");
            assert!(complaint.contains(words), "{variables:?}: {complaint}");
        }
    }
}
