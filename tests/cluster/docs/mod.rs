//! The sessions of the documents, typed as a reader types them, and their answers compared.
//!
//! Why: an example that no longer works costs a reader more than a missing one.
//!
//! Invariants: what a `sh` block prints holds every line of the block behind it, in this order; a JSON line may have more
//! members than are shown. Ports are free ones and stand in the pages as the documented ones; nothing else is changed,
//! but that a benchmark runs for a moment only and leaders are slow to be given up on a busy machine.
//!
//! See also: `tests/support/page.rs` for what is run, and `tests/docs.rs` for the blocks that other tests run.

use std::fs;

#[path = "../../support/page.rs"]
mod page;
mod session;
mod shown;

use page::{Section, pages, root, sections};
use session::Session;

use crate::harness::Need;

crate::harness::cases![
    the_tutorial_prints_what_it_says.needs(Need::Curl),
    the_api_page_prints_what_it_says.needs(Need::Curl),
    the_client_page_prints_what_it_says.needs(Need::Curl),
    the_other_pages_print_what_they_say.needs(Need::Curl),
];

fn the_tutorial_prints_what_it_says() {
    run("docs/tutorial.md");
}

fn the_api_page_prints_what_it_says() {
    run("docs/api.md");
}

fn the_client_page_prints_what_it_says() {
    run("docs/cli.md");
}

/// Further pages too, once they have a session.
fn the_other_pages_print_what_they_say() {
    let own = ["docs/tutorial.md", "docs/api.md", "docs/cli.md"];
    for path in pages() {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        if !own.contains(&name.as_str()) {
            run(&name);
        }
    }
}

/// Runs the sessions of a page.
fn run(name: &str) {
    let text = fs::read_to_string(root().join(name)).unwrap();
    let mut session: Option<Session> = None;
    for section in sections(&text) {
        match section {
            Section::Directive { line, name: directive, value } => match (directive.as_str(), &mut session) {
                ("session", session) => {
                    // The one before it ends first.
                    *session = None;
                    *session = Some(Session::begin(&value));
                }
                ("kill", Some(session)) => session.kill(&value),
                _ => panic!("{name}:{line}: {directive} {value}"),
            },
            Section::Block { line, language, tags, text } => {
                let place = format!("{name}:{line}");
                match (language.as_str(), &tags[..], &mut session) {
                    ("sh", [], Some(session)) => session.type_in(&place, &text),
                    ("text" | "json" | "", [], Some(session)) => session.expect(&place, None, &text),
                    ("text", [terminal], Some(session)) if terminal.starts_with("terminal=") => {
                        session.expect(&place, terminal["terminal=".len()..].parse().ok(), &text);
                    }
                    _ => {}
                }
            }
        }
    }
}
