//! Test cases: names, functions, and what they need of the machine.
//!
//! Why: this crate has a main of its own (see `Need`), so tests are listed by hand, with what they need.
//!
//! Invariants: a name is a plain sentence that must be true. A test that measures time runs alone: it takes a lock exclusively that all
//! others share, across processes, so it holds under `cargo test` (threads) and `cargo nextest run` (processes) alike.

use std::fs::File;
use std::path::Path;

use libtest_mimic::Trial;

use super::needs::Need;

/// One test.
pub struct Case {
    name: String,
    run: fn(),
    need: Option<Need>,
    alone: bool,
}

impl Case {
    /// A test of the module with this path.
    pub fn new(module: &str, name: &str, run: fn()) -> Self {
        let module = module.split_once("::").map_or(module, |(_, rest)| rest);
        Self { name: format!("{module}::{name}"), run, need: None, alone: false }
    }

    /// The machine must have this.
    pub fn needs(mut self, need: Need) -> Self {
        self.need = Some(need);
        self
    }

    /// It measures time.
    pub fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// For the test runner.
    pub fn trial(self) -> Trial {
        let Self { name, run, need, alone } = self;
        let told = name.clone();
        let trial = Trial::test(name, move || {
            let _name = FailedTestName(told);
            let _turn = turn(alone);
            run();
            Ok(())
        });
        match need.and_then(Need::missing) {
            Some(missing) => trial.with_ignored_flag(true).with_kind(missing),
            None => trial,
        }
    }
}

/// Prints the name of a failed test at the end of its output: concurrent tests share one stderr.
struct FailedTestName(String);

impl Drop for FailedTestName {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the test that failed above: {}", self.0);
        }
    }
}

/// Waits for this test's turn; it ends when the file is dropped.
fn turn(alone: bool) -> File {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cluster-turns.lock");
    let file = File::options().create(true).append(true).open(path).expect("the file of turns");
    let taken = if alone { file.lock() } else { file.lock_shared() };
    taken.expect("locking the file of turns");
    file
}

/// A [`Case`] for each function named.
macro_rules! cases {
    ($($name:ident $(.$how:ident($($need:expr)?))*),* $(,)?) => {
        /// The tests of this page.
        pub fn cases() -> Vec<$crate::harness::Case> {
            vec![$($crate::harness::Case::new(module_path!(), stringify!($name), $name)$(.$how($($need)?))*),*]
        }
    };
}
pub(crate) use cases;
