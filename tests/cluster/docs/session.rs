//! A reader at his terminals: one bash for each, a folder of their own, nodes at free ports.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::shown;
use crate::harness::{ELECTION, Request, START, binary, check, eventually, free_port, secs};

/// The ports that pages name.
const PORTS: [u16; 8] = [2221, 2222, 2223, 2224, 1111, 1112, 1113, 1114];

/// The terminal in which a reader types what is not said to be for another one.
const MAIN: usize = 4;

/// How long a block may take on a busy machine, in a debug build.
const BLOCK: Duration = secs(120);

/// What a reader has open.
pub struct Session {
    // Dropped before the folder is.
    terminals: BTreeMap<usize, Terminal>,
    /// Port of the pages, and the one that stands for it here.
    ports: BTreeMap<u16, u16>,
    home: TempDir,
}

/// A bash, and the file that holds what it has printed.
struct Terminal {
    bash: Child,
    output: PathBuf,
    /// Where the output of the last block begins.
    since: usize,
    blocks: usize,
}

impl Session {
    /// `empty`: a folder without nodes. `three nodes`: node1, node2 and node3 in terminals 1 to 3, one cluster.
    pub fn begin(value: &str) -> Self {
        let home = tempfile::Builder::new().prefix("huskv-docs-").tempdir().expect("a folder");
        let bin = home.path().join("target/release");
        fs::create_dir_all(&bin).unwrap();
        symlink(binary(), bin.join("huskv")).unwrap();
        let curl = "#!/bin/sh\nexec env PATH=\"$READERS_PATH\" curl -sS \"$@\"\n";
        fs::write(bin.join("curl"), curl).unwrap();
        fs::set_permissions(bin.join("curl"), fs::Permissions::from_mode(0o755)).unwrap();
        let ports = PORTS.map(|port| (port, free_port())).into();
        let mut session = Self { home, ports, terminals: BTreeMap::new() };
        match value {
            "empty" => {}
            "three nodes" => session.three_nodes(),
            _ => panic!("a session of {value}"),
        }
        session
    }

    fn three_nodes(&mut self) {
        for n in 1..=3 {
            let start = "RAFT_VOL_DIR=data/node{n} target/release/huskv";
            let start = format!("SERVER_PORT=222{n} RAFT_NODE_ID=node{n} RAFT_PORT=111{n} {start}");
            self.type_in("the session", &format!("# terminal {n}\n{}\n", start.replace("{n}", &n.to_string())));
        }
        for n in 2..=3 {
            let body = format!("{{\"node_id\": \"node{n}\", \"raft_address\": \"localhost:111{n}\"}}");
            self.type_in("the session", &format!("curl -X POST localhost:2221/raft/join -d '{body}'\n"));
            self.expect("the session", None, &format!("{{\"data\":{{\"num_peers\":\"{}\"}}}}\n", n - 1));
        }
        // The answer to a join says what the leader has applied; the others follow.
        for address in [2221, 2222, 2223].map(|port| format!("127.0.0.1:{}", self.ports[&port])) {
            eventually(ELECTION, format!("{address} has applied the joins"), || {
                let request = Request::new("GET", "/raft/stats").within(secs(2));
                let answer = request.send(&address).map_err(|error| error.to_string())?;
                let stats = answer.data();
                check(stats["voters"] == 3 && stats["applied_index"] == "6", stats)
            });
        }
    }

    /// Ends the process of a node, as a power cut does; `node3` runs in terminal 3.
    pub fn kill(&mut self, node: &str) {
        let n = node.trim_start_matches("node");
        self.type_in("the session", &format!("# terminal {n}\nkill -9 %%\n"));
    }

    /// Types a block in, and waits until the shell is back, or what it started answers.
    pub fn type_in(&mut self, place: &str, text: &str) {
        let named = text.strip_prefix("# terminal ").and_then(|rest| rest.lines().next()?.trim().parse().ok());
        let real = exchange(text, |port| self.ports.get(&port).copied());
        let stays = named.is_some() && (real.contains("huskv") || real.contains("curl -N"));
        let number = named.unwrap_or(MAIN);
        let terminal = self.terminals.entry(number).or_insert_with(|| Terminal::open(self.home.path(), number));
        terminal.type_in(place, &shortened(&real), stays);
        if stays && real.contains("RAFT_VOL_DIR") {
            up(place, &real);
        } else if stays {
            eventually(START, format!("{place}: the first output"), || {
                check(!terminal.printed().is_empty(), "nothing yet")
            });
        }
    }

    /// Waits until the last block of a terminal has printed what is shown.
    pub fn expect(&mut self, place: &str, terminal: Option<usize>, shown: &str) {
        let Some(shell) = self.terminals.get(&terminal.unwrap_or(MAIN)) else { panic!("{place}: nothing was typed") };
        let documented = |real| self.ports.iter().find(|(_, it)| **it == real).map(|(port, _)| *port);
        // A shell that is back has printed all; a stream goes on.
        let limit = if terminal.is_some() { secs(30) } else { Duration::ZERO };
        eventually(limit, format!("{place} is what is printed"), || {
            let printed = exchange(&shell.printed(), documented);
            shown::compare(shown, &printed).map_err(|error| format!("{error}\nprinted:\n{printed}"))
        });
    }
}

impl Terminal {
    fn open(home: &std::path::Path, number: usize) -> Self {
        let output = home.join(format!("terminal{number}"));
        let file = File::options().create(true).append(true).open(&output).unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut bash = Command::new("bash");
        for (variable, _) in std::env::vars_os() {
            let name = variable.to_string_lossy();
            if name.starts_with("HUSKV_") || name.starts_with("RAFT_") || name == "SERVER_PORT" {
                bash.env_remove(&variable);
            }
        }
        let mut bash = bash
            .args(["--norc", "--noprofile"])
            .current_dir(home)
            .env("READERS_PATH", &path)
            .env("PATH", format!("{}:{path}", home.join("target/release").display()))
            // On a busy machine an election within a session would shift the indexes that its pages name.
            .env("HUSKV_RAFT_ELECTION_TICKS", "60")
            .stdin(Stdio::piped())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .expect("bash can be started");
        // Each job is a process group, as at a terminal.
        writeln!(bash.stdin.as_mut().unwrap(), "set -m").unwrap();
        Self { bash, output, since: 0, blocks: 0 }
    }

    fn all(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.output).unwrap()).into_owned()
    }

    fn printed(&self) -> String {
        self.all()[self.since..].to_owned()
    }

    fn type_in(&mut self, place: &str, text: &str, stays: bool) {
        self.since = self.all().len();
        self.blocks += 1;
        let script = self.output.with_extension(format!("{}.sh", self.blocks));
        let behind = if stays { " &" } else { "" };
        fs::write(&script, format!("{}{behind}\n", text.trim_end())).unwrap();
        let done = self.output.with_extension(format!("{}.done", self.blocks));
        let line = format!("source {} </dev/null; echo $? > {done}", script.display(), done = done.display());
        writeln!(self.bash.stdin.as_mut().unwrap(), "{line}").expect("bash reads");
        eventually(BLOCK, format!("{place}: the shell is back"), || {
            let code = fs::read_to_string(&done).map_err(|error| error.to_string())?;
            check(code.ends_with('\n'), "half a line")
        });
        let code = fs::read_to_string(&done).unwrap();
        assert_eq!(code, "0\n", "{place} fails; printed:\n{}", self.printed());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let all = self.all();
            let from = all.char_indices().rev().nth(3_000).map_or(0, |(at, _)| at);
            eprintln!("--- the end of {}:\n{}", self.output.display(), &all[from..]);
        }
        if let Some(mut stdin) = self.bash.stdin.take() {
            writeln!(stdin, "for job in $(jobs -p); do kill -9 -- -$job; done; exit").ok();
        }
        self.bash.wait().ok();
    }
}

/// Waits until the node that a block starts answers, and takes requests where it need not wait for others.
fn up(place: &str, block: &str) {
    let port = block.split("SERVER_PORT=").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("a port");
    let address = format!("127.0.0.1:{port}");
    let probe = if block.contains("HUSKV_JOIN") { "/health" } else { "/readyz" };
    eventually(START + ELECTION, format!("{place}: {address} answers {probe}"), || {
        let answer = Request::new("GET", probe).within(secs(2)).send(&address).map_err(|error| error.to_string())?;
        // A node with TLS answers plain HTTP with the remark that it has no such.
        let is_secure = block.contains("HUSKV_TLS_DIR") && answer.text().contains("https_required");
        check(answer.status == 200 || is_secure, answer)
    });
}

/// A benchmark is there to be seen to run, not to measure this machine.
fn shortened(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let short = line.contains("huskv bench --") && !line.contains("--help");
        if short { format!("{line} --duration 1s --warmup 0s --keys 20") } else { line.to_owned() }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Replaces each number in `text` that is a known port.
fn exchange(text: &str, other: impl Fn(u16) -> Option<u16>) -> String {
    let mut exchanged = String::new();
    for section in text.split_inclusive(|c: char| !c.is_ascii_digit()) {
        let digits = section.trim_end_matches(|c: char| !c.is_ascii_digit());
        match digits.parse().ok().and_then(&other) {
            Some(port) => exchanged.push_str(&format!("{port}{}", &section[digits.len()..])),
            None => exchanged.push_str(section),
        }
    }
    exchanged
}
