//! A client generated from the OpenAPI document, against a live node.
//!
//! Why: a valid document can still be one that no generator accepts.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::harness::{Need, Setup, tool};

crate::harness::cases![a_client_generated_from_the_openapi_document_works.needs(Need::OpenapiClient)];

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}

fn a_client_generated_from_the_openapi_document_works() {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (contract, script) =
        (tree.join("src/http/api/openapi.json"), tree.join("tests/cluster/api/generated_client.py"));
    let generator = tool("openapi-python-client").expect("the test is ignored where it is missing");
    let bin = generator.parent().expect("a folder");
    let home = tempfile::Builder::new().prefix("huskv-client-").tempdir().expect("a folder for the client");
    let client = home.path().join("client");

    // Where it finds no formatter it says so, which is no word on the document.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([bin.to_owned()].into_iter().chain(std::env::split_paths(&path)));
    let generated = Command::new(&generator)
        .args(["generate", "--path"])
        .arg(&contract)
        .arg("--output-path")
        .arg(&client)
        .env("PATH", path.expect("folders without a colon"))
        .stdin(Stdio::null())
        .output()
        .expect("the generator");
    let told = said(&generated);
    assert!(generated.status.success() && !told.to_lowercase().contains("warning"), "{told}");

    let node = Setup::named("node1").start();
    let used = Command::new(bin.join("python"))
        .args([script.as_path(), Path::new(&node.http), &contract])
        .env("PYTHONPATH", &client)
        .stdin(Stdio::null())
        .output()
        .expect("python beside the generator");
    let told = said(&used);
    assert!(used.status.success() && told.contains("generated_client.py: passed"), "{told}");
}
