//! The black-box tests: the real binary, over HTTP and signals.
//!
//! Why: what huskv promises is promised to people who start processes, curl them, kill them and look at their disks. So
//! nothing here knows a type of the program, but `rogue`, which speaks to the peer port as a member does.
//!
//! Laws: ports are picked by the nodes; a test waits on conditions and never sleeps for luck; everything is bounded in
//! time; a test whose machine lacks a tool is counted as ignored, with the reason before its name.
//!
//! One test: `cargo test --test cluster -- launch::a_bare_node`, or `cargo nextest run --test cluster a_bare_node`.
//! `HUSKV_TEST_BINARY` names another build of the binary to be tested.

// clippy knows tests by their attribute, and tests with a main of their own have none.
#![allow(clippy::unwrap_used)]

use std::process::ExitCode;

mod adoption;
mod cli;
mod clocks;
mod contract;
mod cut;
mod damage;
mod dialects;
// Only a part of it is of use here.
#[allow(dead_code)]
#[path = "../faults/disk.rs"]
mod disk;
mod durability;
mod faults;
mod forming;
mod forwarding;
mod full;
mod generated;
mod harness;
mod hints;
mod http;
mod joining;
mod launch;
mod leaving;
// Only a part of it is of use here.
#[allow(dead_code)]
#[path = "../faults/links.rs"]
mod links;
mod lives;
mod many;
mod moving;
mod once;
mod origins;
mod peers;
mod places;
mod probes;
mod quorum;
mod reserve;
mod rogue;
mod settings;
mod snapshots;
mod space;
mod starving;
mod stats;
mod status;
mod ttl;
mod tutorial;
mod values;
mod watch;

fn main() -> ExitCode {
    let arguments = libtest_mimic::Arguments::from_args();
    let cases = [
        settings::cases(),
        launch::cases(),
        stats::cases(),
        starving::cases(),
        status::cases(),
        probes::cases(),
        cli::cases(),
        clocks::cases(),
        http::cases(),
        origins::cases(),
        values::cases(),
        many::cases(),
        watch::cases(),
        dialects::cases(),
        contract::cases(),
        generated::cases(),
        ttl::cases(),
        once::cases(),
        tutorial::cases(),
        forwarding::cases(),
        quorum::cases(),
        cut::cases(),
        forming::cases(),
        joining::cases(),
        adoption::cases(),
        leaving::cases(),
        moving::cases(),
        lives::cases(),
        peers::cases(),
        places::cases(),
        rogue::cases(),
        hints::cases(),
        snapshots::cases(),
        damage::cases(),
        full::cases(),
        reserve::cases(),
        durability::cases(),
        space::cases(),
        faults::cases(),
    ];
    let trials = cases.into_iter().flatten().map(harness::Case::trial).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
