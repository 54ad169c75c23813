//! Instruction counts of the hot path: state machine, codec, journal record, a PUT over HTTP.
//!
//! Why: times vary with what else the machine does, by more than most changes gain; the number of instructions that
//! callgrind counts varies by a percent. So a regression shows on a busy machine too.
//!
//! Invariants: only instructions of the measured thread and of this process count: neither the kernel nor sled's own
//! threads. The set-up is not counted. Without valgrind or `gungraun-runner` the benchmarks are skipped, which a line
//! on stderr says.
//!
//! See also: `hot` for times; CONTRIBUTING.md for how to install the runner and compare with a baseline.

#![allow(missing_docs, reason = "the macros make public items without any")]

use std::hint::black_box;
use std::io;
use std::net::TcpListener;
use std::process::{Command as Process, Stdio};
use std::time::Duration;

use gungraun::{Callgrind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main};
use huskv::consensus::{Input, channel};
use huskv::http;
use huskv::model::{Answer, CommandResult, Item, List, Page, Proposal, Write, Written, codec};
use huskv::storage::{Applied, DataDir, Incarnation, Journal, StateMachine};
use raft::eraftpb::{Entry, HardState};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

mod fixture;

use fixture::{KEYS, VALUE_BYTES, http_options, incarnation, put, puts};

/// The entries of a batch, as a loaded node applies them.
const BATCH: u64 = 256;

/// The keys of a page.
const PAGE: usize = 1_000;

/// The requests over HTTP of one measurement: the number of polls differs a little between single ones.
const REQUESTS: usize = 64;

/// A state machine with [`KEYS`] keys.
struct Machine {
    state_machine: StateMachine,
    _open: (DataDir, Journal),
    _directory: TempDir,
}

fn machine() -> Machine {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (data_dir, Incarnation { mut state_machine, journal, .. }) = incarnation(directory.path());
    let (index, term) = state_machine.applied();
    for first in (index + 1..=index + KEYS).step_by(BATCH as usize) {
        state_machine.apply(puts(first, BATCH, term), usize::MAX).expect("it is applied");
    }
    assert_eq!(state_machine.keys(), KEYS);
    Machine { state_machine, _open: (data_dir, journal), _directory: directory }
}

fn machine_and_batches(count: u64) -> (Machine, Vec<Vec<Applied>>) {
    let machine = machine();
    let (index, term) = machine.state_machine.applied();
    let batches = (0..count).map(|batch| puts(index + 1 + batch * BATCH, BATCH, term)).collect();
    (machine, batches)
}

// Batches over existing keys. One may leave all changes in memory; eight pay for writing most of them into the tree.
#[library_benchmark(setup = machine_and_batches)]
#[bench::one_batch_of_256(1)]
#[bench::eight_batches_of_256(8)]
fn apply((mut machine, batches): (Machine, Vec<Vec<Applied>>)) -> Machine {
    for batch in batches {
        black_box(machine.state_machine.apply(batch, usize::MAX).expect("it is applied"));
    }
    machine
}

fn machine_alone(_: &str) -> Machine {
    machine()
}

#[library_benchmark(setup = machine_alone)]
#[bench::of_10_000_keys("")]
fn get(machine: Machine) -> (Machine, Option<std::sync::Arc<Item>>) {
    let item = machine.state_machine.get(black_box(b"key-00004711")).expect("it is read");
    (machine, item)
}

#[library_benchmark(setup = machine_alone)]
#[bench::of_1_000_keys("")]
fn list(machine: Machine) -> (Machine, Page) {
    let list = List { start: b"key-".to_vec(), end: None, reverse: true, limit: PAGE, keys_only: false };
    let page = machine.state_machine.list(black_box(&list)).expect("it is read");
    (machine, page)
}

fn write(number: u64) -> Write {
    put(number).into()
}

#[library_benchmark]
#[bench::of_a_put(write(1))]
fn encode_proposal(write: Write) -> (Write, Vec<u8>) {
    let bytes = Proposal::encode(black_box(7), black_box(&write));
    (write, bytes)
}

#[library_benchmark]
#[bench::of_a_put(Proposal::encode(7, &write(1)))]
fn decode_entry(bytes: Vec<u8>) -> (Vec<u8>, Proposal) {
    let proposal = codec::decode(black_box(&bytes)).expect("it was encoded");
    (bytes, proposal)
}

/// A journal, and entries for one record of it.
fn journal_and_entries(count: u64) -> (TempDir, DataDir, Journal, Vec<Entry>) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (data_dir, Incarnation { journal, .. }) = incarnation(directory.path());
    let first = journal.last_index() + 1;
    let entry = |index| Entry { index, term: 1, data: Proposal::encode(7, &write(index)).into(), ..Entry::default() };
    let entries = (first..first + count).map(entry).collect();
    (directory, data_dir, journal, entries)
}

// One record, encoded and handed to the database, without its sync.
#[library_benchmark(setup = journal_and_entries)]
#[bench::of_64_entries(64)]
fn journal_record(mut open: (TempDir, DataDir, Journal, Vec<Entry>)) -> (TempDir, DataDir, Journal, Vec<Entry>) {
    let (_, _, journal, entries) = &mut open;
    let hard_state = HardState { term: 1, commit: entries[0].index - 1, ..HardState::default() };
    journal.append(entries, &hard_state).expect("it is written");
    open
}

/// A server, a client connected to it and the loop's part, all on one thread.
struct Web {
    runtime: Runtime,
    client: TcpStream,
    server: Option<http::Server>,
    request: Vec<u8>,
    answer: Vec<u8>,
}

fn web(_: &str) -> Web {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let (handle, mut inbox) = channel(1024);
    handle.begin_serving();
    let log = slog::Logger::root(slog::Discard, slog::o!());
    let entered = runtime.enter();
    let server = http::start(listener, handle, http_options(address.port()), log).expect("a server");
    drop(entered);
    runtime.spawn(async move {
        while let Some(input) = inbox.clients.recv().await {
            if let Input::Request { reply, .. } = input {
                let outcome = CommandResult::Put { create_version: 3 };
                reply(Ok(Answer::Written(Written { index: 9, term: 2, clock: 0, outcome, replayed: false })));
            }
        }
    });
    let body = format!(r#"{{"key":"key-00004711","value":"{}"}}"#, "v".repeat(VALUE_BYTES));
    let head = format!("Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {}", body.len());
    let request = format!("POST /store HTTP/1.1\r\n{head}\r\n\r\n{body}").into_bytes();
    let client = runtime.block_on(TcpStream::connect(address)).expect("the server listens");
    client.set_nodelay(true).expect("an option");
    let mut web = Web { runtime, client, server: Some(server), request, answer: Vec::with_capacity(4096) };
    web.put().expect("a first answer, which opens the connection");
    web
}

impl Web {
    /// Sends a put and reads its answer to the end.
    fn put(&mut self) -> io::Result<()> {
        let Self { runtime, client, request, answer, .. } = self;
        runtime.block_on(async {
            client.write_all(request).await?;
            answer.clear();
            while !answer.ends_with(b"}\n") {
                if client.read_buf(answer).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(answer));
            Ok(())
        })
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            self.runtime.block_on(server.stop(Duration::from_secs(1)));
        }
    }
}

// Parsing, dispatch and the answer, with the client's part.
#[library_benchmark(setup = web)]
#[bench::of_64_puts("")]
fn http_put(mut web: Web) -> Web {
    for _ in 0..REQUESTS {
        web.put().expect("an answer");
    }
    web
}

library_benchmark_group!(
    name = pieces,
    benchmarks = [apply, get, list, encode_proposal, decode_entry, journal_record, http_put]
);

/// The configuration; the process ends here where a tool is missing.
fn config_or_skip() -> LibraryBenchmarkConfig {
    for (tool, source) in
        [("valgrind", "the system's packages"), ("gungraun-runner", "`cargo install gungraun-runner --version 0.20.0`")]
    {
        let run = Process::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if run.is_err() {
            eprintln!("instructions: skipped, {tool} is not installed; it is in {source}");
            std::process::exit(0);
        }
    }
    let mut config = LibraryBenchmarkConfig::default();
    // Instructions alone: simulated caches cost time, and vary with addresses.
    config.tool(Callgrind::with_args(["--cache-sim=no"]));
    config
}

main!(config = config_or_skip(), library_benchmark_groups = pieces);
