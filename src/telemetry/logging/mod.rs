//! The log on stderr: one line per event.
//!
//! Why: the log is what an operator has left after a failure, so its last lines must reach stderr before the process
//! ends; and it must never block the node, so lines go through a queue to a thread.
//!
//! Invariants: one event is one line: control characters in messages and values, which may come from unauthenticated
//! peers, are escaped here for every format (`Escaped`). This is the only file that names a `Drain` (slog's word for an output).
//! The queue is bounded: beyond the bound lines are dropped, and their number is logged. A closed stderr does not stop the node.
//!
//! See also: [`LogLimit`] for lines that could come by the thousand, [`LineFile`] for a record besides the log.

mod line_file;
mod log_limit;

pub use line_file::{LineFile, OpenedFile, Room};
pub use log_limit::{LogLimit, LogLimits};

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use slog::{BorrowedKV, Drain, KV, Key, Level, Logger, OwnedKVList, Record, RecordStatic, Serializer, o};

/// The maximum number of lines in the queue.
const QUEUE_LINES: usize = 4096;

/// How long [`Guard::flush`] waits until the lines are written.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// The format of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Text, coloured where stderr is a terminal.
    Terminal,
    /// One JSON object a line, with `ts`, `level` and `msg`.
    Json,
}

impl Format {
    /// Returns the format called `name`; anything but `json` is text.
    #[must_use]
    pub fn named(name: &str) -> Self {
        if name == "json" { Self::Json } else { Self::Terminal }
    }
}

/// Returns the level called `name` in the settings; an unknown one is info.
#[must_use]
pub fn level_named(name: &str) -> Level {
    match name {
        "critical" => Level::Critical,
        "error" => Level::Error,
        "warning" | "warn" => Level::Warning,
        "debug" => Level::Debug,
        "trace" => Level::Trace,
        _ => Level::Info,
    }
}

/// The handle that flushes the log before the process ends, and changes its level; clones share it.
#[derive(Clone)]
pub struct Guard {
    queue: Arc<Mutex<Option<slog_async::AsyncGuard>>>,
    level: Threshold,
    files: Arc<Mutex<Vec<LineFile>>>,
}

/// The least severe level that passes, which can change.
#[derive(Clone)]
struct Threshold(Arc<AtomicUsize>);

impl Threshold {
    fn passes(&self, level: Level) -> bool {
        level.as_usize() <= self.0.load(Ordering::Relaxed)
    }
}

impl Guard {
    /// Writes the queued lines, also those of the attached files, for at most a second, and ends the log: later lines are lost.
    /// Only the first call has an effect. Safe to call from a panicking thread, and while stderr blocks.
    pub fn flush(&self) {
        let Some(inner) = self.queue.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let (done, wait) = sync_channel(1);
        // Dropping the guard waits for stderr without a bound, so a thread does it and this one waits with a bound.
        let files = std::mem::take(&mut *self.files.lock().unwrap_or_else(PoisonError::into_inner));
        let ending = std::thread::Builder::new().name("log-flush".into()).spawn(move || {
            // Before the log ends, which says what they could not write.
            files.iter().for_each(|file| file.flush(FLUSH_LIMIT / 2));
            drop(inner);
            done.send(()).ok();
        });
        if ending.is_ok() {
            wait.recv_timeout(FLUSH_LIMIT).ok();
        }
    }

    /// Flushes `file` with the log.
    pub fn attach(&self, file: LineFile) {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).push(file);
    }

    /// Logs lines of `level` and more severe ones from now on.
    pub fn set_level(&self, level: Level) {
        self.level.0.store(level.as_usize(), Ordering::Relaxed);
    }
}

/// Starts the log on stderr, with lines of `level` and more severe ones.
pub fn start(level: Level, format: Format) -> (Logger, Guard) {
    match format {
        Format::Terminal if io::stderr().is_terminal() => {
            root(lines(slog_term::TermDecorator::new().stderr().build()), level)
        }
        // A file or a pipe: no colours, and several processes may share it.
        Format::Terminal => root(lines(slog_term::PlainDecorator::new(WholeLines::default())), level),
        Format::Json => {
            root(slog_json::Json::new(WholeLines::default()).add_default_keys().set_flush(true).build(), level)
        }
    }
}

fn lines<D: slog_term::Decorator>(decorator: D) -> slog_term::FullFormat<D> {
    slog_term::FullFormat::new(decorator).use_custom_timestamp(utc).use_original_order().build()
}

/// Returns the logger for raft-rs, whose info lines are for its developers: only warnings and more severe ones, unless the level
/// of the whole log is debug or trace.
pub fn for_raft(log: &Logger, guard: &Guard) -> Logger {
    let whole = guard.level.clone();
    let passes = move |level: Level| {
        if whole.passes(Level::Debug) { whole.passes(level) } else { level.is_at_least(Level::Warning) }
    };
    Logger::root(Filtered { drain: log.clone(), passes }.ignore_res(), o!("from" => "raft"))
}

fn root(drain: impl Drain + Send + 'static, level: Level) -> (Logger, Guard) {
    let (queue, guard) = slog_async::Async::new(Escaped(drain).ignore_res())
        .chan_size(QUEUE_LINES)
        .overflow_strategy(slog_async::OverflowStrategy::DropAndReport)
        .thread_name("log".into())
        .build_with_guard();
    let level = Threshold(Arc::new(AtomicUsize::new(level.as_usize())));
    let threshold = level.clone();
    // The filter is in front of the queue, so that a line below the level is not copied.
    let filtered = Filtered { drain: queue, passes: move |level| threshold.passes(level) };
    (
        Logger::root(filtered.ignore_res(), o!()),
        Guard { queue: Arc::new(Mutex::new(Some(guard))), level, files: Arc::default() },
    )
}

/// A drain that takes the records of those levels that pass at present.
struct Filtered<D, F> {
    drain: D,
    passes: F,
}

impl<D: Drain, F: Fn(Level) -> bool> Drain for Filtered<D, F> {
    type Ok = Option<D::Ok>;
    type Err = D::Err;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<Self::Ok, D::Err> {
        if (self.passes)(record.level()) { self.drain.log(record, values).map(Some) } else { Ok(None) }
    }

    fn is_enabled(&self, level: Level) -> bool {
        (self.passes)(level) && self.drain.is_enabled(level)
    }
}

/// Writes the time as in RFC 3339, in UTC with milliseconds: logs of several machines are read side by side.
fn utc(out: &mut dyn Write) -> io::Result<()> {
    // The formatter panics before 1970, where a machine without a battery may start.
    let now = SystemTime::now().max(SystemTime::UNIX_EPOCH);
    write!(out, "{}", humantime::format_rfc3339_millis(now))
}

/// A drain that escapes what could forge a line or steer a terminal.
struct Escaped<D>(D);

impl<D: Drain> Drain for Escaped<D> {
    type Ok = D::Ok;
    type Err = D::Err;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<D::Ok, D::Err> {
        let fixed = RecordStatic { location: record.location(), tag: record.tag(), level: record.level() };
        let message = escaped(record.msg());
        let pairs = EscapedPairs(record.kv());
        self.0.log(&Record::new(&fixed, &format_args!("{message}"), BorrowedKV(&pairs)), values)
    }
}

/// Whether a character can forge a line or steer a terminal.
#[must_use]
pub fn forges(c: char) -> bool {
    let separates = matches!(c, '\u{2028}' | '\u{2029}');
    c.is_control()
        || separates
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Escapes control characters, line separators and marks that change the direction of writing.
fn escaped(text: &fmt::Arguments<'_>) -> String {
    let text = text.to_string();
    if !text.contains(forges) {
        return text;
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if forges(c) { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    safe
}

/// The key-value pairs of a record, with their texts escaped.
struct EscapedPairs<'a>(BorrowedKV<'a>);

impl KV for EscapedPairs<'_> {
    fn serialize(&self, record: &Record<'_>, serializer: &mut dyn Serializer) -> slog::Result {
        self.0.serialize(record, &mut EscapedValues(serializer))
    }
}

/// A serializer that escapes texts and passes numbers through.
struct EscapedValues<'a>(&'a mut dyn Serializer);

/// Numbers and booleans need no escapes.
macro_rules! pass_through {
    ($($method:ident: $type:ty),*) => {
        $(fn $method(&mut self, key: Key, value: $type) -> slog::Result {
            self.0.$method(key, value)
        })*
    };
}

impl Serializer for EscapedValues<'_> {
    pass_through!(emit_bool: bool, emit_u8: u8, emit_i8: i8, emit_u16: u16, emit_i16: i16, emit_u32: u32, emit_i32: i32);
    pass_through!(emit_f32: f32, emit_f64: f64, emit_u64: u64, emit_i64: i64, emit_u128: u128, emit_i128: i128);
    pass_through!(emit_usize: usize, emit_isize: isize);

    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        self.0.emit_str(key, &escaped(value))
    }
}

/// Stderr with a write per line, so that lines of two processes do not mix.
#[derive(Default)]
struct WholeLines(Vec<u8>);

impl Write for WholeLines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = io::stderr().write_all(&self.0);
        self.0.clear();
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slog::{debug, info, warn};

    /// A drain that records the messages.
    struct Recorded(Arc<Mutex<Vec<String>>>);

    impl Drain for Recorded {
        type Ok = ();
        type Err = slog::Never;
        fn log(&self, record: &slog::Record<'_>, _: &slog::OwnedKVList) -> Result<(), slog::Never> {
            self.0.lock().unwrap().push(record.msg().to_string());
            Ok(())
        }
    }

    fn messages(level: Level, write: impl FnOnce(&Logger, &Guard)) -> Vec<String> {
        let recorded = Arc::new(Mutex::new(Vec::new()));
        let (log, guard) = root(Recorded(recorded.clone()), level);
        write(&log, &guard);
        guard.flush();
        guard.flush();
        std::mem::take(&mut *recorded.lock().unwrap())
    }

    #[test]
    fn a_flush_writes_what_was_logged_and_the_level_filters() {
        let got = messages(Level::Info, |log, _| {
            debug!(log, "no");
            info!(log, "yes");
        });
        assert_eq!(got, ["yes"]);
    }

    #[test]
    fn the_level_can_change_for_the_log_and_for_raft() {
        let got = messages(Level::Info, |log, guard| {
            let raft = for_raft(log, guard);
            let write = |text: &str| {
                debug!(log, "{}", text);
                info!(raft, "raft {}", text);
            };
            write("first");
            guard.set_level(Level::Debug);
            write("second");
            guard.set_level(Level::Error);
            write("third");
            warn!(raft, "third");
        });
        assert_eq!(got, ["second", "raft second"]);
    }

    /// Bytes that a drain has written.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn texts_of_peers_cannot_forge_a_line_in_any_format() {
        let forged = "n1\nNov 28 12:00:00.000 INFO all is well\r\u{1b}[2J\u{7}\u{202e}\u{2028}\u{9b}31m";
        for format in [Format::Terminal, Format::Json] {
            let written = Written::default();
            let (log, guard) = match format {
                Format::Terminal => root(lines(slog_term::PlainDecorator::new(written.clone())), Level::Info),
                Format::Json => root(slog_json::Json::default(written.clone()), Level::Info),
            };
            warn!(log, "peer {}", forged; "name" => forged, "shown" => %forged, "number" => 7_u64, "other" => ?forged);
            guard.flush();
            let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
            assert_eq!(text.lines().count(), 1, "{text}");
            let line = text.trim_end_matches('\n');
            assert!(!line.contains(|c: char| c.is_control() || "\u{202e}\u{2028}".contains(c)), "{line:?}");
            assert!(line.contains("all is well") && line.contains("u{1b}[2J"), "the text is still readable: {line}");
            let number = if format == Format::Json { "\"number\":7" } else { "number: 7" };
            assert!(line.contains(number), "{line}");
        }
    }

    #[test]
    fn raft_is_quiet_unless_asked() {
        let write = |log: &Logger, guard: &Guard| {
            let log = for_raft(log, guard);
            info!(log, "step");
            warn!(log, "odd");
        };
        assert_eq!(messages(Level::Info, write), ["odd"]);
        assert_eq!(messages(Level::Debug, write), ["step", "odd"]);
        assert_eq!(messages(Level::Error, write), Vec::<String>::new());
    }

    #[test]
    fn a_line_begins_with_the_time_in_utc() {
        let mut out = Vec::new();
        utc(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!((text.len(), &text[10..11], &text[23..]), (24, "T", "Z"), "{text}");
        assert!(humantime::parse_rfc3339(&text).is_ok(), "{text}");
    }

    #[test]
    fn names_of_the_settings_are_understood() {
        assert_eq!(level_named("warn"), Level::Warning);
        assert_eq!(level_named("trace"), Level::Trace);
        assert_eq!(Format::named("json"), Format::Json);
    }
}
