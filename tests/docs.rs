//! Documents as files: lengths, links, named files, and command lines, each of which a test must run.
//!
//! Why: a page that no test compares with the tree is wrong after the third change.
//!
//! See also: `tests/cluster/docs`, which runs the pages' sessions on real nodes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

// Directives are for the sessions.
#[allow(dead_code)]
#[path = "support/page.rs"]
mod page;

use page::{Section, pages, root, sections};

/// The maximum number of lines of the README.
const MAX_README: usize = 250;

/// The maximum number of lines of any other page.
const MAX_PAGE: usize = 499;

/// Reads every page: its path from the root, and its text.
fn read() -> Vec<(String, String)> {
    let name = |path: &Path| path.strip_prefix(root()).expect("below the root").display().to_string();
    pages().iter().map(|path| (name(path), fs::read_to_string(path).expect("UTF-8"))).collect()
}

/// Converts a heading to the anchor that GitHub gives it.
fn anchor(heading: &str) -> String {
    let characters = heading.trim().chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    characters.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    let mut inside = false;
    let mut found = BTreeSet::new();
    for line in text.lines() {
        inside ^= line.starts_with("```");
        if let Some(heading) = line.strip_prefix('#').filter(|_| !inside) {
            found.insert(anchor(heading.trim_start_matches('#')));
        }
    }
    found
}

/// The targets of a page's links, outside of code blocks.
fn links(text: &str) -> Vec<String> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in text.lines() {
        inside ^= line.starts_with("```");
        for (at, _) in line.match_indices("](").filter(|_| !inside) {
            let target = line[at + 2..].split(')').next().unwrap_or_default();
            found.push(target.to_owned());
        }
    }
    found
}

#[test]
fn pages_are_short_enough_to_be_read() {
    for (name, text) in read() {
        let most = if name == "README.md" { MAX_README } else { MAX_PAGE };
        assert!(text.lines().count() <= most, "{name}: {} lines, at most {most}", text.lines().count());
    }
}

#[test]
fn links_lead_to_files_and_headings_that_exist() {
    assert_eq!(anchor(" The `huskv` client, in short"), "the-huskv-client-in-short");
    for (name, text) in read() {
        for link in links(&text).iter().filter(|link| !link.contains("://")) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => root().join(&name),
                file => root().join(&name).parent().expect("a file has a folder").join(file),
            };
            assert!(target.exists(), "{name}: {link}");
            if !heading.is_empty() {
                let target = fs::read_to_string(&target).expect("UTF-8");
                assert!(anchors(&target).contains(heading), "{name}: no heading for {link}");
            }
        }
    }
}

#[test]
fn files_that_the_prose_names_exist() {
    for (name, text) in read() {
        // Every second part is between backticks.
        for span in text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)) {
            let path = span.split_whitespace().next().unwrap_or_default();
            let folders = ["src/", "tests/", "scripts/", "docs/", "config/", "fuzz/", "benches/", "examples/"];
            if folders.iter().any(|folder| path.starts_with(folder)) {
                let beside = ["", ".rs", ".md"].map(|ending| root().join(format!("{path}{ending}")));
                assert!(beside.iter().any(|file| file.exists()), "{name}: {path}");
            }
        }
    }
}

#[test]
fn the_planted_bugs_of_the_table_are_those_of_the_source() {
    let page = fs::read_to_string(root().join("docs/testing.md")).expect("UTF-8");
    let plants = fs::read_to_string(root().join("src/plant.rs")).expect("UTF-8");
    let rows = page.lines().filter(|line| line.contains("| simulator |") || line.contains("| a scenario |"));
    let named: BTreeSet<&str> = rows.filter_map(|row| row.split('`').nth(1)).collect();
    // Each is named in a pair with its variant: `("ack-before-sync", Self::AckBeforeSync)`.
    let pairs = plants.split("(\"").skip(1).filter(|rest| rest.contains("\", Self::"));
    let known: BTreeSet<&str> =
        pairs.filter_map(|rest| rest.split('"').next()).filter(|name| name.contains('-')).collect();
    assert!(known.len() > 20, "{known:?}");
    assert_eq!(named, known);
}

#[test]
fn every_page_is_linked_from_the_readme() {
    let readme = fs::read_to_string(root().join("README.md")).expect("UTF-8");
    for (name, _) in read().iter().filter(|(name, _)| name != "README.md") {
        assert!(links(&readme).contains(name), "README.md has no link to {name}");
    }
}

#[test]
fn each_alert_has_its_section_of_the_runbook_and_each_section_its_alert() {
    let file = |name: &str| fs::read_to_string(root().join(name)).expect("UTF-8");
    let (rules, page, table) =
        (file("config/monitoring/alerts.yml"), file("docs/operations.md"), file("docs/monitoring.md"));
    let all = |key: &str| -> Vec<String> {
        rules.lines().filter_map(|line| line.trim().strip_prefix(key)).map(str::to_owned).collect()
    };
    let (alerts, urls) = (all("- alert: "), all("runbook_url: "));
    assert!(alerts.len() > 15, "{alerts:?}");
    let expected: Vec<String> = alerts.iter().map(|alert| format!("docs/operations.md#{}", anchor(alert))).collect();
    assert_eq!(urls, expected);

    let chapter = page.split("\n## Runbook\n").nth(1).expect("a runbook").split("\n## ").next().unwrap_or_default();
    let sections: Vec<&str> = chapter.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    assert_eq!(sections, alerts, "the sections, in the order of the alerts");
    let chapter = table.split("\n## Alerts\n").nth(1).expect("a table").split("\n## ").next().unwrap_or_default();
    let named: BTreeSet<&str> = chapter.split('`').filter(|word| word.starts_with("Huskv")).collect();
    assert_eq!(named, alerts.iter().map(String::as_str).collect());
}

/// Reads all Rust code of `src` and `tests`.
fn code() -> String {
    let mut open = vec![root().join("src"), root().join("tests")];
    let mut code = String::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).expect("readable").map(|entry| entry.expect("readable").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            code.push_str(&fs::read_to_string(&path).expect("UTF-8"));
        }
    }
    code
}

/// Finds names in a command line that do not exist: scripts, cargo targets, tests, planted bugs.
fn unknown_names(text: &str) -> Vec<String> {
    let words: Vec<&str> = text.lines().flat_map(str::split_whitespace).collect();
    let tests = text.split("test(").skip(1).filter_map(|rest| rest.split(')').next());
    let mut unknown: Vec<String> =
        tests.filter(|test| !code().contains(&format!("fn {test}("))).map(str::to_owned).collect();
    for (at, word) in words.iter().enumerate() {
        let next = words.get(at + 1).copied().unwrap_or_default();
        let file = match *word {
            "fuzz" if next == "run" => {
                format!("fuzz/fuzz_targets/{}", words.get(at + 2).copied().unwrap_or_default())
            }
            "--test" => format!("tests/{next}"),
            "--example" => format!("examples/{next}"),
            "--bench" => format!("benches/{next}"),
            "--plant" if next != "list" && next != "NAME" => {
                let plants = fs::read_to_string(root().join("src/plant.rs")).expect("UTF-8");
                if !plants.contains(&format!("\"{next}\"")) {
                    unknown.push(format!("the planted bug {next}"));
                }
                continue;
            }
            word if word.starts_with("scripts/") || word.starts_with("config/") => word.to_owned(),
            _ => continue,
        };
        if !root().join(&file).exists() && !root().join(format!("{file}.rs")).exists() {
            unknown.push(file);
        }
    }
    unknown
}

#[test]
fn command_lines_outside_of_a_session_name_the_test_that_runs_them() {
    let mut shown = 0;
    for (name, text) in read() {
        let all = sections(&text);
        let has_session =
            all.iter().any(|section| matches!(section, Section::Directive { name, .. } if name == "session"));
        for section in &all {
            let Section::Block { line, language, tags, text } = section else { continue };
            if language != "sh" {
                continue;
            }
            shown += 1;
            assert!(has_session || !tags.is_empty(), "{name}:{line}: no session runs it, and it names no test");
            for tag in tags {
                let path = tag.strip_prefix("in=").unwrap_or_else(|| panic!("{name}:{line}: {tag}"));
                assert!(root().join(path).exists(), "{name}:{line}: there is no {path}");
            }
            let unknown = unknown_names(text);
            assert!(unknown.is_empty(), "{name}:{line}: {unknown:?}");
        }
    }
    assert!(shown > 40, "the blocks were not found: {shown}");
}
