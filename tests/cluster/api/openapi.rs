//! OpenAPI document of a live node, compared with its behaviour.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::harness::{Node, Request, Setup};

crate::harness::cases![
    the_document_is_the_one_of_the_tree,
    methods_and_parameters_are_the_documented_ones,
    members_of_bodies_are_the_documented_ones,
];

const DOCUMENT: &str = include_str!("../../../src/http/api/openapi.json");
const METHODS: [&str; 5] = ["get", "head", "post", "put", "delete"];

fn document() -> Value {
    serde_json::from_str(DOCUMENT).expect("JSON")
}

fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).expect(reference),
        None => value,
    }
}

/// Each path with its methods.
fn paths(document: &Value) -> impl Iterator<Item = (&String, &Map<String, Value>)> {
    document["paths"].as_object().into_iter().flatten().filter_map(|(path, item)| Some((path, item.as_object()?)))
}

/// The names in backticks behind "knows".
fn known(detail: &str) -> BTreeSet<String> {
    let list = detail.split("this route knows ").nth(1).unwrap_or("");
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn ask(node: &Node, method: &str, path: &str) -> crate::harness::Answer {
    let request = Request::new(&method.to_uppercase(), path.replace("{key}", "some-key"));
    node.request(if method == "get" { request } else { request.body("{}") })
}

fn the_document_is_the_one_of_the_tree() {
    let node = Setup::named("node1").start();
    let answer = node.get("/openapi.json").expect(200, "the document");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.text().trim_end(), DOCUMENT.trim_end());
}

fn methods_and_parameters_are_the_documented_ones() {
    let node = Setup::named("node1").start();
    let document = document();
    for (path, item) in paths(&document) {
        let refused = ask(&node, "patch", path).problem(405, path);
        let allowed: BTreeSet<String> =
            refused.header("allow").unwrap_or("").split(", ").map(str::to_lowercase).collect();
        let documented: BTreeSet<String> =
            METHODS.into_iter().filter(|method| item.contains_key(*method)).map(str::to_owned).collect();
        let head = |methods: &BTreeSet<String>| -> BTreeSet<String> {
            methods.iter().filter(|method| !["head", "options"].contains(&method.as_str())).cloned().collect()
        };
        assert_eq!(head(&allowed), head(&documented), "methods of {path}");
        for method in documented.iter().filter(|method| *method != "head") {
            let operation = &item[method];
            let names: BTreeSet<String> = operation["parameters"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|parameter| resolved(&document, parameter))
                .filter(|parameter| parameter["in"] == "query")
                .filter_map(|parameter| Some(parameter["name"].as_str()?.to_owned()))
                .collect();
            let refused = ask(&node, method, &format!("{path}?zz=1")).problem(400, path);
            assert_eq!(known(&refused.word("detail")), names, "parameters of {method} {path}: {refused}");
        }
    }
}

fn members_of_bodies_are_the_documented_ones() {
    let node = Setup::named("node1").start();
    let document = document();
    for (path, item) in paths(&document) {
        for method in METHODS.into_iter().filter(|method| item.contains_key(*method)) {
            let schema = resolved(&document, &item[method]["requestBody"]["content"]["application/json"]["schema"]);
            let Some(properties) = schema["properties"].as_object() else { continue };
            let names: BTreeSet<String> = properties.keys().cloned().collect();
            let request = Request::new(&method.to_uppercase(), path.replace("{key}", "some-key"));
            let refused = node.request(request.body(r#"{"zz": 1}"#)).problem(400, path);
            assert_eq!(known(&refused.word("detail")), names, "members of {method} {path}: {refused}");
        }
    }
}
