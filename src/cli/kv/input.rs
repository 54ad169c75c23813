//! Input from stdin or a file: values and transactions.
//!
//! Invariants: at most 64 MiB are read, more than any node accepts.

use std::fs::File;
use std::io::{self, Read};

const MAX_BYTES: u64 = 64 << 20;

/// Reads all of stdin.
pub(crate) fn stdin() -> Result<Vec<u8>, String> {
    read_all("stdin", io::stdin().lock())
}

/// Reads all of the file `path`; stdin where it is `-`.
pub(crate) fn file(path: &str) -> Result<Vec<u8>, String> {
    if path == "-" {
        return stdin();
    }
    read_all(path, File::open(path).map_err(|error| format!("cannot read {path:?}: {error}"))?)
}

fn read_all(name: &str, from: impl Read) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    from.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| format!("cannot read {name:?}: {error}"))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("{name} has over {MAX_BYTES} bytes, more than any node takes"));
    }
    Ok(bytes)
}
