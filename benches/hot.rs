//! Microbenchmarks of the hot path: a journal record, a state machine batch, the entry codec, and a GET over HTTP.
//!
//! Why: `huskv bench` measures whole nodes; these benchmarks show which part a change has affected.
//!
//! Invariants: real disks and real sockets, on a temporary directory and loopback. Throughput is counted in entries.
//!
//! See also: `instructions` for figures that a busy machine does not change.

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput};
use huskv::consensus::{Input, ReadGrant, channel};
use huskv::http;
use huskv::model::{Command, Item, Value, codec};
use huskv::storage::{Incarnation, ReadPoint, StateReader};
use raft::eraftpb::{Entry, HardState};

mod fixture;

use fixture::{VALUE_BYTES, incarnation, put, puts};

const BATCHES: [usize; 2] = [8, 64];

fn journal(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("journal: append and sync");
    for batch in BATCHES {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (_volume, Incarnation { mut journal, .. }) = incarnation(directory.path());
        let data = codec::encode(&put(1));
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(batch.to_string(), |bencher| {
            bencher.iter(|| {
                let first = journal.last_index() + 1;
                let entry = |index| Entry { index, term: 1, data: data.clone().into(), ..Entry::default() };
                let entries: Vec<Entry> = (first..first + batch as u64).map(entry).collect();
                let hard_state = HardState { term: 1, commit: first - 1, ..HardState::default() };
                journal.append(&entries, &hard_state).expect("it is written");
                journal.sync().expect("it is synced");
            });
        });
    }
    group.finish();
}

fn state_machine(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("machine: apply");
    for batch in BATCHES {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (_volume, Incarnation { mut state_machine, .. }) = incarnation(directory.path());
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(batch.to_string(), |bencher| {
            bencher.iter(|| {
                let (index, term) = state_machine.applied();
                let entries = puts(index + 1, batch as u64, term);
                black_box(state_machine.apply(entries, usize::MAX).expect("it is applied"));
            });
        });
    }
    group.finish();
}

fn coding(criterion: &mut Criterion) {
    let command = put(1);
    let bytes = codec::encode(&command);
    criterion.bench_function("codec: encode a put", |bencher| bencher.iter(|| codec::encode(black_box(&command))));
    criterion.bench_function("codec: decode a put", |bencher| {
        bencher.iter_batched(
            || bytes.clone(),
            |bytes| codec::decode::<Command>(&bytes).expect("it was encoded"),
            BatchSize::SmallInput,
        );
    });
}

/// An item as a read finds it.
fn item() -> Item {
    let value = Value::binary(vec![b'v'; VALUE_BYTES]);
    Item { value, version: 7, create_version: 3, expires: None, by: None }
}

/// One keep-alive connection, one request at a time, and a consumer that answers at once: the cost of routing and HTTP.
fn get(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let (handle, mut inbox) = channel(1024);
    handle.begin_serving();
    let options = fixture::http_options(address.port());
    let log = slog::Logger::root(slog::Discard, slog::o!());
    let _running = runtime.enter();
    let server = http::start(listener, handle, options, log).expect("a server");
    let state = StateReader::in_memory([("some-key".into(), item())], ReadPoint { index: 9, term: 2, clock: 0 });
    std::thread::spawn(move || {
        while let Some(input) = inbox.clients.blocking_recv() {
            if let Input::Read { reply, .. } = input {
                reply(Ok(ReadGrant { state: state.clone(), term: 2, clock: 0 }));
            }
        }
    });
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.set_nodelay(true).expect("an option");
    let mut answer = vec![0; 4096];
    criterion.bench_function("http: GET on one connection", |bencher| {
        bencher.iter(|| {
            stream.write_all(b"GET /store/some-key HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it is sent");
            let mut read = 0;
            while !answer[..read].ends_with(b"}\n") {
                let more = stream.read(&mut answer[read..]).expect("an answer");
                assert!(more > 0, "the server has closed the connection");
                read += more;
            }
        });
    });
    drop(stream);
    runtime.block_on(server.stop(Duration::from_secs(1)));
}

fn main() {
    let (measured, warm) = (Duration::from_secs(3), Duration::from_secs(1));
    let criterion = Criterion::default().measurement_time(measured).warm_up_time(warm).sample_size(20);
    let mut criterion = criterion.configure_from_args();
    for group in [journal, state_machine, coding, get] {
        group(&mut criterion);
    }
    criterion.final_summary();
}
