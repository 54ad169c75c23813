//! What some tests need of the machine.
//!
//! Why: a test whose machine lacks a tool must be counted as ignored, never as passed; so it is asked before the tests
//! are listed.

use std::process::{Command, Stdio};
use std::sync::OnceLock;

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
}

impl Need {
    /// What is missing, in words; `None` where it is there.
    pub fn missing(self) -> Option<&'static str> {
        static STRACE: OnceLock<bool> = OnceLock::new();
        static CC: OnceLock<bool> = OnceLock::new();
        static TMPFS: OnceLock<bool> = OnceLock::new();
        match self {
            Self::Strace => (!*STRACE.get_or_init(can_trace)).then_some("needs strace"),
            Self::Cc => (!*CC.get_or_init(|| succeeds(Command::new("cc").arg("--version")))).then_some("needs cc"),
            Self::Tmpfs => (!*TMPFS.get_or_init(can_mount)).then_some("needs the right to mount a tmpfs"),
        }
    }
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
