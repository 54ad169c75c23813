//! Child processes of the demo: nodes run by this binary.
//!
//! Why: the demo starts its nodes as an operator would, through `SERVER_PORT`, `RAFT_NODE_ID`, `RAFT_PORT` and
//! `RAFT_VOL_DIR`, and must leave no process behind, however it ends.
//!
//! Invariants: each child's stdin is a pipe from the demo, and the child stops when the pipe closes, also if the demo is
//! killed (a paused one too: the death of its parent continues it). Children have process groups of their own, so that Ctrl-C reaches only the demo, which then stops them. Ports
//! and directories are checked before any child is started.
//!
//! See also: `demo` for the output and the joins, `faults` for what the page may do to a node.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use thiserror::Error;
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout_at};

use super::credentials::Credentials;
use super::faults::Fault;
use crate::cli::serve::STOP_WITH_STDIN;
use crate::config::{CONFIG_VARIABLE, keys};

/// The timeout for children to stop; a node stops within 5 s.
const STOP_TIMEOUT: Duration = Duration::from_secs(6);

/// Settings that the demo sets for each node, whatever its environment has, and all of [`TLS_SECTION`]. Others, such as
/// `HUSKV_LOG`, are inherited.
const OWN_SETTINGS: &[&str] = &[
    "host",
    "advertise_host",
    "join",
    "server.port",
    "server.advertise_port",
    "raft.node_id",
    "raft.host",
    "raft.port",
    "raft.advertise_port",
    "raft.vol_dir",
    "network.insecure",
    "audit.file",
    "ui.enabled",
    TOKENS,
];

/// The section of the certificates. One that is inherited would be the same for every node.
const TLS_SECTION: &str = "tls.";

/// The setting of a node's certificates.
const TLS_DIR: &str = "tls.dir";

/// The setting of the token file.
const TOKENS: &str = "auth.tokens";

/// The file that marks a data directory.
const IDENTITY: &str = "identity";

/// The file that a running node holds locked.
const LOCK: &str = "LOCK";

/// Why the nodes cannot be started.
#[derive(Debug, Error)]
pub(crate) enum ProcessError {
    /// A port is in use.
    #[error("port {port} (for {what}) is in use; stop what uses it and try again. Nothing was started")]
    PortInUse {
        /// The port.
        port: u16,
        /// HTTP or raft, and the node that needs it; or the page.
        what: String,
    },
    /// A port is wanted twice.
    #[error(
        "port {port} is for {first} and for {second}; choose others with --http-from, --raft-from or --page-port. Nothing was started"
    )]
    PortTwice {
        /// The port.
        port: u16,
        /// What it is for.
        first: String,
        /// What else.
        second: String,
    },
    /// A data directory that is to be removed belongs to a running node.
    #[error("{} is in use by a running node; stop it first. Nothing was removed", .0.display())]
    DirectoryInUse(PathBuf),
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// The operation.
        what: String,
        /// The error of the system.
        source: io::Error,
    },
}

fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> ProcessError {
    let what = what.into();
    move |source| ProcessError::System { what, source }
}

/// The ports and paths of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Its name.
    pub name: String,
    /// Its HTTP port.
    pub http_port: u16,
    /// Its peer port.
    pub raft_port: u16,
    /// Its directory.
    pub directory: PathBuf,
    /// The file of its log.
    pub log: PathBuf,
}

impl Plan {
    /// Its HTTP address.
    pub(crate) fn http(&self) -> String {
        format!("127.0.0.1:{}", self.http_port)
    }

    /// Its raft address.
    pub(crate) fn raft(&self) -> String {
        format!("127.0.0.1:{}", self.raft_port)
    }
}

/// Plans `count` nodes under `directory`, with HTTP and raft ports from these two upwards.
pub(crate) fn plan(count: u16, [http, raft]: [u16; 2], directory: &Path) -> Vec<Plan> {
    let node = |number: u16| {
        let name = format!("node{}", number + 1);
        Plan {
            http_port: http.saturating_add(number),
            raft_port: raft.saturating_add(number),
            directory: directory.join(&name),
            log: directory.join(format!("{name}.log")),
            name,
        }
    };
    (0..count).map(node).collect()
}

/// Checks that every port is wanted once and is free; returns the listener of the page, if it has a port.
pub(crate) fn check_ports(plan: &[Plan], page: Option<u16>) -> Result<Option<TcpListener>, ProcessError> {
    let of_nodes = plan.iter().flat_map(|node| {
        [(node.http_port, format!("HTTP of {}", node.name)), (node.raft_port, format!("raft of {}", node.name))]
    });
    let wanted: Vec<(u16, String)> =
        page.map(|port| (port, "the page".to_owned())).into_iter().chain(of_nodes).collect();
    for (index, (port, second)) in wanted.iter().enumerate() {
        if let Some((_, first)) = wanted[..index].iter().find(|(earlier, _)| earlier == port) {
            return Err(ProcessError::PortTwice { port: *port, first: first.clone(), second: second.clone() });
        }
    }
    // The nodes' listeners are dropped again, since the nodes bind their ports themselves; that of the page is kept.
    let mut kept = None;
    for (port, what) in &wanted {
        let listener = listener(*port, what)?;
        if Some(*port) == page {
            kept = Some(listener);
        }
    }
    Ok(kept)
}

/// Takes a port of the loopback address, which is for `what`.
fn listener(port: u16, what: &str) -> Result<TcpListener, ProcessError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ProcessError::PortInUse { port, what: what.to_owned() },
        _ => system(format!("cannot use port {port}"))(source),
    })
}

/// Removes the data directories `nodeN` under `directory`, if none of them is in use; returns their paths.
pub(crate) fn clear(directory: &Path) -> Result<Vec<PathBuf>, ProcessError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(system(format!("cannot list {}", directory.display()))(source)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(system(format!("cannot list {}", directory.display())))?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("node")).unwrap_or("");
        // `node1` and `node12` match; `nodes` and `node1x` are an operator's own directories.
        let is_node = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        if is_node && entry.path().join(IDENTITY).is_file() {
            found.push(entry.path());
        }
    }
    found.sort();
    if let Some(used) = found.iter().find(|path| is_locked(path)) {
        return Err(ProcessError::DirectoryInUse(used.clone()));
    }
    for path in &found {
        fs::remove_dir_all(path).map_err(system(format!("cannot remove {}", path.display())))?;
    }
    Ok(found)
}

fn is_locked(directory: &Path) -> bool {
    // A running node holds this lock; the system releases it when the process dies.
    File::open(directory.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_err())
}

/// One node.
pub(crate) struct Node {
    /// Its ports and paths.
    pub plan: Plan,
    /// Its process; the last one where that has ended.
    pub(super) child: Child,
    /// The fault that the page has caused, while it lasts.
    pub(super) fault: Option<Fault>,
    /// Its exit status, once it has exited and was polled.
    pub exited: Option<String>,
}

/// All nodes of the demo. Dropped, they are killed.
pub(crate) struct Processes {
    /// In the order of their numbers.
    pub nodes: Vec<Node>,
}

impl Processes {
    /// Starts every node of the plan, with its certificate and the tokens where there are `credentials`. If one cannot be
    /// started, the others are killed.
    pub(crate) fn start(plan: Vec<Plan>, credentials: Option<&Credentials>) -> Result<Self, ProcessError> {
        let program = program()?;
        let mut processes = Self { nodes: Vec::new() };
        for plan in plan {
            if let Some(parent) = plan.log.parent() {
                fs::create_dir_all(parent).map_err(system(format!("cannot make {}", parent.display())))?;
            }
            let log = File::create(&plan.log);
            let child = spawn(&program, &plan, credentials, log)?;
            processes.nodes.push(Node { plan, child, fault: None, exited: None });
        }
        Ok(processes)
    }

    /// The nodes that have exited since the last call.
    pub(crate) fn newly_exited(&mut self) -> Vec<&Node> {
        let mut exited = Vec::new();
        for node in &mut self.nodes {
            if node.exited.is_none()
                && let Ok(Some(status)) = node.child.try_wait()
            {
                node.exited = Some(status.to_string());
                exited.push(&*node);
            }
        }
        exited
    }

    /// Stops all nodes, waits for their exit, and returns the names of those that had to be killed.
    pub(crate) async fn stop(mut self) -> Vec<String> {
        // All pipes are closed first, so that the nodes stop at the same time.
        for node in &mut self.nodes {
            drop(node.child.stdin.take());
            node.resume();
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        let mut killed = Vec::new();
        for node in &mut self.nodes {
            if timeout_at(deadline, node.child.wait()).await.is_err() {
                killed.push(node.plan.name.clone());
                // Killing a node that has just exited fails, which is fine.
                node.child.kill().await.ok();
            }
        }
        killed
    }
}

impl Node {
    /// Starts the node again after its end; its log goes on.
    pub(super) fn restart(&mut self, credentials: Option<&Credentials>) -> Result<(), ProcessError> {
        let log = File::options().create(true).append(true).open(&self.plan.log);
        self.child = spawn(&program()?, &self.plan, credentials, log)?;
        (self.fault, self.exited) = (None, None);
        Ok(())
    }
}

fn program() -> Result<PathBuf, ProcessError> {
    std::env::current_exe().map_err(system("cannot find this program"))
}

fn spawn(
    program: &Path,
    plan: &Plan,
    credentials: Option<&Credentials>,
    log: io::Result<File>,
) -> Result<Child, ProcessError> {
    let log = log.map_err(system(format!("cannot write {}", plan.log.display())))?;
    let mut command = Command::new(program);
    for key in keys::KEYS.iter().filter(|key| is_own(key.path)) {
        command.env_remove(key.variable());
        if let Some(short) = key.short {
            command.env_remove(short);
        }
    }
    // The variables of the tutorial, and nothing that another node's environment could change.
    command
        .env_remove(CONFIG_VARIABLE)
        .env("SERVER_PORT", plan.http_port.to_string())
        .env("RAFT_NODE_ID", &plan.name)
        .env("RAFT_PORT", plan.raft_port.to_string())
        .env("RAFT_VOL_DIR", &plan.directory)
        .arg(format!("--{STOP_WITH_STDIN}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log)
        .process_group(0)
        .kill_on_drop(true);
    if let Some(credentials) = credentials {
        let files = [(TLS_DIR, credentials.of_node(&plan.name)), (TOKENS, credentials.tokens())];
        for (key, file) in files.into_iter().filter_map(|(path, file)| Some((keys::find(path)?, file))) {
            command.env(key.variable(), file);
        }
    }
    command.spawn().map_err(system(format!("cannot start {}", plan.name)))
}

/// Whether a node takes this setting from the demo alone.
fn is_own(path: &str) -> bool {
    OWN_SETTINGS.contains(&path) || path.starts_with(TLS_SECTION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_addresses_certificates_and_tokens_are_not_inherited() {
        for path in OWN_SETTINGS.iter().chain([&TLS_DIR]) {
            assert!(keys::find(path).is_some_and(|key| is_own(key.path)), "{path}");
        }
        assert!(is_own("tls.peer_key") && !is_own("log.level") && !is_own("limits.memory_mb"));
    }

    #[test]
    fn ports_and_directories_count_upwards() {
        let plan = plan(3, [2221, 1111], Path::new("x"));
        assert_eq!((plan[2].http().as_str(), plan[2].raft().as_str()), ("127.0.0.1:2223", "127.0.0.1:1113"));
        assert_eq!(plan[1].directory, Path::new("x/node2"));
        assert_eq!(plan[1].log, Path::new("x/node2.log"));
    }

    #[test]
    fn a_port_in_use_is_named() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut plan = plan(1, [2221, 1111], Path::new("x"));
        plan[0].http_port = 0;
        plan[0].raft_port = taken.local_addr().unwrap().port();
        let message = check_ports(&plan, None).unwrap_err().to_string();
        assert!(message.contains(&format!("port {} (for raft of node1)", plan[0].raft_port)), "{message}");
        drop(taken);
        assert!(check_ports(&plan, None).unwrap().is_none());
    }

    #[test]
    fn a_port_that_is_wanted_twice_is_named_with_both_uses() {
        let of_nodes = plan(3, [2221, 1111], Path::new("x"));
        let message = check_ports(&of_nodes, Some(2222)).unwrap_err().to_string();
        assert!(message.contains("port 2222 is for the page and for HTTP of node2"), "{message}");
        let message = check_ports(&plan(3, [2221, 2223], Path::new("x")), None).unwrap_err().to_string();
        assert!(message.contains("port 2223 is for raft of node1 and for HTTP of node3"), "{message}");
    }

    #[test]
    fn only_unlocked_data_directories_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str, file: &str| {
            fs::create_dir_all(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join(file), "").unwrap();
        };
        make("node1", IDENTITY);
        make("node12", IDENTITY);
        make("node2", "notes");
        make("nodes", IDENTITY);
        make("node1x", IDENTITY);
        make("node12", LOCK);
        let lock = File::open(folder.path().join("node12").join(LOCK)).unwrap();
        lock.lock().unwrap();
        assert!(matches!(clear(folder.path()), Err(ProcessError::DirectoryInUse(path)) if path.ends_with("node12")));
        assert!(folder.path().join("node1").exists());
        drop(lock);
        let removed = clear(folder.path()).unwrap();
        assert_eq!(removed, [folder.path().join("node1"), folder.path().join("node12")]);
        for kept in ["node2", "nodes", "node1x"] {
            assert!(folder.path().join(kept).exists(), "{kept}");
        }
        assert!(clear(&folder.path().join("nothing")).unwrap().is_empty());
    }
}
