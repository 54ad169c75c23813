//! Disks that fail on demand: a shim for fsync and write errors, and a small tmpfs that fills up.
//!
//! Why: a failed fsync or a full disk must end the node, and its acknowledged writes must be there afterwards.
//!
//! Invariants: without a C compiler the shim's faults are not drawn, and the round says so; without the right to mount,
//! the same for the small disk.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

/// The library in front of libc, built once a process; `None` where there is no C compiler.
pub fn shim() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    BUILT.get_or_init(build).as_deref()
}

fn build() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/shim.c");
    let (ours, shared) = (folder.join(format!("faults-{}.so", std::process::id())), folder.join("faults.so"));
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
        .arg(&ours)
        .arg(source)
        .arg("-ldl")
        .stdin(Stdio::null())
        .status()
        .ok()?;
    assert!(built.success(), "cc is there and does not build tests/faults/shim.c");
    // Other processes may build it at the same time; a rename never shows half a file.
    fs::rename(&ours, &shared).expect("putting the library into its place");
    Some(shared)
}

/// What a disk does wrong while its trigger file is there; the letters are those of `shim.c`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFault {
    /// Syncs fail.
    Sync,
    /// Writes fail.
    Write,
    /// Writes fail for want of space.
    Full,
    /// Half a write is done, then it fails.
    Torn,
    /// Syncs take longer than an election.
    Slow,
    /// Syncs never return. The rounds do not draw it: a process that hangs for good looks like a dead one.
    #[allow(dead_code)]
    Frozen,
}

impl DiskFault {
    /// All that end the node.
    pub const DEADLY: [Self; 4] = [Self::Sync, Self::Write, Self::Full, Self::Torn];

    fn letter(self) -> &'static str {
        match self {
            Self::Sync => "s",
            Self::Write => "w",
            Self::Full => "f",
            Self::Torn => "t",
            Self::Slow => "d",
            Self::Frozen => "h",
        }
    }

    /// Begins it.
    pub fn begin(self, trigger: &Path) {
        // The rename makes the letter appear at once.
        let draft = trigger.with_extension("draft");
        fs::write(&draft, self.letter()).expect("writing a trigger");
        fs::rename(draft, trigger).expect("setting a trigger");
    }

    /// Ends whatever was begun.
    pub fn end(trigger: &Path) {
        _ = fs::remove_file(trigger);
    }
}

/// A small real disk, unmounted at the end.
pub struct SmallDisk {
    home: TempDir,
}

impl SmallDisk {
    /// A tmpfs; the caller has asked whether it may mount.
    pub fn of(megabytes: u64) -> Self {
        let home = tempfile::Builder::new().prefix("huskv-disk-").tempdir().expect("a folder to mount on");
        let size = format!("size={megabytes}m");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(home.path()).status();
        assert!(status.expect("mount").success(), "mounting a tmpfs");
        Self { home }
    }

    /// Where a node may live on it.
    pub fn data_dir(&self) -> PathBuf {
        self.home.path().join("volume")
    }

    /// Fills what is left to the last byte.
    pub fn fill(&self) {
        let mut file = File::create(self.home.path().join("filler")).expect("a file that fills the disk");
        for size in [1 << 16, 1 << 12, 1] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
    }

    /// Fills what is left but for so many megabytes, and never more than that.
    pub fn fill_but(&self, megabytes: u64) {
        let output = Command::new("stat").args(["-f", "-c", "%a %S"]).arg(self.home.path()).output().expect("stat");
        let text = String::from_utf8(output.stdout).expect("numbers");
        let free: u64 = text.split_whitespace().map(|number| number.parse::<u64>().expect("a number")).product();
        let mut left = free.saturating_sub(megabytes << 20);
        let mut file = File::create(self.home.path().join("filler")).expect("a file that fills the disk");
        // What the node writes meanwhile may leave less.
        while left > 0 && file.write_all(&vec![1; left.min(1 << 16) as usize]).is_ok() {
            left -= left.min(1 << 16);
        }
    }

    /// Gives the space back.
    pub fn give_back(&self) {
        _ = fs::remove_file(self.home.path().join("filler"));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, since a node that is being killed may still hold it.
        _ = Command::new("umount").arg("-l").arg(self.home.path()).status();
    }
}
