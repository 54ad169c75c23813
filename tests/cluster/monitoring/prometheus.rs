//! A real Prometheus that scrapes a cluster, with the alerts loaded.
//!
//! Why: what a linter accepts may still be refused, or be called something else, by what reads it every day.
//!
//! Invariants: it runs for a whole minute, so that an alert which is pending for a minute would fire; most of that is waiting, so other
//! tests run beside it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::alerts::{alerts, dashboard_expressions, series};
use crate::harness::{
    Cluster, Need, Request, START, Seen, check, eventually, free_port, millis, secs, throughout, tool,
};

crate::harness::cases![prometheus_scrapes_a_cluster_finds_every_series_and_no_alert_fires.needs(Need::Prometheus)];

/// A Prometheus that scrapes once a second; its process ends with it.
struct Prometheus {
    child: Child,
    address: String,
    home: TempDir,
}

impl Prometheus {
    /// Starts one that scrapes these addresses as the job `huskv`, and waits until it is ready.
    fn start(targets: &[String]) -> Self {
        let home = tempfile::Builder::new().prefix("huskv-prometheus-").tempdir().expect("a folder");
        let settings = json!({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [concat!(env!("CARGO_MANIFEST_DIR"), "/config/monitoring/alerts.yml")],
            "scrape_configs": [{"job_name": "huskv", "static_configs": [{"targets": targets}]}],
        });
        // JSON is YAML, too.
        fs::write(home.path().join("prometheus.yml"), settings.to_string()).expect("the settings are written");
        let address = format!("127.0.0.1:{}", free_port());
        let log = File::create(home.path().join("log")).expect("a file for the log");
        let child = Command::new(tool("prometheus").expect("the test needs it"))
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg(format!("--web.listen-address={address}"))
            .current_dir(home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("prometheus starts");
        let prometheus = Self { child, address, home };
        eventually(START, "prometheus is ready", || {
            let ready = Request::new("GET", "/-/ready").send(&prometheus.address).map_err(|error| error.to_string())?;
            check(ready.status == 200, ready)
        });
        prometheus
    }

    /// The `data` of what it answers.
    fn ask(&self, request: Request) -> Seen<Value> {
        let answer = request.within(secs(20)).send(&self.address).map_err(|error| error.to_string())?;
        check(answer.status == 200 && answer.json()["status"] == "success", &answer)?;
        Ok(answer.data())
    }

    fn get(&self, path: &str) -> Seen<Value> {
        self.ask(Request::new("GET", path))
    }

    /// The result of an expression.
    fn query(&self, expression: &str) -> Seen<Vec<Value>> {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let request = Request::new("POST", "/api/v1/query")
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(format!("query={encoded}"));
        let data = self.ask(request).map_err(|error| format!("{expression}: {error}"))?;
        data["result"].as_array().cloned().ok_or(format!("{expression}: {data}"))
    }

    /// `Ok` where the last scrape of three nodes succeeded.
    fn sees_three(&self) -> Seen<()> {
        let up = self.query("sum(up)")?;
        check(up.first().is_some_and(|sample| sample["value"][1] == "3"), format!("{up:?}"))
    }

    /// `Ok` where no alert fires.
    fn is_silent(&self) -> Seen<()> {
        let data = self.get("/api/v1/alerts")?;
        let alerts = data["alerts"].as_array().ok_or(data.to_string())?;
        let firing: Vec<&Value> = alerts.iter().filter(|alert| alert["state"] == "firing").collect();
        check(firing.is_empty(), format!("{firing:?}"))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.home.path().join("log")).unwrap_or_default();
            eprintln!("--- the log of prometheus:\n{log}");
        }
    }
}

/// Asserts that it has loaded the alerts and evaluates all of them.
fn evaluates_the_alerts(prometheus: &Prometheus) {
    let data = eventually(secs(20), "every rule was evaluated", || {
        let data = prometheus.get("/api/v1/rules")?;
        let rules: Vec<Value> = data["groups"][0]["rules"].as_array().cloned().unwrap_or_default();
        check(!rules.is_empty() && rules.iter().all(|rule| rule["health"] == "ok"), &data).map(|()| rules)
    });
    let loaded: BTreeSet<String> = data.iter().filter_map(|rule| rule["name"].as_str()).map(str::to_owned).collect();
    assert_eq!(loaded, alerts().into_keys().collect());
}

fn prometheus_scrapes_a_cluster_finds_every_series_and_no_alert_fires() {
    let cluster = Cluster::of(3);
    let prometheus = Prometheus::start(&cluster.addresses());
    eventually(secs(20), "three nodes are scraped", || prometheus.sees_three());
    evaluates_the_alerts(&prometheus);

    let (mut looks, mut missed) = (0_usize, 0_usize);
    throughout(secs(60), "no alert fires", || {
        cluster.nodes[looks % cluster.nodes.len()].put(&format!("key-{}", looks % 50), looks);
        looks += 1;
        // A scrape may take its second on a busy machine.
        missed += usize::from(prometheus.sees_three().is_err());
        sleep(millis(300));
        prometheus.is_silent()
    });
    assert!(missed < looks / 4, "{missed} of {looks}");
    eventually(secs(20), "three nodes are scraped", || prometheus.sees_three());

    let names = prometheus.get("/api/v1/label/__name__/values").expect("the names of all series");
    let names: BTreeSet<&str> = names.as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    let expressions = dashboard_expressions("30s");
    for (place, expression) in alerts().into_iter().chain(expressions.clone()) {
        let used = series(&expression);
        assert!(!used.is_empty(), "{place}: {expression}");
        let unknown: Vec<&String> = used.iter().filter(|name| !names.contains(name.as_str())).collect();
        assert!(unknown.is_empty(), "{place}: {unknown:?} is in no scrape");
    }
    // An annotation is there only when something has happened.
    for (place, expression) in expressions.iter().filter(|(_, expression)| !expression.starts_with("changes(")) {
        let shown = prometheus.query(expression).unwrap_or_else(|error| panic!("{place}: {error}"));
        assert!(!shown.is_empty(), "{place} shows nothing: {expression}");
    }
}
