//! The trace of one seed: the events of the world and the drivers' own log lines, with virtual time.

use std::fmt::Arguments;
use std::sync::{Arc, Mutex};

use slog::{Discard, Drain, KV, Key, Logger, Never, OwnedKVList, Record, Serializer, o};

/// Where the lines of the trace go.
#[derive(Clone)]
pub enum Trace {
    Off,
    Stdout,
    Memory(Arc<Mutex<String>>),
}

impl Trace {
    /// Writes one line.
    pub fn line(&self, line: &str) {
        match self {
            Self::Off => {}
            Self::Stdout => println!("{line}"),
            Self::Memory(lines) => {
                let mut lines = lines.lock().expect("one thread");
                lines.push_str(line);
                lines.push('\n');
            }
        }
    }
}

/// Creates the logger of a node, whose lines go into the trace.
pub fn logger(node: usize, clock: Arc<Mutex<u64>>, trace: Trace) -> Logger {
    match trace {
        Trace::Off => Logger::root(Discard, o!()),
        trace => Logger::root(TraceDrain { trace, node, clock }.fuse(), o!()),
    }
}

struct TraceDrain {
    trace: Trace,
    node: usize,
    clock: Arc<Mutex<u64>>,
}

struct Values(String);

impl Serializer for Values {
    fn emit_arguments(&mut self, key: Key, value: &Arguments<'_>) -> slog::Result {
        self.0 = format!(", {key}: {value}{}", self.0);
        Ok(())
    }
}

impl Drain for TraceDrain {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), Never> {
        let mut values = Values(String::new());
        drop(record.kv().serialize(record, &mut values));
        let now = *self.clock.lock().expect("one thread");
        self.trace.line(&format!("{now:>8} n{} {}{}", self.node, record.msg(), values.0));
        Ok(())
    }
}
