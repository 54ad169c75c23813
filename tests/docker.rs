//! The containers: `scripts/docker.sh test` with the binary under test, where a Docker engine is.
//!
//! Why: the Dockerfile and `docker-compose.yml` are promises too: no root, healthy, one cluster without curl, data that
//! survives `down` and a removed volume, and a leader that may be stopped. The script says what it does step by step, so
//! people can do the same.
//!
//! Laws: as those of the black-box tests. Without an engine the test is counted as ignored and says what is missing, and
//! a machine whose engine cannot run a container counts as one without.

// clippy knows tests by their attribute, and tests with a main of their own have none.
#![allow(clippy::unwrap_used)]

use std::process::{Command, ExitCode, Stdio};

// Only a part of it is of use here.
#[allow(dead_code, unused_imports)]
#[path = "cluster/harness/mod.rs"]
mod harness;

use harness::{Need, binary};

harness::cases![containers_survive_what_is_done_to_them.needs(Need::Docker)];

fn containers_survive_what_is_done_to_them() {
    let output = Command::new(Need::DOCKER_SCRIPT).arg("test").arg(binary()).stdin(Stdio::null()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.contains("docker.sh: the test of the containers passed"), "{said}");
    println!("{said}");
}

fn main() -> ExitCode {
    let arguments = libtest_mimic::Arguments::from_args();
    libtest_mimic::run(&arguments, cases().into_iter().map(harness::Case::trial).collect()).exit_code()
}
