//! Whether a shell has printed what a page shows.

use serde_json::Value;

/// Headers whose values differ from run to run.
const VARIABLE: &[&str] = &["date: ", "x-huskv-cluster: "];

/// Says which line of `shown` is not in `printed`, in this order. `...` in a line of text stands for anything.
pub fn compare(shown: &str, printed: &str) -> Result<(), String> {
    let mut lines = printed.lines();
    for line in shown.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
        if !lines.any(|candidate| same(line, candidate.trim_end())) {
            return Err(format!("not printed: {line}"));
        }
    }
    Ok(())
}

fn same(shown: &str, printed: &str) -> bool {
    if let (Ok(shown), Ok(printed)) = (serde_json::from_str(shown), serde_json::from_str(printed)) {
        return includes(&printed, &shown);
    }
    let variable = VARIABLE.iter().any(|header| shown.starts_with(header) && printed.starts_with(header));
    variable || fills(shown, printed)
}

/// Whether `printed` is `shown` with something in place of each `...`.
fn fills(shown: &str, printed: &str) -> bool {
    let Some((first, rest)) = shown.split_once("...") else { return shown == printed };
    let Some(mut printed) = printed.strip_prefix(first) else { return false };
    let mut sections = rest.split("...").peekable();
    while let Some(section) = sections.next() {
        if sections.peek().is_none() {
            return printed.ends_with(section);
        }
        let Some(at) = printed.find(section) else { return false };
        printed = &printed[at + section.len()..];
    }
    true
}

/// Whether `whole` is `part`, with more members in its objects at most.
fn includes(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(name, part)| whole.get(name).is_some_and(|whole| includes(whole, part)))
        }
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len() && whole.iter().zip(part).all(|(whole, part)| includes(whole, part))
        }
        _ => whole == part,
    }
}
