//! A node as a real process, controlled by variables, HTTP and signals.
//!
//! Invariants: ports are picked by the node (port 0); a node is up when this start has written addresses.json and /health
//! answers 200; a process never outlives its `Node`; when a test fails, the tail of each node's log is printed.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::http::{Answer, Request};
use super::setup::Setup;
use super::wait::{eventually, secs};

/// How long a start may take on a busy machine, in a debug build.
pub const START: Duration = Duration::from_secs(20);

/// How many lines of each log are printed when a test fails.
const TAIL_LINES: usize = 60;

/// The binary under test; `HUSKV_TEST_BINARY` names another build of it, such as a release one.
pub fn binary() -> PathBuf {
    std::env::var_os("HUSKV_TEST_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_huskv").into(), PathBuf::from)
}

/// A node: its directory, its settings and, while it runs, its process.
pub struct Node {
    setup: Setup,
    home: TempDir,
    directory: PathBuf,
    child: Option<Child>,
    stopped: bool,
    log_start: u64,
    /// Where its clients find it.
    pub http: String,
    /// Where its peers find it.
    pub raft: String,
}

impl Node {
    /// A node that is not started yet.
    pub fn at(setup: Setup, home: TempDir, directory: PathBuf) -> Self {
        Self {
            setup,
            home,
            directory,
            child: None,
            stopped: false,
            log_start: 0,
            http: String::new(),
            raft: String::new(),
        }
    }

    /// The name it is started with.
    pub fn name(&self) -> &str {
        &self.setup.name
    }

    /// RAFT_VOL_DIR.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The directory that the process runs in, removed with the node.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The settings, for another node like it.
    pub fn setup(&self) -> Setup {
        self.setup.clone()
    }

    /// Changes a variable for the next start.
    pub fn set(&mut self, variable: &str, value: impl ToString) {
        self.setup = self.setup.clone().set(variable, value);
    }

    /// Changes the command line for the next start.
    pub fn argument(&mut self, argument: &str) {
        self.setup = self.setup.clone().argument(argument);
    }

    /// Starts the process and waits until it is up.
    #[track_caller]
    pub fn start(&mut self) {
        self.spawn();
        self.await_up();
    }

    /// Starts the process.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name());
        // The file is written at every start; with the old one gone, a new one is of this start.
        if self.directory.join("addresses.json").exists() && self.setup.directory.is_none() {
            fs::remove_file(self.directory.join("addresses.json")).expect("removing the old addresses.json");
        }
        let log = File::options().create(true).append(true).open(self.log_path()).expect("the file for the log");
        self.log_start = log.metadata().expect("the size of the log").len();
        let mut command = match self.setup.wrapper.split_first() {
            Some((program, rest)) => {
                let mut command = Command::new(program);
                command.args(rest).arg(binary());
                command
            }
            None => Command::new(binary()),
        };
        for (variable, _) in std::env::vars_os() {
            let text = variable.to_string_lossy();
            if text.starts_with("HUSKV_") || text.starts_with("RAFT_") || text == "SERVER_PORT" {
                command.env_remove(&variable);
            }
        }
        let child = command
            .args(&self.setup.arguments)
            .envs(&self.setup.variables)
            .current_dir(self.home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("starting the node");
        self.child = Some(child);
        self.stopped = false;
    }

    /// Waits until the process that was started is up.
    #[track_caller]
    pub fn await_up(&mut self) {
        let name = self.name().to_owned();
        eventually(START, format!("{name} is up"), || {
            if let Some(status) = self.exited() {
                panic!("{name} exited with {status} while it was awaited: {}", self.log());
            }
            let text = fs::read_to_string(self.directory.join("addresses.json")).map_err(|error| error.to_string())?;
            let addresses: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
            self.http = reachable(addresses["http"].as_str().unwrap_or(""));
            self.raft = reachable(addresses["raft"].as_str().unwrap_or(""));
            let health = self.try_request(Request::new("GET", "/health").within(secs(2)))?;
            if health.status == 200 { Ok(()) } else { Err(health.to_string()) }
        });
    }

    /// The exit status, if the process has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().expect("waiting for the process"))
    }

    /// Waits for the process to end by itself.
    #[track_caller]
    pub fn await_exit(&mut self, timeout: Duration) -> ExitStatus {
        let name = self.name().to_owned();
        let status = eventually(timeout, format!("{name} exits"), || self.exited().ok_or("it runs".to_owned()));
        self.child = None;
        status
    }

    /// Whether there is a process, and it is not stopped by a signal.
    pub fn runs(&self) -> bool {
        self.child.is_some() && !self.stopped
    }

    /// The number of the running process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a process").id()
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("a process to signal");
        let pid = Pid::from_child(child);
        kill_process(pid, signal).expect("signalling the process");
    }

    /// kill -9.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("killing the process");
            child.wait().expect("waiting for the process");
        }
        self.stopped = false;
    }

    /// SIGTERM, and waits for the exit for longer than the promise, so that a late exit is seen as one.
    #[track_caller]
    pub fn sigterm(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.await_exit(secs(15))
    }

    /// SIGTERM, without waiting for the exit.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGHUP: the node reads its settings, certificates and tokens again, and goes on.
    pub fn sighup(&self) {
        self.signal(Signal::HUP);
    }

    /// SIGINT, and waits for the exit.
    #[track_caller]
    pub fn sigint(&mut self) -> ExitStatus {
        self.signal(Signal::INT);
        self.await_exit(secs(15))
    }

    /// SIGSTOP: the process keeps its connections and does nothing.
    pub fn sigstop(&mut self) {
        self.signal(Signal::STOP);
        self.stopped = true;
        // One thread takes the signal and stops the others, which run on until it gets a core.
        let tasks = format!("/proc/{}/task", self.pid());
        eventually(secs(10), "all its threads have stopped", || {
            let Ok(threads) = std::fs::read_dir(&tasks) else { return Ok(()) };
            let runs = |stat: &str| stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('T'));
            let stats = threads.flatten().filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok());
            stats.into_iter().find(|stat| runs(stat)).map_or(Ok(()), Err)
        });
    }

    /// SIGCONT.
    pub fn sigcont(&mut self) {
        self.signal(Signal::CONT);
        self.stopped = false;
    }

    /// Removes its directory; the process must not run.
    pub fn wipe(&mut self) {
        assert!(self.child.is_none(), "{} runs", self.name());
        fs::remove_dir_all(&self.directory).expect("removing the directory");
    }

    fn log_path(&self) -> PathBuf {
        self.home.path().join("stderr")
    }

    /// Everything that this start has written to stderr.
    pub fn log(&self) -> String {
        let mut bytes = Vec::new();
        if let Ok(mut file) = File::open(self.log_path()) {
            file.seek(SeekFrom::Start(self.log_start)).expect("seeking in the log");
            file.read_to_end(&mut bytes).expect("reading the log");
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Sends a request.
    pub fn try_request(&self, request: Request) -> Result<Answer, String> {
        let request = match &self.setup.secret {
            Some(secret) => request.or_bearer(secret),
            None => request,
        };
        request.send(&self.http).map_err(|error| format!("{} at {}: {error}", self.name(), self.http))
    }

    /// Sends a request that must be answered, whatever the answer is.
    #[track_caller]
    pub fn request(&self, request: Request) -> Answer {
        self.try_request(request).unwrap_or_else(|error| panic!("no answer: {error}"))
    }

    /// GET.
    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.request(Request::new("GET", path))
    }

    /// DELETE.
    #[track_caller]
    pub fn delete(&self, path: &str) -> Answer {
        self.request(Request::new("DELETE", path))
    }

    /// POST of a JSON body.
    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.request(Request::new("POST", path).body(body.to_string()))
    }

    /// POST /store that must succeed; the version.
    #[track_caller]
    pub fn put(&self, key: &str, value: impl Into<Value>) -> u64 {
        let answer = self.post("/store", &json!({"key": key, "value": value.into()})).expect(200, "a write");
        answer.data()["version"].as_u64().expect("a version")
    }

    /// GET /store/KEY for a key that needs no escaping and must be there; the value.
    #[track_caller]
    pub fn value(&self, key: &str) -> Value {
        self.get(&format!("/store/{key}")).expect(200, &format!("reading {key}")).data()["value"].clone()
    }

    /// The data of GET /raft/stats.
    #[track_caller]
    pub fn stats(&self) -> Value {
        self.try_stats().unwrap_or_else(|error| panic!("no stats: {error}"))
    }

    /// The data of GET /raft/stats, if the node answers.
    pub fn try_stats(&self) -> Result<Value, String> {
        let answer = self.try_request(Request::new("GET", "/raft/stats").within(secs(3)))?;
        if answer.status == 200 { Ok(answer.data()) } else { Err(answer.to_string()) }
    }

    /// A stat that is a number in a string.
    #[track_caller]
    pub fn number(&self, stat: &str) -> u64 {
        number(&self.stats(), stat)
    }

    /// POST /raft/join for another node, as it is known to itself.
    #[track_caller]
    pub fn join(&self, other: &Node) -> Answer {
        self.post("/raft/join", &json!({"node_id": other.name(), "raft_address": other.raft}))
    }

    /// POST /raft/remove.
    #[track_caller]
    pub fn remove(&self, name: &str) -> Answer {
        self.post("/raft/remove", &json!({"node_id": name}))
    }
}

/// A stat that is a number in a string.
#[track_caller]
pub fn number(stats: &Value, stat: &str) -> u64 {
    let text = stats[stat].as_str().unwrap_or_else(|| panic!("{stat} is no string in {stats}"));
    text.parse().unwrap_or_else(|_| panic!("{stat} is {text:?}"))
}

/// Where a client on this machine finds what is bound to every address.
fn reachable(address: &str) -> String {
    address.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "127.0.0.1:")
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let status = self.exited();
            let text = fs::read_to_string(self.log_path()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
            eprintln!("--- {} at {} (exit: {status:?}), log tail:\n{tail}\n---", self.name(), self.http);
        }
        if let Some(mut child) = self.child.take() {
            // Nothing can be done about a failure here; the process is gone then.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
