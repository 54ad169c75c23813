//! Container image and deployment files: `scripts/docker.sh test` with the binary under test, if there is a Docker
//! engine, and the Kubernetes manifests.
//!
//! Why: the Dockerfile, `docker-compose.yml` and `config/k8s` are promises too: no root, any uid, healthy, one cluster
//! without curl, data that survives `down` and a removed volume, and a leader that may be stopped. The script prints each
//! step, so that it can be done by hand, too.
//!
//! Invariants: those of the black-box tests. Without an engine, or with one that cannot run a container, the test is counted
//! as ignored, with the reason.

// clippy knows tests by their attribute, and tests with a main of their own have none.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode, Output, Stdio};

use serde_json::{Value, json};

// Only a part of it is of use here.
#[allow(dead_code, unused_imports)]
#[path = "cluster/harness/mod.rs"]
mod harness;

use harness::{Need, Setup, binary, tool};

harness::cases![
    a_cluster_of_containers_survives_stops_and_removed_volumes.needs(Need::Docker),
    the_manifests_are_valid_for_kubernetes_and_for_a_node.needs(Need::Kubernetes),
];

fn a_cluster_of_containers_survives_stops_and_removed_volumes() {
    let output = Command::new(Need::DOCKER_SCRIPT).arg("test").arg(binary()).stdin(Stdio::null()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.contains("docker.sh: the test of the containers passed"), "{said}");
    println!("{said}");
}

/// Runs a tool with this text on stdin, and returns its stdout; it must succeed.
#[track_caller]
fn piped(command: &mut Command, text: &[u8]) -> Vec<u8> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text).unwrap();
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let (out, errors) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {out}{errors}");
    stdout
}

fn the_manifests_are_valid_for_kubernetes_and_for_a_node() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/k8s");
    let (kubectl, validate) = (tool("kubectl").unwrap(), tool("kubernetes-validate").unwrap());
    let manifests = piped(Command::new(kubectl).arg("kustomize").arg(folder), b"");
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("manifests.yaml");
    std::fs::write(&file, &manifests).unwrap();
    piped(Command::new(&validate).arg("--strict").arg(&file), b"");

    // The checker is written in Python and has a reader of YAML beside it.
    let script = "import json, sys, yaml; json.dump(list(yaml.safe_load_all(sys.stdin)), sys.stdout)";
    let all = piped(Command::new(validate.with_file_name("python")).args(["-c", script]), &manifests);
    let all: Vec<Value> = serde_json::from_slice(&all).unwrap();
    let of_kind = |kind: &str| all.iter().filter(|one| one["kind"] == kind).collect::<Vec<_>>();
    let set = &of_kind("StatefulSet")[0]["spec"];
    let nodes = of_kind("Service").into_iter().find(|one| one["metadata"]["name"] == set["serviceName"]).unwrap();
    assert_eq!(nodes["spec"]["clusterIP"], "None");
    assert_eq!(nodes["spec"]["publishNotReadyAddresses"], true, "nodes become ready through each other");
    assert_eq!(set["podManagementPolicy"], "Parallel");
    let labels = &set["template"]["metadata"]["labels"];
    for selector in [&nodes["spec"]["selector"], &of_kind("PodDisruptionBudget")[0]["spec"]["selector"]["matchLabels"]]
    {
        assert_eq!(selector, labels);
    }
    let pod = &set["template"]["spec"];
    assert_eq!(pod["enableServiceLinks"], false);
    assert!(pod["securityContext"]["fsGroup"].is_u64() && pod["securityContext"]["runAsNonRoot"] == true, "{pod}");
    let container = &pod["containers"][0];
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(container["volumeMounts"][0]["mountPath"], "/data");

    // A node takes these variables as they are, and answers these probes.
    let replicas = set["replicas"].as_u64().unwrap();
    let names: Vec<String> = (0..replicas).map(|number| format!("huskv-{number}")).collect();
    let host = |name: &str| format!("{name}.{}", set["serviceName"].as_str().unwrap());
    let mut setup = Setup::named(&names[0]);
    for variable in container["env"].as_array().unwrap() {
        let name = variable["name"].as_str().unwrap();
        match variable["value"].as_str() {
            Some(value) => setup = setup.set(name, value.replace("$(RAFT_NODE_ID)", &names[0])),
            None => assert_eq!(
                (name, &variable["valueFrom"]["fieldRef"]["fieldPath"]),
                ("RAFT_NODE_ID", &json!("metadata.name"))
            ),
        }
    }
    let list: Vec<String> = names.iter().map(|name| format!("{}:2221", host(name))).collect();
    assert_eq!(setup.variables["HUSKV_JOIN"], list.join(","));
    assert_eq!(setup.variables["HUSKV_ADVERTISE_HOST"], host(&names[0]));
    let node = setup.start();
    for (probe, path, status) in [
        ("startupProbe", "/livez", 200),
        ("livenessProbe", "/livez", 200),
        ("readinessProbe", "/readyz?exclude=disk", 503),
    ] {
        assert_eq!(container[probe]["httpGet"], json!({"path": path, "port": "http"}));
        node.get(path).expect(status, probe);
    }
}

fn main() -> ExitCode {
    let arguments = libtest_mimic::Arguments::from_args();
    libtest_mimic::run(&arguments, cases().into_iter().map(harness::Case::trial).collect()).exit_code()
}
