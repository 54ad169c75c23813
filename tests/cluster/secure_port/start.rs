//! Certificates and keys with which a node does not start.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{logged, start, with_tls};
use crate::harness::{Setup, secs};
use crate::test_ca::{LeafParams, TestCa};

crate::harness::cases![
    a_wrong_pair_refuses_the_start_and_names_the_file,
    half_a_pair_is_a_wrong_setting,
    client_certificates_on_a_plain_port_are_a_wrong_setting,
    what_keeps_certificates_from_being_used_is_warned_of,
    a_clock_difference_of_some_minutes_is_allowed,
];

/// Starts a node with `folder`, and panics unless it exits with 1 and a last line with all of `words`, having created nothing.
#[track_caller]
fn refused(folder: &Path, words: &[&str]) {
    let mut node = with_tls(folder).spawn();
    let status = node.await_exit(secs(10));
    let log = node.log();
    assert_eq!(status.code(), Some(1), "{words:?}: {log}");
    let last = log.lines().last().unwrap_or("");
    assert!(last.contains("huskv cannot start: "), "{log}");
    for word in words {
        assert!(last.contains(word), "{word}: {log}");
    }
    assert!(!node.directory().exists(), "{words:?}: nothing may be created");
}

fn a_wrong_pair_refuses_the_start_and_names_the_file() {
    let (folder, ca) = (tempfile::tempdir().unwrap(), TestCa::new("huskv-ca"));
    let path = |name: &str| folder.path().join(name);
    let write = |name: &str, text: &str| fs::write(path(name), text).unwrap();
    refused(folder.path(), &["node.pem", "No such file"]);
    ca.leaf("kv1", |leaf| leaf.days((-9, -1))).write(folder.path());
    refused(folder.path(), &["node.pem", "expired on 20", "issue a new one"]);
    ca.leaf("kv1", |leaf| leaf.days((1, 9))).write(folder.path());
    refused(folder.path(), &["node.pem", "not valid before 20", "clock"]);
    ca.node("kv1").write(folder.path());
    write("node-key.pem", &ca.node("kv2").key);
    refused(folder.path(), &["node-key.pem", "does not belong to the certificate", "node.pem"]);
    ca.node("kv1").write(folder.path());
    fs::set_permissions(path("node-key.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    refused(folder.path(), &["node-key.pem", "other users may read this key (mode 0644)", "chmod 600"]);
    fs::set_permissions(path("node-key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
    for (name, mode, reason) in [
        ("node-key.pem", 0o620, "the group may write this key (mode 0620); chmod 600 it"),
        ("node.pem", 0o666, "other users may write this file (mode 0666), and so decide who is trusted; chmod o-w it"),
    ] {
        let own = fs::metadata(path(name)).unwrap().permissions();
        fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
        refused(folder.path(), &[name, reason]);
        fs::set_permissions(path(name), own).unwrap();
    }
    ca.leaf("kv1", |leaf| leaf.for_clients_only()).write(folder.path());
    refused(folder.path(), &["node.pem", "not for servers (extended key usage)", "serverAuth"]);
    ca.node("kv1").write(folder.path());
    write("node-key.pem", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n");
    refused(folder.path(), &["node-key.pem", "the key is encrypted", "openssl pkey"]);
    for garbage in ["", "garbage", "-----BEGIN PRIVATE KEY-----\n!!\n-----END PRIVATE KEY-----\n"] {
        write("node-key.pem", garbage);
        refused(folder.path(), &["node-key.pem", "no private key"]);
    }
    ca.node("kv1").write(folder.path());
    write("node.pem", "garbage");
    refused(folder.path(), &["node.pem", "no certificate in PEM form"]);
    write("node.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n");
    refused(folder.path(), &["node.pem", "no X.509 certificate"]);
    fs::remove_file(path("node.pem")).unwrap();
    fs::create_dir(path("node.pem")).unwrap();
    refused(folder.path(), &["node.pem", "no regular file"]);
}

fn half_a_pair_is_a_wrong_setting() {
    for (variable, other) in [("HUSKV_TLS_HTTP_CERT", "tls.http_key"), ("HUSKV_TLS_HTTP_KEY", "tls.http_cert")] {
        let mut node = Setup::named("node1").set(variable, "/file.pem").spawn();
        let status = node.await_exit(secs(10));
        let log = node.log();
        assert_eq!(status.code(), Some(2), "{log}");
        assert!(log.lines().count() == 1 && log.contains(variable) && log.contains(other), "{log}");
    }
}

fn client_certificates_on_a_plain_port_are_a_wrong_setting() {
    let mut node =
        with_tls(Path::new("/tls")).set("HUSKV_TLS_HTTP", "off").set("HUSKV_TLS_HTTP_CLIENT_AUTH", "required").spawn();
    let status = node.await_exit(secs(10));
    let log = node.log();
    assert_eq!((status.code(), log.lines().count()), (Some(2), 1), "{log}");
    for word in ["HUSKV_TLS_HTTP", "tls.http", "tls.http_client_auth", "no plain connection has a client certificate"] {
        assert!(log.contains(word), "{word}: {log}");
    }
}

fn what_keeps_certificates_from_being_used_is_warned_of() {
    let (folder, ca) = (tempfile::tempdir().unwrap(), TestCa::new("huskv-ca"));
    ca.leaf("kv1", LeafParams::nameless).write(folder.path());
    let setup = with_tls(folder.path()).set("HUSKV_TLS_HTTP", "accept").set("HUSKV_TLS_HTTP_CLIENT_AUTH", "optional");
    let node = setup.start();
    logged(&node, &["WARN", "tls.http is accept: plain connections are served without a client certificate"]);
    logged(&node, &["WARN", "the certificate of the HTTP port has no names", "CN=kv1"]);

    ca.node("kv1").write(folder.path());
    let tokens = folder.path().join("tokens.toml");
    let token = |name: &str| format!("[[token]]\nname = \"{name}\"\ncert = \"CN={name}\"\nadmin = true\n");
    fs::write(&tokens, token("one")).unwrap();
    let node = start(with_tls(folder.path()).set("HUSKV_AUTH_TOKENS", tokens.display()), &ca, None);
    logged(&node, &["WARN", "no client can use the tokens with `cert`", "tls.http_client_auth", "tokens_with_cert: 1"]);
    fs::write(&tokens, token("one") + &token("two")).unwrap();
    node.sighup();
    logged(&node, &["WARN", "no client can use the tokens with `cert`", "tokens_with_cert: 2"]);
    let log = node.log();
    assert!(!log.contains("has no names") && !log.contains("tls.http is accept"), "{log}");
}

fn a_clock_difference_of_some_minutes_is_allowed() {
    let (folder, ca) = (tempfile::tempdir().unwrap(), TestCa::new("huskv-ca"));
    ca.leaf("kv1", |leaf| leaf.seconds((240, 86_400))).write(folder.path());
    // Its clients would refuse the certificate for four minutes more, so the port is asked in plain HTTP.
    let node = with_tls(folder.path()).set("HUSKV_TLS_HTTP", "accept").start();
    assert_eq!(node.stats()["tls_http"], "accept");
}
