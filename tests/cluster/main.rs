//! Black-box tests: the real binary, over HTTP and signals.
//!
//! Why: the guarantees are for operators who start processes, curl them, kill them and look at their disks. So no test
//! uses a type of the program, except `rogue_member`, which uses the transport.
//!
//! Invariants: ports are picked by the nodes; a test waits on conditions and never sleeps for luck; everything is bounded in
//! time; a test whose machine lacks a tool is counted as ignored, with the reason before its name.
//!
//! One test: `cargo test --test cluster -- operations::launch::a_bare_node`, or `cargo nextest run --test cluster a_bare_node`.
//! `HUSKV_TEST_BINARY` names another build of the binary to be tested.

// clippy knows tests by their attribute, and tests with a main of their own have none.
#![allow(clippy::unwrap_used)]

use std::process::ExitCode;

mod api;
// Used in part.
#[allow(dead_code)]
#[path = "../faults/failing_disk.rs"]
mod failing_disk;
// Used in part.
#[allow(dead_code)]
mod docs;
mod examples;
mod failures;
mod harness;
mod membership;
mod monitoring;
mod operations;
mod peer_port;
mod secure_peers;
mod secure_port;
#[path = "../support/test_ca.rs"]
mod test_ca;
// Used in part.
#[allow(dead_code)]
#[path = "../faults/tcp_proxy.rs"]
mod tcp_proxy;

fn main() -> ExitCode {
    let arguments = libtest_mimic::Arguments::from_args();
    let cases = [
        operations::cases(),
        monitoring::cases(),
        api::cases(),
        docs::cases(),
        examples::cases(),
        membership::cases(),
        peer_port::cases(),
        secure_peers::cases(),
        secure_port::cases(),
        failures::cases(),
    ];
    let trials = cases.into_iter().flatten().map(harness::Case::trial).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
