//! A cluster whose HTTP ports speak HTTPS only: bootstrap by a join list, the `huskv` client, and certificates that stand for tokens.

use std::process::{Command, Output};

use super::{ask, start, with_tls};
use crate::harness::{Node, Request, Setup, binary, check, eventually, free_port, names, secs};
use crate::test_ca::TestCa;

crate::harness::cases![
    nodes_with_a_join_list_form_a_cluster_over_https_and_subcommands_use_it,
    a_subcommand_beside_a_node_finds_its_https_port_by_the_same_variables,
    a_client_certificate_stands_for_the_token_that_names_its_subject,
];

/// Runs a subcommand with these variables alone.
fn huskv(variables: &[(&str, String)], arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.env_clear().envs(variables.iter().map(|(name, value)| (name, value))).args(arguments);
    command.output().unwrap()
}

#[track_caller]
fn succeeds(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn nodes_with_a_join_list_form_a_cluster_over_https_and_subcommands_use_it() {
    let (folder, ca) = (tempfile::tempdir().unwrap(), TestCa::new("huskv-ca"));
    let ports = [free_port(), free_port(), free_port()];
    let list = ports.map(|port| format!("127.0.0.1:{port}"));
    let mut nodes: Vec<Node> = (0..3)
        .map(|place| {
            let name = format!("node{}", place + 1);
            let certificates = folder.path().join(&name);
            std::fs::create_dir(&certificates).unwrap();
            ca.node(&name).write(&certificates);
            let setup = Setup::named(&name).set("SERVER_PORT", ports[place]).set("HUSKV_JOIN", list.join(","));
            let setup = setup.set("HUSKV_TLS_DIR", certificates.display());
            let mut node = setup.set("HUSKV_TLS_HTTP_CLIENT_AUTH", "required").spawn();
            node.http.clone_from(&list[place]);
            node
        })
        .collect();
    let client = ca.client("operator");
    for node in &mut nodes {
        eventually(secs(60), "the node is in a cluster of three", || {
            if let Some(status) = node.exited() {
                panic!("it exited with {status}: {}", node.log());
            }
            // It is written once the port is bound.
            std::fs::metadata(node.directory().join("addresses.json")).map_err(|error| error.to_string())?;
            let answer =
                ask(node, &ca, Some(&client), Request::new("GET", "/raft/stats")).map_err(|e| e.to_string())?;
            check(answer.status == 200 && names(&answer.data(), "voter").len() == 3, answer)
        });
    }
    client.write(folder.path());
    let path = |name: &str| folder.path().join(name).display().to_string();
    let endpoints = list.each_ref().map(|address| format!("https://{address}")).join(",");
    let variables = [
        ("HUSKV_ENDPOINTS", endpoints),
        ("HUSKV_CA", path("ca.pem")),
        ("HUSKV_CERT", path("node.pem")),
        ("HUSKV_KEY", path("node-key.pem")),
    ];
    succeeds(&huskv(&variables, &["put", "key", "42"]));
    assert_eq!(succeeds(&huskv(&variables, &["get", "key"])).trim(), "42");
    let status = succeeds(&huskv(&variables, &["status"]));
    assert!(status.contains("node1") && status.contains("node3"), "{status}");
    let without = huskv(&variables[..2], &["get", "key"]);
    assert!(
        !without.status.success() && String::from_utf8_lossy(&without.stderr).contains("HUSKV_CERT"),
        "{without:?}"
    );
}

fn a_subcommand_beside_a_node_finds_its_https_port_by_the_same_variables() {
    let (folder, ca) = (tempfile::tempdir().unwrap(), TestCa::new("huskv-ca"));
    ca.node("kv1").write(folder.path());
    let port = free_port().to_string();
    let node = start(with_tls(folder.path()).set("SERVER_PORT", &port), &ca, None);
    let variables = [("SERVER_PORT", port), ("HUSKV_TLS_DIR", folder.path().display().to_string())];
    let status = succeeds(&huskv(&variables, &["status"]));
    assert!(status.contains(node.name()), "{status}");
}

fn a_client_certificate_stands_for_the_token_that_names_its_subject() {
    let (folder, ca) = (tempfile::tempdir().unwrap(), TestCa::new("huskv-ca"));
    ca.node("kv1").write(folder.path());
    let tokens = folder.path().join("tokens.toml");
    let grant = r#"allow = [{prefix = "billing/", do = ["read", "write"]}]"#;
    let gone = r#"expires = "2020-01-01T00:00:00Z""#;
    let table = |name: &str, rest: &str| format!("[[token]]\nname = \"{name}\"\ncert = \"CN={name}\"\n{rest}\n");
    std::fs::write(&tokens, table("billing", grant) + &table("late", &format!("{grant}\n{gone}"))).unwrap();
    let setup = with_tls(folder.path()).set("HUSKV_TLS_HTTP_CLIENT_AUTH", "optional");
    let node = start(setup.set("HUSKV_AUTH_TOKENS", tokens.display()), &ca, None);
    let put = |own: Option<&str>, key: &str| {
        let own = own.map(|name| ca.client(name));
        ask(&node, &ca, own.as_ref(), Request::new("PUT", format!("/store/{key}")).body("1")).unwrap()
    };
    put(Some("billing"), "billing/a").expect(200, "a granted key");
    put(Some("billing"), "shipping/a").problem(403, "another key").code("forbidden", "another key");
    put(Some("other"), "billing/a").problem(401, "a subject without a token").code("unauthorized", "no token");
    put(None, "billing/a").problem(401, "no certificate").code("unauthorized", "no certificate");
    let late = put(Some("late"), "billing/a").problem(401, "a token that has ended");
    assert!(late.word("detail").contains("has expired"), "{late}");
}
