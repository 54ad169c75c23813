//! `huskv demo`: real nodes on this machine, joined, with a few lines to try.
//!
//! Why: the first minute with huskv. What it does is what the tutorial does by hand, so everything it starts can be
//! looked at, killed and joined again with curl.
//!
//! Laws: nothing is left running when it ends. Data is kept and found again, unless `--fresh`.
//!
//! Not here: child processes (`processes`), and making sense of their stats (`node_summary`).

pub(crate) mod processes;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::json;
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

use super::cluster::node_summary::{NodeSummary, base, role};
use super::{FAILED, complain};
use crate::client::Direct;
use processes::{Plan, ProcessError, Processes};

/// The name of the subcommand.
const NAME: &str = "demo";

/// The most nodes; their ports must not run into each other's.
const MOST_NODES: i64 = 32;

/// The flag of the first HTTP port.
const HTTP_FROM: &str = "http-from";

/// The flag of the first raft port.
const RAFT_FROM: &str = "raft-from";

/// The greatest port to count upwards from.
const LAST_FIRST_PORT: i64 = 65_500;

/// How long nodes may take to start, and a cluster to have a leader.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How long one look at a node may take.
const LOOK_LIMIT: Duration = Duration::from_secs(1);

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(300);

/// How long a join may take, the way there and back included.
const JOIN_LIMIT: Duration = Duration::from_secs(65);

/// How many lines of a log are shown when its node ends.
const TAIL_LINES: usize = 3;

/// Why the demo ends before it is told to.
#[derive(Debug, Error)]
enum DemoError {
    /// The nodes cannot be started.
    #[error(transparent)]
    Processes(#[from] ProcessError),
    /// A node ended while the demo began.
    #[error("{0} did not start; its log says why. All nodes are stopped")]
    NodeEnded(String),
    /// A node does not answer.
    #[error("{name} does not answer at {address} after {START_LIMIT:?}; see {log}")]
    Silent {
        /// Which.
        name: String,
        /// Where.
        address: String,
        /// Its log.
        log: String,
    },
    /// There is no leader.
    #[error(
        "no leader after {START_LIMIT:?}: the data is of a cluster of {members} nodes; run demo with as many --nodes, or with --fresh"
    )]
    NoLeader {
        /// How many nodes the table has.
        members: usize,
    },
    /// Every node is gone.
    #[error("all nodes have ended; see their logs")]
    AllEnded,
    /// Nobody reads what the demo says, or the system refuses.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The subcommand.
pub(crate) fn command() -> Command {
    let nodes = Arg::new("nodes")
        .long("nodes")
        .value_name("NUMBER")
        .value_parser(value_parser!(u16).range(1..=MOST_NODES))
        .default_value("3")
        .help("How many nodes");
    let port = |name: &'static str, default: &'static str, help: &'static str| {
        let parser = value_parser!(u16).range(1..=LAST_FIRST_PORT);
        Arg::new(name).long(name).value_name("PORT").value_parser(parser).default_value(default).help(help)
    };
    let http = port(HTTP_FROM, "2221", "HTTP port of the first node; the others count upwards");
    let raft = port(RAFT_FROM, "1111", "Raft port of the first node; the others count upwards");
    let fresh = Arg::new("fresh")
        .long("fresh")
        .action(ArgAction::SetTrue)
        .help("Remove what earlier demos stored and begin anew");
    let directory = Arg::new("dir")
        .long("dir")
        .value_name("DIRECTORY")
        .value_parser(value_parser!(PathBuf))
        .default_value("data")
        .help("Where the nodes' directories node1, node2, ... and their logs are");
    Command::new(NAME)
        .about("Run a cluster of real nodes on this machine until Ctrl-C")
        .args([nodes, fresh, directory, http, raft])
}

/// Runs the demo; the exit code.
pub(crate) fn run(matches: &ArgMatches) -> u8 {
    let number = |name: &str| matches.get_one::<u16>(name).copied().expect("clap has a default for it");
    let directory = matches.get_one::<PathBuf>("dir").expect("clap has a default for it");
    let plan = processes::plan(number("nodes"), [number(HTTP_FROM), number(RAFT_FROM)], directory);
    let fresh = matches.get_flag("fresh");
    let result = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(DemoError::from)
        .and_then(|runtime| runtime.block_on(Box::pin(demonstrate(plan, directory, fresh))));
    match result {
        Ok(()) => 0,
        Err(error) => {
            complain(error);
            FAILED
        }
    }
}

async fn demonstrate(plan: Vec<Plan>, directory: &Path, fresh: bool) -> Result<(), DemoError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    processes::check_ports(&plan)?;
    if fresh {
        for path in processes::clear(directory)? {
            say(format_args!("removed {}", path.display()))?;
        }
    }
    let mut fleet = Processes::start(plan)?;
    let result = tokio::select! {
        result = drive(&mut fleet) => result,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        _ = hangup.recv() => Ok(()),
    };
    let count = fleet.nodes.len();
    for name in fleet.stop().await {
        complain(format_args!("{name} did not stop in time and was killed; what it acknowledged is on disk"));
    }
    if result.is_ok() {
        // The work is done; where nobody listens any more there is nothing to say.
        say(format_args!("\n{count} nodes stopped; run demo again to find the data again")).ok();
    }
    result
}

fn say(line: std::fmt::Arguments<'_>) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{line}")
}

/// Everything between start and stop; ends only where something is wrong.
async fn drive(fleet: &mut Processes) -> Result<(), DemoError> {
    wait_until_healthy(fleet).await?;
    let looks = Direct::new(LOOK_LIMIT);
    let (leader, members) = join_all(fleet, &looks).await?;
    introduce(fleet, &leader, members)?;
    let mut last = String::new();
    loop {
        for node in fleet.newly_ended() {
            report_end(&node.plan, node.ended.as_deref().unwrap_or_default())?;
        }
        if fleet.nodes.iter().all(|node| node.ended.is_some()) {
            return Err(DemoError::AllEnded);
        }
        let views = look(fleet, &looks).await;
        let line = status_line(fleet, &views);
        if line != last {
            say(format_args!("{line}"))?;
            last = line;
        }
        sleep(PAUSE).await;
    }
}

fn report_end(plan: &Plan, how: &str) -> io::Result<()> {
    say(format_args!("{} has ended ({how}); the end of {}:", plan.name, plan.log.display()))?;
    let text = std::fs::read_to_string(&plan.log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].iter().try_for_each(|line| say(format_args!("  {line}")))
}

/// While the demo begins, the end of any node is the end of the demo.
fn none_ended(fleet: &mut Processes) -> Result<(), DemoError> {
    let ended = fleet.newly_ended();
    for node in &ended {
        report_end(&node.plan, node.ended.as_deref().unwrap_or_default())?;
    }
    ended.first().map_or(Ok(()), |node| Err(DemoError::NodeEnded(node.plan.name.clone())))
}

async fn wait_until_healthy(fleet: &mut Processes) -> Result<(), DemoError> {
    let client = Direct::new(LOOK_LIMIT);
    let deadline = Instant::now() + START_LIMIT;
    for plan in fleet.nodes.iter().map(|node| node.plan.clone()).collect::<Vec<_>>() {
        while !client.get(&plan.http(), "/health").await.is_ok_and(|answer| answer.status == 200) {
            none_ended(fleet)?;
            if Instant::now() >= deadline {
                let log = plan.log.display().to_string();
                return Err(DemoError::Silent { address: plan.http(), name: plan.name, log });
            }
            sleep(PAUSE).await;
        }
    }
    Ok(())
}

async fn look(fleet: &Processes, client: &Direct) -> Vec<Option<NodeSummary>> {
    let looks = fleet.nodes.iter().map(|node| async move {
        if node.ended.is_some() {
            return None;
        }
        let answer = client.get(&node.plan.http(), "/raft/stats").await.ok()?;
        (answer.status == 200).then(|| NodeSummary::of(&answer.body["data"]))
    });
    futures_util::future::join_all(looks).await
}

/// Waits for a leader and joins every node that is not a member yet; the leader's name, and how many voters there were
/// before.
async fn join_all(fleet: &mut Processes, looks: &Direct) -> Result<(String, usize), DemoError> {
    let deadline = Instant::now() + START_LIMIT;
    let (through, views, leader) = loop {
        none_ended(fleet)?;
        let views = look(fleet, looks).await;
        let found = base(&views).and_then(|(through, view)| Some((through, view.leader.clone()?)));
        if let Some((through, leader)) = found.filter(|_| views.iter().all(Option::is_some)) {
            break (through, views, leader);
        }
        if Instant::now() >= deadline {
            let members = base(&views).map_or(0, |(_, view)| view.members.len());
            return Err(DemoError::NoLeader { members });
        }
        sleep(PAUSE).await;
    };
    let joins = Direct::new(JOIN_LIMIT);
    let through_address = fleet.nodes[through].plan.http();
    for (number, node) in fleet.nodes.iter().enumerate() {
        let is_member = match (&views[through], &views[number]) {
            (Some(base), Some(view)) => base.counts(view),
            _ => false,
        };
        if number == through || is_member {
            continue;
        }
        let body = json!({ "node_id": node.plan.name, "raft_address": node.plan.raft() });
        match joins.post(&through_address, "/raft/join?timeout=60s", &body).await {
            Ok(answer) if answer.status == 200 => say(format_args!("{} joined", node.plan.name))?,
            Ok(answer) => {
                let detail = answer.body["detail"].as_str().unwrap_or("without a reason");
                say(format_args!("{} could not be joined: {} {detail}", node.plan.name, answer.status))?;
            }
            Err(error) => say(format_args!("{} could not be joined: {error}", node.plan.name))?,
        }
    }
    let members = views[through].as_ref().map_or(0, |view| view.members.len());
    Ok((leader, members))
}

fn introduce(fleet: &Processes, leader: &str, members: usize) -> io::Result<()> {
    say(format_args!("\n{} nodes run:", fleet.nodes.len()))?;
    for Plan { name, directory, log, http_port, raft_port } in fleet.nodes.iter().map(|node| &node.plan) {
        let (directory, log) = (directory.display(), log.display());
        say(format_args!("  {name}  http://127.0.0.1:{http_port}  raft 127.0.0.1:{raft_port}  {directory}  {log}"))?;
    }
    if members > fleet.nodes.len() {
        say(format_args!("The cluster has {members} members, demo --nodes {members} starts them all."))?;
    }
    let first = fleet.nodes.first().map(|node| node.plan.http()).unwrap_or_default();
    let last = fleet.nodes.last().map(|node| node.plan.http()).unwrap_or_default();
    say(format_args!("{leader} leads; any node takes any request. Try:"))?;
    say(format_args!("  curl -X POST http://{first}/store -d '{{\"key\": \"foo\", \"value\": \"bar\"}}'"))?;
    say(format_args!("  curl http://{last}/store/foo"))?;
    say(format_args!("  curl -X DELETE http://{last}/store/foo"))?;
    say(format_args!("  curl http://{first}/raft/stats"))?;
    say(format_args!("Ctrl-C stops them all.\n"))
}

fn status_line(fleet: &Processes, views: &[Option<NodeSummary>]) -> String {
    let term = views.iter().flatten().filter_map(|view| view.term.parse::<u64>().ok()).max();
    let roles = fleet.nodes.iter().zip(views).map(|(node, view)| {
        let role = if node.ended.is_some() { "has ended" } else { role(view.as_ref()) };
        format!("{} {role}", node.plan.name)
    });
    format!("term {}: {}", term.unwrap_or(0), roles.collect::<Vec<_>>().join(", "))
}
