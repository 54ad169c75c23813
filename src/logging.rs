//! The log: one line for each event, on stderr.
//!
//! Why: it is what an operator has left when something went wrong, so its last lines must reach the terminal before the
//! process ends; and it must never hold up the node, so whoever logs hands the line to a thread and goes on.
//!
//! Laws: one event is one line: control characters in messages and values, which may come from strangers, are escaped
//! here, for every format (`Escaped`). This is the only file that names a drain. The queue is bounded: over it lines are dropped and counted, and the
//! count is logged. A log that nobody reads any more does not stop the node.
//!
//! Not here: what is logged.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use slog::{BorrowedKV, Drain, KV, Key, Level, LevelFilter, Logger, OwnedKVList, Record, RecordStatic, Serializer, o};

/// How many lines wait for stderr at most.
const QUEUE_LINES: usize = 4096;

/// How long [`Guard::flush`] waits for stderr to take the lines.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people; coloured where stderr is a terminal.
    Terminal,
    /// One JSON object a line, with `ts`, `level` and `msg`.
    Json,
}

impl Format {
    /// The format called `name`; anything but `json` is for people.
    #[must_use]
    pub fn named(name: &str) -> Self {
        if name == "json" { Self::Json } else { Self::Terminal }
    }
}

/// The level called `name` in the settings; anything unknown is info.
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

/// What makes sure that the last lines are written; clones share it.
#[derive(Clone)]
pub struct Guard(Arc<Mutex<Option<slog_async::AsyncGuard>>>);

impl Guard {
    /// Writes what was logged until now, for at most a second, and ends the log: lines after it are lost. Only the first
    /// call does anything. Safe to call from a panicking thread, and where nobody reads stderr.
    pub fn flush(&self) {
        let Some(inner) = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() else { return };
        let (done, wait) = sync_channel(1);
        // The guard's end waits for stderr without a bound, so it is waited for from here with one.
        let ending = std::thread::Builder::new().name("log-flush".into()).spawn(move || {
            drop(inner);
            done.send(()).ok();
        });
        if ending.is_ok() {
            wait.recv_timeout(FLUSH_LIMIT).ok();
        }
    }
}

/// Starts the log on stderr: lines of `level` and worse.
pub fn start(level: Level, format: Format) -> (Logger, Guard) {
    match format {
        Format::Terminal if io::stderr().is_terminal() => {
            root(lines(slog_term::TermDecorator::new().stderr().build()), level)
        }
        Format::Terminal => root(lines(slog_term::PlainDecorator::new(Whole::default())), level),
        Format::Json => root(slog_json::Json::new(Whole::default()).add_default_keys().set_flush(true).build(), level),
    }
}

fn lines<D: slog_term::Decorator>(decorator: D) -> slog_term::FullFormat<D> {
    slog_term::FullFormat::new(decorator).use_custom_timestamp(utc).use_original_order().build()
}

/// The logger for raft-rs, which has info lines for steps that only its developers care for: warnings and worse, unless
/// `level`, the one of the whole log, is debug or trace.
pub fn for_raft(log: &Logger, level: Level) -> Logger {
    let passes = if level.as_usize() >= Level::Debug.as_usize() { level } else { Level::Warning };
    Logger::root(LevelFilter::new(log.clone(), passes).ignore_res(), o!("from" => "raft"))
}

fn root(drain: impl Drain + Send + 'static, level: Level) -> (Logger, Guard) {
    let (queue, guard) = slog_async::Async::new(Escaped(drain).ignore_res())
        .chan_size(QUEUE_LINES)
        .overflow_strategy(slog_async::OverflowStrategy::DropAndReport)
        .thread_name("log".into())
        .build_with_guard();
    // The filter is outside, so that a line nobody wants costs no copy.
    let logger = Logger::root(LevelFilter::new(queue, level).ignore_res(), o!());
    (logger, Guard(Arc::new(Mutex::new(Some(guard)))))
}

/// The time as in RFC 3339, in UTC with milliseconds: logs of several machines are read side by side.
fn utc(out: &mut dyn Write) -> io::Result<()> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let (year, month, day) = civil(since.as_secs() / 86_400);
    let second = since.as_secs() % 86_400;
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    write!(out, "{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}.{:03}Z", second % 60, since.subsec_millis())
}

/// Year, month and day of a day counted from 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn civil(day: u64) -> (u64, u64, u64) {
    let shifted = day + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, of_year - (153 * shifted_month + 2) / 5 + 1)
}

/// Hands records on with what could forge a line, or take over a terminal, escaped.
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

/// The text, with control characters, line separators and marks that change the direction of writing escaped.
fn escaped(text: &fmt::Arguments<'_>) -> String {
    let forges = |c: char| {
        let separates = matches!(c, '\u{2028}' | '\u{2029}');
        c.is_control()
            || separates
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
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

/// The values of a record, with their texts escaped.
struct EscapedPairs<'a>(BorrowedKV<'a>);

impl KV for EscapedPairs<'_> {
    fn serialize(&self, record: &Record<'_>, serializer: &mut dyn Serializer) -> slog::Result {
        self.0.serialize(record, &mut EscapedValues(serializer))
    }
}

/// Passes numbers on as they are.
struct EscapedValues<'a>(&'a mut dyn Serializer);

/// What is no text needs no escapes.
macro_rules! as_they_are {
    ($($method:ident: $type:ty),*) => {
        $(fn $method(&mut self, key: Key, value: $type) -> slog::Result {
            self.0.$method(key, value)
        })*
    };
}

impl Serializer for EscapedValues<'_> {
    as_they_are!(emit_bool: bool, emit_u8: u8, emit_i8: i8, emit_u16: u16, emit_i16: i16, emit_u32: u32, emit_i32: i32);
    as_they_are!(emit_f32: f32, emit_f64: f64, emit_u64: u64, emit_i64: i64, emit_u128: u128, emit_i128: i128);
    as_they_are!(emit_usize: usize, emit_isize: isize);

    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        self.0.emit_str(key, &escaped(value))
    }
}

/// Stderr in whole lines, so that two writers cannot mix within one.
#[derive(Default)]
struct Whole(Vec<u8>);

impl Write for Whole {
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

    /// A drain that keeps the messages.
    struct Kept(Arc<Mutex<Vec<String>>>);

    impl Drain for Kept {
        type Ok = ();
        type Err = slog::Never;
        fn log(&self, record: &slog::Record<'_>, _: &slog::OwnedKVList) -> Result<(), slog::Never> {
            self.0.lock().unwrap().push(record.msg().to_string());
            Ok(())
        }
    }

    fn messages(level: Level, write: impl FnOnce(&Logger)) -> Vec<String> {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let (log, guard) = root(Kept(kept.clone()), level);
        write(&log);
        guard.flush();
        guard.flush();
        std::mem::take(&mut *kept.lock().unwrap())
    }

    #[test]
    fn a_flush_writes_what_was_logged_and_the_level_filters() {
        let got = messages(Level::Info, |log| {
            debug!(log, "no");
            info!(log, "yes");
        });
        assert_eq!(got, ["yes"]);
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
    fn what_a_stranger_says_forges_no_line_in_any_format() {
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
            assert!(line.contains("all is well") && line.contains("u{1b}[2J"), "it is still to be read: {line}");
            let number = if format == Format::Json { "\"number\":7" } else { "number: 7" };
            assert!(line.contains(number), "{line}");
        }
    }

    #[test]
    fn raft_is_quiet_unless_asked() {
        let say = |log: &Logger| {
            info!(log, "step");
            warn!(log, "odd");
        };
        assert_eq!(messages(Level::Info, |log| say(&for_raft(log, Level::Info))), ["odd"]);
        assert_eq!(messages(Level::Debug, |log| say(&for_raft(log, Level::Debug))), ["step", "odd"]);
        assert_eq!(messages(Level::Error, |log| say(&for_raft(log, Level::Error))), Vec::<String>::new());
    }

    #[test]
    fn days_become_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(20_453), (2025, 12, 31));
        assert_eq!(civil(20_454), (2026, 1, 1));
    }

    #[test]
    fn names_of_the_settings_are_understood() {
        assert_eq!(level_named("warn"), Level::Warning);
        assert_eq!(level_named("trace"), Level::Trace);
        assert_eq!(Format::named("json"), Format::Json);
    }
}
