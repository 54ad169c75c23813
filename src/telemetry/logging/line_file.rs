//! A file of lines that a thread appends to, for a record that must not lose one silently.
//!
//! Why: the tasks that have a line to write serve clients, and must not wait for a disk; a line that was taken must be written, or the
//! file must say that some are missing.
//!
//! ```text
//!   push --(8 MiB, 16384 lines)--> queue --> thread "audit" --write--> file       switch: another file, at once
//!     `--full: count-----------------------> a line with the number, once lines are written again
//! ```
//!
//! Invariants: lines are written whole and in the order in which they were taken, as soon as the thread can; nothing is synced. A failed
//! write is tried again every second from the byte where it failed, and meanwhile lines wait in the queue. What finds no room there is
//! counted. Lines that a client can cause without a right take at most half of the room. In another file a line begins anew.
//!
//! Example: the disk is full after half a line. The other half follows when there is space. If the file was switched by then, the whole
//! line is written to the new one, and the old one ends with half a line.
//!
//! See also: [`crate::http::Audit`], which makes the lines.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use slog::{Logger, info, warn};

use super::LogLimit;

/// The room of the queue.
const QUEUE_LINES: usize = 16_384;
const QUEUE_BYTES: usize = 8 << 20;
/// The bytes that one write has at most, a longer line aside.
const WRITE_BYTES: usize = 64 << 10;
/// The time between two tries of a failed write.
const RETRY: Duration = Duration::from_secs(1);
/// The interval at which a failure that lasts is logged again, in milliseconds.
const REPEAT_MS: u64 = 60_000;
/// The permissions of a new file.
const MODE: u32 = 0o600;

/// How much of the queue a line may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// All of it.
    All,
    /// Half of it, so that a flood of such lines leaves the rest to others.
    Half,
}

/// An opened file.
#[derive(Debug)]
pub struct OpenedFile {
    file: File,
    path: PathBuf,
    /// Whether its last line has no end, because a process or a disk broke off in it.
    ends_in_line: bool,
}

/// Makes the line that says how many are missing.
type MissingLine = Box<dyn Fn(u64) -> String + Send + Sync>;

/// A file of lines; clones share it. Without a file it takes no line.
#[derive(Clone)]
pub struct LineFile(Arc<Shared>);

struct Shared {
    has_file: AtomicBool,
    state: Mutex<State>,
    /// Notified when the thread has something to do.
    work: Condvar,
    /// Notified when everything is written.
    done: Condvar,
    missing_line: MissingLine,
    log: Logger,
}

#[derive(Default)]
struct State {
    queue: VecDeque<String>,
    bytes: usize,
    /// Lines without room since the last line that counts them.
    missing: u64,
    file: Option<Arc<OpenedFile>>,
    has_thread: bool,
    is_done: bool,
}

impl OpenedFile {
    /// Opens `path` for appending. A new file has mode 0600.
    ///
    /// # Errors
    /// Where it cannot be opened, or is no regular file.
    pub fn open(path: &Path) -> io::Result<Self> {
        // Opening a pipe would wait for its reader.
        if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(io::Error::new(ErrorKind::InvalidInput, "it is no regular file"));
        }
        let file = OpenOptions::new().read(true).append(true).create(true).mode(MODE).open(path)?;
        let mut last = [b'\n'];
        if let Some(at) = file.metadata()?.len().checked_sub(1) {
            file.read_exact_at(&mut last, at)?;
        }
        Ok(Self { file, path: path.to_owned(), ends_in_line: last != [b'\n'] })
    }

    /// Reads its first byte; None where it is empty.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn first_byte(&self) -> io::Result<Option<u8>> {
        let mut first = [0];
        Ok((self.file.read_at(&mut first, 0)? > 0).then_some(first[0]))
    }
}

impl LineFile {
    /// Returns one without a file. `missing_line` makes the line, without its end, that says how many are missing.
    pub fn new(log: Logger, missing_line: impl Fn(u64) -> String + Send + Sync + 'static) -> Self {
        Self(Arc::new(Shared {
            has_file: AtomicBool::new(false),
            state: Mutex::new(State { is_done: true, ..State::default() }),
            work: Condvar::new(),
            done: Condvar::new(),
            missing_line: Box::new(missing_line),
            log,
        }))
    }

    /// Whether lines are taken.
    #[must_use]
    pub fn has_file(&self) -> bool {
        self.0.has_file.load(Ordering::Relaxed)
    }

    /// Uses another file, or none, for the lines that are not written yet and all later ones.
    ///
    /// # Errors
    /// Where the thread cannot be started; nothing has changed.
    pub fn switch(&self, file: Option<OpenedFile>) -> io::Result<()> {
        let mut state = self.0.lock();
        if !state.has_thread && file.is_some() {
            let shared = Arc::clone(&self.0);
            std::thread::Builder::new().name("audit".into()).spawn(move || Writer::default().run(&shared))?;
            state.has_thread = true;
        }
        self.0.has_file.store(file.is_some(), Ordering::Relaxed);
        state.file = file.map(Arc::new);
        drop(state);
        self.0.work.notify_all();
        Ok(())
    }

    /// Opens the file in use again, which may have been moved away.
    ///
    /// # Errors
    /// Where it cannot be opened; the one that is open stays in use.
    pub fn reopen(&self) -> io::Result<()> {
        let path = self.0.lock().file.as_ref().map(|file| file.path.clone());
        path.map_or(Ok(()), |path| self.switch(Some(OpenedFile::open(&path)?)))
    }

    /// Takes a line, without its end, or counts it where there is no room. It never waits for the disk.
    pub fn push(&self, mut line: String, room: Room) {
        line.push('\n');
        let divisor = if room == Room::Half { 2 } else { 1 };
        let mut state = self.0.lock();
        if state.file.is_none() {
            return;
        }
        state.is_done = false;
        if state.queue.len() < QUEUE_LINES / divisor && state.bytes + line.len() <= QUEUE_BYTES / divisor {
            state.bytes += line.len();
            state.queue.push_back(line);
        } else {
            state.missing += 1;
        }
        drop(state);
        self.0.work.notify_all();
    }

    /// Counts a line that is not to be written; the file says how many there were.
    pub fn leave_out(&self) {
        let mut state = self.0.lock();
        if state.file.is_some() {
            state.missing += 1;
            state.is_done = false;
            drop(state);
            self.0.work.notify_all();
        }
    }

    /// Waits until all lines are written, for at most `limit`, and logs how many are not.
    pub fn flush(&self, limit: Duration) {
        let state = self.0.lock();
        let waited = self.0.done.wait_timeout_while(state, limit, |state| !state.is_done);
        let (state, result) = waited.unwrap_or_else(PoisonError::into_inner);
        if result.timed_out() {
            warn!(self.0.log, "lines of the audit file are not written and are lost with the process";
                "at_least" => state.queue.len() as u64 + state.missing);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the thread has taken from the queue.
#[derive(Default)]
struct Writer {
    lines: Vec<u8>,
    /// How many of these bytes are written.
    written: usize,
    /// The file that they are written to.
    file: Option<Arc<OpenedFile>>,
    /// Since when writes fail, and the limit of the log line about it.
    failing: Option<(Instant, LogLimit)>,
}

impl Writer {
    /// Writes lines for as long as the process runs.
    fn run(mut self, shared: &Shared) {
        loop {
            let file = self.take(shared);
            self.use_file(file);
            let Some(file) = self.file.clone() else {
                // Switched off: what the last file did not take has no place any more.
                self.lines.clear();
                self.written = 0;
                continue;
            };
            match (&file.file).write(&self.lines[self.written..]) {
                Ok(0) => self.failed(&ErrorKind::WriteZero.into(), &file, shared),
                Ok(bytes) => {
                    self.written += bytes;
                    if self.failing.take().is_some() {
                        info!(shared.log, "the audit file is written again"; "file" => file.path.display().to_string());
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => self.failed(&error, &file, shared),
            }
        }
    }

    /// Waits for lines, and takes as many as one write may have; returns the present file.
    fn take(&mut self, shared: &Shared) -> Option<Arc<OpenedFile>> {
        let mut state = shared.lock();
        if self.written < self.lines.len() {
            return state.file.clone();
        }
        self.lines.clear();
        self.written = 0;
        while state.queue.is_empty() && state.missing == 0 {
            state.is_done = true;
            shared.done.notify_all();
            state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        // Before the lines that wait, the first of which was taken before any was missing: they are missing about here.
        if state.missing > 0 {
            self.lines.extend_from_slice((shared.missing_line)(std::mem::take(&mut state.missing)).as_bytes());
            self.lines.push(b'\n');
        }
        while self.lines.len() < WRITE_BYTES
            && let Some(line) = state.queue.pop_front()
        {
            state.bytes -= line.len();
            self.lines.extend_from_slice(line.as_bytes());
        }
        state.file.clone()
    }

    /// Goes on with `file`. In another one than before, a line that is half written begins anew.
    fn use_file(&mut self, file: Option<Arc<OpenedFile>>) {
        let is_same = match (&self.file, &file) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (old, new) => old.is_none() && new.is_none(),
        };
        if is_same {
            return;
        }
        let whole = self.lines[..self.written].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        self.lines.drain(..whole);
        self.written = 0;
        if file.as_ref().is_some_and(|file| file.ends_in_line) {
            self.lines.insert(0, b'\n');
        }
        self.file = file;
    }

    /// Logs a failed write, and waits until it is worth another try.
    fn failed(&mut self, error: &io::Error, file: &OpenedFile, shared: &Shared) {
        let (since, limit) = self.failing.get_or_insert_with(|| (Instant::now(), LogLimit::default()));
        let now = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let state = shared.lock();
        if limit.every(REPEAT_MS, now).is_some() {
            warn!(shared.log, "the audit file cannot be written; lines wait, and are counted where there is no room";
                "file" => file.path.display().to_string(), "error" => %error, "waiting" => state.queue.len(),
                "missing" => state.missing);
        }
        // Each new line wakes this thread, so it waits for the time or for another file.
        let is_present = |state: &mut State| state.file.as_ref().is_some_and(|present| std::ptr::eq(&**present, file));
        drop(shared.work.wait_timeout_while(state, RETRY, is_present));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn lines() -> LineFile {
        LineFile::new(Logger::root(slog::Discard, slog::o!()), |missing| format!("missing {missing}"))
    }

    fn flushed(lines: &LineFile, path: &Path) -> String {
        lines.flush(Duration::from_secs(20));
        assert!(lines.0.lock().is_done, "the lines are written");
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn lines_are_appended_to_a_private_file_and_go_to_another_one_after_a_switch() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let lines = lines();
        lines.push("lost: there is no file".into(), Room::All);
        assert!(!lines.has_file());
        fs::write(path("a"), "whole\nhalf a li").unwrap();
        lines.switch(Some(OpenedFile::open(&path("a")).unwrap())).unwrap();
        lines.push("one".into(), Room::All);
        lines.push("two".into(), Room::Half);
        assert_eq!(flushed(&lines, &path("a")), "whole\nhalf a li\none\ntwo\n");
        // As logrotate does it.
        fs::rename(path("a"), path("a.1")).unwrap();
        lines.push("three".into(), Room::All);
        assert!(flushed(&lines, &path("a.1")).ends_with("two\nthree\n"), "the file that is open");
        lines.switch(Some(OpenedFile::open(&path("a")).unwrap())).unwrap();
        lines.push("four".into(), Room::All);
        assert_eq!(flushed(&lines, &path("a")), "four\n");
        assert_eq!(fs::metadata(path("a")).unwrap().permissions().mode() & 0o7777, 0o600);
        lines.switch(None).unwrap();
        lines.push("five".into(), Room::All);
        assert_eq!(flushed(&lines, &path("a")), "four\n");
    }

    #[test]
    fn what_cannot_be_opened_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(OpenedFile::open(folder.path()).unwrap_err().to_string().contains("no regular file"));
        assert!(OpenedFile::open(&folder.path().join("no/such")).is_err());
    }

    #[test]
    fn lines_wait_while_the_disk_is_full_and_what_finds_no_room_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let lines = lines();
        // Every write to this device fails, for want of space.
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        lines.switch(Some(OpenedFile { file: full, path: "/dev/full".into(), ends_in_line: false })).unwrap();
        let flood = QUEUE_LINES + 10;
        (0..flood).for_each(|number| lines.push(format!("denied {number}"), Room::Half));
        (0..flood).for_each(|number| lines.push(format!("write {number}"), Room::All));
        lines.flush(Duration::from_millis(10));
        let path = folder.path().join("a");
        lines.switch(Some(OpenedFile::open(&path).unwrap())).unwrap();
        let text = flushed(&lines, &path);
        let count = |word: &str| text.lines().filter(|line| line.starts_with(word)).count();
        let missing: usize = text.lines().filter_map(|line| line.strip_prefix("missing ")?.parse::<usize>().ok()).sum();
        assert_eq!(count("denied") + count("write") + missing, 2 * flood);
        assert!(missing > 0 && text.contains("denied 0\n"), "{missing}");
        assert!(count("write") >= QUEUE_LINES / 2, "a flood of denials leaves half to writes: {}", count("write"));
        lines.push("after".into(), Room::All);
        assert!(flushed(&lines, &path).ends_with("\nafter\n"));
    }

    #[test]
    fn half_a_line_begins_anew_in_another_file() {
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str| Some(Arc::new(OpenedFile::open(&folder.path().join(name)).unwrap()));
        let (first, second) = (open("a"), open("b"));
        let mut writer = Writer::default();
        writer.use_file(first.clone());
        writer.lines = b"one\ntwo\nthree\n".to_vec();
        writer.written = 6;
        writer.use_file(first);
        assert_eq!((writer.written, writer.lines.len()), (6, 14), "the same file goes on");
        writer.use_file(second);
        assert_eq!((writer.written, &writer.lines[..]), (0, &b"two\nthree\n"[..]));
    }
}
