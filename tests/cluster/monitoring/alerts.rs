//! Alerts and dashboard as files: what promtool says of them, two tests for each alert, panels that can be drawn.
//!
//! Why: an expression with a wrong name or a bad label is silent for ever, and is missed on the night that it was written for.
//!
//! See also: `prometheus.rs` beside this file, where a real Prometheus reads them; `tests/docs.rs` for the runbook.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::harness::{Need, tool};

crate::harness::cases![
    promtool_accepts_the_alerts_and_their_tests_pass.needs(Need::Promtool),
    each_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not,
    promtool_parses_each_expression_of_the_dashboard.needs(Need::Promtool),
    the_panels_of_the_dashboard_have_ids_and_places_of_their_own,
    each_variable_of_the_dashboard_is_defined_and_each_panel_has_the_chosen_data_source,
];

/// A file under `config/monitoring`.
fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/monitoring").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The alerts with their expressions, each on one line.
pub fn alerts() -> BTreeMap<String, String> {
    let rules = file("alerts.yml");
    let lines: Vec<&str> = rules.lines().map(str::trim).collect();
    let pairs = lines.windows(2).filter_map(|pair| {
        let (name, expression) = (pair[0].strip_prefix("- alert: ")?, pair[1].strip_prefix("expr: ")?);
        Some((name.to_owned(), expression.to_owned()))
    });
    let alerts: BTreeMap<String, String> = pairs.collect();
    assert_eq!(alerts.len(), rules.matches("- alert: ").count(), "an alert is read otherwise than it is written");
    alerts
}

fn dashboard() -> Value {
    serde_json::from_str(&file("dashboard.json")).expect("JSON")
}

fn list<'a>(value: &'a Value, what: &str) -> &'a [Value] {
    value.as_array().unwrap_or_else(|| panic!("no list of {what}"))
}

/// The expressions of the dashboard with the places where they stand, as Grafana sends them for all nodes of the job `huskv`.
pub fn dashboard_expressions(rate_interval: &str) -> Vec<(String, String)> {
    let dashboard = dashboard();
    let mut found = Vec::new();
    let mut add = |place: &Value, expression: &Value| {
        let expression = expression.as_str().expect("an expression");
        let real = expression.replace("$__rate_interval", rate_interval);
        let real = real.replace("$job", "huskv").replace("$instance", ".*");
        found.push((place.as_str().expect("a title").to_owned(), real));
    };
    for panel in list(&dashboard["panels"], "panels").iter().filter(|panel| panel["type"] != "row") {
        let targets = list(&panel["targets"], "targets");
        assert!(!targets.is_empty(), "{} shows nothing", panel["title"]);
        targets.iter().for_each(|target| add(&panel["title"], &target["expr"]));
    }
    for annotation in list(&dashboard["annotations"]["list"], "annotations") {
        add(&annotation["name"], &annotation["expr"]);
    }
    found
}

/// The names of series in an expression.
pub fn series(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !c.is_alphanumeric() && c != '_');
    words
        .filter(|word| *word == "up" || word.starts_with("huskv_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

/// Runs promtool in the root of the repository, as the documents show it; what it said, unless it failed.
fn promtool(arguments: &[&str]) -> String {
    let promtool = tool("promtool").expect("the test needs it");
    let output = Command::new(promtool).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let output = output.expect("promtool runs");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}");
    said
}

fn promtool_accepts_the_alerts_and_their_tests_pass() {
    let said = promtool(&["check", "rules", "config/monitoring/alerts.yml"]);
    assert!(said.contains(&format!("SUCCESS: {} rules", alerts().len())), "{said}");
    promtool(&["test", "rules", "config/monitoring/alerts.test.yml"]);
}

fn each_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() {
    let tests = file("alerts.test.yml");
    let lines: Vec<&str> = tests.lines().map(str::trim).collect();
    let (mut fire, mut silent) = (BTreeSet::new(), BTreeSet::new());
    for (at, line) in lines.iter().enumerate() {
        let Some((_, rest)) = line.split_once("alertname: ") else { continue };
        let name = rest.trim_end_matches('}').to_owned();
        // A check on one line expects nothing.
        if line.starts_with("- {") {
            silent.insert(name);
        } else if lines.get(at + 1).is_some_and(|next| *next == "exp_alerts:") {
            fire.insert(name);
        }
    }
    let all: BTreeSet<String> = alerts().into_keys().collect();
    assert_eq!(fire, all, "alerts that a test fires");
    assert_eq!(silent, all, "alerts that a test keeps silent");
}

fn promtool_parses_each_expression_of_the_dashboard() {
    let expressions = dashboard_expressions("5m");
    assert!(expressions.len() > 60, "{}", expressions.len());
    let rules: Vec<Value> = expressions
        .iter()
        .enumerate()
        .map(|(at, (_, expression))| serde_json::json!({"record": format!("panel:{at}"), "expr": expression}))
        .collect();
    // JSON is YAML, too.
    let rules = serde_json::json!({"groups": [{"name": "dashboard", "rules": rules}]});
    let folder = tempfile::Builder::new().prefix("huskv-rules-").tempdir().expect("a folder");
    let path = folder.path().join("dashboard.yml");
    fs::write(&path, rules.to_string()).expect("the rules are written");
    let said = promtool(&["check", "rules", &path.display().to_string()]);
    assert!(said.contains(&format!("SUCCESS: {} rules", expressions.len())), "{said}");
}

fn the_panels_of_the_dashboard_have_ids_and_places_of_their_own() {
    let dashboard = dashboard();
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeMap::new());
    for panel in list(&dashboard["panels"], "panels") {
        let title = panel["title"].as_str().expect("a title");
        assert!(panel["id"].is_u64() && ids.insert(panel["id"].to_string()), "{title}: id {}", panel["id"]);
        let grid = |side: &str| panel["gridPos"][side].as_u64().unwrap_or_else(|| panic!("{title}: no {side}"));
        let (x, y, width, height) = (grid("x"), grid("y"), grid("w"), grid("h"));
        assert!(width > 0 && height > 0 && x + width <= 24, "{title}: {}", panel["gridPos"]);
        for cell in (y..y + height).flat_map(|row| (x..x + width).map(move |column| (row, column))) {
            if let Some(other) = cells.insert(cell, title) {
                panic!("{title} lies on {other}");
            }
        }
        let targets = panel["targets"].as_array().into_iter().flatten();
        let letters: Vec<&Value> = targets.map(|target| &target["refId"]).collect();
        let different: BTreeSet<String> = letters.iter().map(ToString::to_string).collect();
        assert_eq!(letters.len(), different.len(), "{title}: {letters:?}");
    }
    assert!(ids.len() > 50, "{}", ids.len());
}

fn each_variable_of_the_dashboard_is_defined_and_each_panel_has_the_chosen_data_source() {
    let dashboard = dashboard();
    let defined: BTreeSet<&str> =
        list(&dashboard["templating"]["list"], "variables").iter().filter_map(|one| one["name"].as_str()).collect();
    assert_eq!(defined, BTreeSet::from(["datasource", "instance", "job"]));
    for part in file("dashboard.json").split('$').skip(1) {
        let name: String =
            part.trim_start_matches('{').chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        assert!(name.starts_with("__") || defined.contains(name.as_str()), "${name} is not defined");
    }
    for panel in list(&dashboard["panels"], "panels").iter().filter(|panel| panel["type"] != "row") {
        for place in [panel].into_iter().chain(list(&panel["targets"], "targets")) {
            assert_eq!(place["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
        }
    }
}
