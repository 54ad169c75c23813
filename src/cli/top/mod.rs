//! `huskv top`: the cluster live in a terminal: members, how many more may fail, load, events.
//!
//! Why: who has a shell on a node and no browser asks the same three questions: is it up, can it take another failure, why did the leader
//! change.
//!
//! Invariants: everything comes through one of the endpoints, once a second, and changes nothing. A cluster that does not answer is said with
//! the time of what is shown. Where stdout is no terminal, or one that cannot move its cursor (`TERM=dumb`), the view is printed once, as plain text.
//!
//! See also: `http::metrics::overview`, `http::node_events::cluster`, which answer.

mod screen;
mod view;

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use clap::{Arg, ArgAction, ArgMatches, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use crate::cli::endpoints;
use crate::cli::exit::{ExitError, exit_code, explain};
use crate::cli::{access, common};
use crate::client::{Client, Failure};
use screen::{Action, Screen};
use view::{Answers, Line, SPARK_SECONDS, Style, line, render};

const ONCE: &str = "once";

/// The timeout of the questions, over all endpoints.
const TIMEOUT: Duration = Duration::from_secs(3);
/// The time between two views.
const EVERY: Duration = Duration::from_secs(1);
/// The events of a view, at most.
const EVENTS: u32 = 100;
/// The lines of a view that is printed once.
const ONCE_LINES: usize = 40;

/// The subcommand.
pub(crate) fn command() -> Command {
    Command::new("top")
        .about("Show the cluster live: members, how many more may fail, load, latest events; q quits")
        .after_help(format!(
            "{}\nA token must have `metrics = true` or be an admin's. NO_COLOR turns colours off.\n\
             Exit codes: 0 done, 1 no endpoint has answered (with --once), 2 wrong flags.",
            access::HELP
        ))
        .arg(endpoints::argument())
        .arg(
            Arg::new(ONCE)
                .long(ONCE)
                .action(ArgAction::SetTrue)
                .help("Print it once as plain text, as where stdout is no terminal or TERM is dumb"),
        )
}

/// Runs the subcommand and returns the exit code.
pub(crate) fn run(matches: &ArgMatches) -> u8 {
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    let is_once = matches.get_flag(ONCE) || is_dumb || !io::stdout().is_terminal();
    exit_code(endpoints::target(matches).map_err(ExitError::usage).and_then(|target| {
        let client = Client::with_access(target.addresses, TIMEOUT, target.access);
        common::block_on(async { if is_once { print_once(&client).await } else { follow(&client).await } })?
    }))
}

async fn print_once(client: &Client) -> Result<(), ExitError> {
    let answers = ask(client).await?;
    render(&answers, ONCE_LINES).into_iter().try_for_each(|line| common::print_line(line.text))
}

/// Asks one of the endpoints. An earlier version knows neither load nor events of all.
async fn ask(client: &Client) -> Result<Answers, Failure> {
    let seconds = u32::try_from(SPARK_SECONDS).unwrap_or(u32::MAX);
    let (overview, load, events) = tokio::join!(client.overview(), client.load(seconds), client.cluster_events(EVENTS));
    Ok(Answers { overview: overview?, load: load.ok(), events: events.ok() })
}

/// What is on the screen.
#[derive(Default)]
struct Shown {
    /// The last answers, and when they came.
    answers: Option<(Instant, Answers)>,
    /// Why the last questions failed.
    failure: Option<String>,
}

impl Shown {
    fn take(&mut self, answer: Result<Answers, Failure>) {
        match answer {
            Ok(answers) => *self = Self { answers: Some((Instant::now(), answers)), failure: None },
            Err(failure) => self.failure = Some(explain(&failure)),
        }
    }

    fn lines(&self, height: usize) -> Vec<Line> {
        let mut lines = Vec::new();
        if let Some(failure) = &self.failure {
            lines.push(line(Style::Bad, failure.as_str()));
            let age = self.answers.as_ref().map(|(at, _)| at.elapsed().as_secs());
            lines.extend(age.map(|seconds| line(Style::Bad, format!("what follows is from {seconds} s ago"))));
        }
        match &self.answers {
            Some((_, answers)) => lines.extend(render(answers, height.saturating_sub(lines.len()))),
            None if self.failure.is_none() => lines.push(line(Style::Dim, "asking the cluster...")),
            None => {}
        }
        lines
    }
}

async fn follow(client: &Client) -> Result<(), ExitError> {
    let cannot = |error: io::Error| ExitError::failed(format_args!("the terminal cannot be used: {error}"));
    let (mut terminated, mut hung_up) =
        (signal(SignalKind::terminate()).map_err(cannot)?, signal(SignalKind::hangup()).map_err(cannot)?);
    let mut screen = Screen::take().map_err(cannot)?;
    let mut actions = screen::actions();
    let mut shown = Shown::default();
    let mut seconds = interval(EVERY);
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        screen.draw(&shown.lines(Screen::size().1)).map_err(cannot)?;
        let next = async {
            seconds.tick().await;
            ask(client).await
        };
        tokio::pin!(next);
        // A resize draws again, and the question goes on meanwhile.
        let answer = loop {
            tokio::select! {
                answer = &mut next => break answer,
                action = actions.recv() => match action {
                    Some(Action::Resize) => screen.draw(&shown.lines(Screen::size().1)).map_err(cannot)?,
                    Some(Action::Quit) | None => return Ok(()),
                },
                _ = terminated.recv() => return Ok(()),
                _ = hung_up.recv() => return Ok(()),
            }
        };
        shown.take(answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_said_above_what_was_known() {
        let mut shown = Shown::default();
        assert_eq!(shown.lines(9), [line(Style::Dim, "asking the cluster...")]);
        shown.failure = Some("no answer".into());
        assert_eq!(shown.lines(9), [line(Style::Bad, "no answer")]);
    }
}
