//! Needs: tools and rights of the machine that some tests require.
//!
//! Why: a test whose machine lacks a tool must be counted as ignored, never as passed, so needs are checked before the
//! tests are listed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::node::binary;

/// A tool that a test cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// strace, and a kernel that lets it trace.
    Strace,
    /// The right to mount a tmpfs.
    Tmpfs,
    /// A C compiler, which only the fault suite needs.
    #[allow(dead_code)]
    Cc,
    /// curl and bash, which the documents' sessions need.
    #[allow(dead_code)]
    Curl,
    /// openssl, which only the tests of TLS need.
    #[allow(dead_code)]
    Openssl,
    /// promtool of Prometheus, which only the tests of figures need.
    #[allow(dead_code)]
    Promtool,
    /// Prometheus itself, which only one test of figures needs.
    #[allow(dead_code)]
    Prometheus,
    /// A generator of clients, which `scripts/tools.sh` installs.
    OpenapiClient,
    /// Chromium, and what drives it, which `scripts/tools.sh` installs; only the test of the page needs them.
    #[allow(dead_code)]
    Browser,
    /// A program that gives another one a terminal; only the test of `huskv top` needs it.
    #[allow(dead_code)]
    Terminal,
    /// kubectl, and a checker of manifests, which `scripts/tools.sh` installs; only `tests/docker.rs` needs them.
    #[allow(dead_code)]
    Kubernetes,
    /// A Docker engine that can run the binary in a container, compose and curl, which only `tests/docker.rs` needs.
    #[allow(dead_code)]
    Docker,
}

impl Need {
    /// What builds, runs and tests containers.
    pub const DOCKER_SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/docker.sh");

    /// What is missing, in words; `None` where it is there.
    pub fn missing(self) -> Option<&'static str> {
        static STRACE: OnceLock<bool> = OnceLock::new();
        static CC: OnceLock<bool> = OnceLock::new();
        static TMPFS: OnceLock<bool> = OnceLock::new();
        static DOCKER: OnceLock<Option<String>> = OnceLock::new();
        match self {
            Self::Strace => (!*STRACE.get_or_init(can_trace)).then_some("needs strace"),
            Self::Cc => (!*CC.get_or_init(|| succeeds(Command::new("cc").arg("--version")))).then_some("needs cc"),
            Self::Curl => (tool("curl").is_none() || tool("bash").is_none()).then_some("needs curl and bash"),
            Self::Openssl => tool("openssl").is_none().then_some("needs openssl"),
            Self::Promtool => {
                tool("promtool").is_none().then_some("needs promtool (Debian's package prometheus has it)")
            }
            Self::Prometheus => {
                tool("prometheus").is_none().then_some("needs prometheus (Debian's package of that name)")
            }
            Self::OpenapiClient => tool("openapi-python-client")
                .is_none()
                .then_some("needs openapi-python-client (scripts/tools.sh installs it)"),
            Self::Browser => (tool("chromium").is_none() || tool("playwright").is_none()).then_some(
                "needs chromium (Debian's package), playwright and axe-playwright-python (scripts/tools.sh installs them)",
            ),
            Self::Terminal => tool("script").is_none().then_some("needs script (util-linux has it)"),
            Self::Kubernetes => (tool("kubectl").is_none() || tool("kubernetes-validate").is_none())
                .then_some("needs kubectl, and kubernetes-validate (scripts/tools.sh installs it)"),
            Self::Docker => DOCKER.get_or_init(lacks_docker).as_deref(),
            Self::Tmpfs => (!*TMPFS.get_or_init(can_mount)).then_some("needs the right to mount a tmpfs"),
        }
    }
}

/// Where a tool is: under `target/tools`, where `scripts/tools.sh` puts some, or on the path.
pub fn tool(name: &str) -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("tools").join("bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(own).chain(std::env::split_paths(&path));
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn can_trace() -> bool {
    succeeds(Command::new("strace").args(["-D", "-f", "-o", "/dev/null", "-e", "trace=fdatasync", "true"]))
}

fn can_mount() -> bool {
    let Ok(directory) = tempfile::tempdir() else { return false };
    let mounted = succeeds(Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(directory.path()));
    mounted && succeeds(Command::new("umount").arg(directory.path()))
}

fn lacks_docker() -> Option<String> {
    let output = Command::new(Need::DOCKER_SCRIPT).arg("able").arg(binary()).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let why = said.lines().last().unwrap_or("docker.sh able failed");
            Some(format!("needs Docker: {}", why.trim_start_matches("docker.sh: ")))
        }
        Err(error) => Some(format!("needs Docker: {error}")),
    }
}
