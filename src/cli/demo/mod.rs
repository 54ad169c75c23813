//! `huskv demo`: a cluster of real nodes on this machine, with a few commands to try.
//!
//! Why: the first minute with huskv. The demo does what the tutorial does by hand, so its nodes can be inspected, killed
//! and joined again with curl.
//!
//! Invariants: no process is left when it ends. Data and credentials are kept for the next run, unless `--fresh`. With `--secure`
//! the demo is a client like any other: it has a token, and verifies the nodes by their CA.
//!
//! See also: `processes` for the child processes, `credentials` for `--secure`, `intro` for the commands to try, `page` for the page with
//! buttons that cause `faults`, `node_summary` for the nodes' stats.

mod credentials;
mod faults;
mod intro;
mod page;
pub(crate) mod processes;

use std::io::{self, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::json;
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use super::cluster::node_summary::{NodeSummary, join_target, role};
use super::exit::{FAILED, print_error};
use crate::client::{Access, NodeClient};
use credentials::{CredentialError, Credentials};
use page::PageServer;
use processes::{Plan, ProcessError, Processes};

/// The name of the subcommand.
const NAME: &str = "demo";

/// The maximum number of nodes; the two ranges of ports must not overlap.
const MAX_NODES: i64 = 32;

/// The flag that deletes earlier data.
const FRESH: &str = "fresh";

/// The flag that opens the page.
const OPEN: &str = "open";

/// The program that opens an address in the browser of the user.
const OPENER: &str = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };

/// The flag for TLS and tokens.
const SECURE: &str = "secure";

/// The flag of the first HTTP port.
const HTTP_FROM: &str = "http-from";

/// The flag of the first raft port.
const RAFT_FROM: &str = "raft-from";

/// The flag of the page's port.
const PAGE_PORT: &str = "page-port";

/// The number of actions of the page that may wait.
const MAX_COMMANDS: usize = 16;

/// The maximum first port.
const MAX_FIRST_PORT: i64 = 65_500;

/// The timeout for nodes to start, and for a cluster to elect a leader.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// The timeout of a request for health or stats.
const STATS_TIMEOUT: Duration = Duration::from_secs(1);

/// The interval between two polls of the nodes.
const POLL_INTERVAL: Duration = Duration::from_millis(300);

/// The timeout of a join: the node's own 60 s and the round trip.
const JOIN_TIMEOUT: Duration = Duration::from_secs(65);

/// The number of log lines that are shown when a node exits.
const TAIL_LINES: usize = 3;

/// Why the demo ends early.
#[derive(Debug, Error)]
enum DemoError {
    /// The nodes cannot be started.
    #[error(transparent)]
    Processes(#[from] ProcessError),
    /// There are no certificates or no token.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// A node exited during the start.
    #[error("{0} did not start; its log says why. All nodes are stopped")]
    NodeExited(String),
    /// A node does not respond.
    #[error("{name} does not answer at {address} after {START_TIMEOUT:?}; see {log}")]
    NotHealthy {
        /// Its name.
        name: String,
        /// Its address.
        address: String,
        /// Its log.
        log: String,
    },
    /// There is no leader.
    #[error(
        "no leader after {START_TIMEOUT:?}: the data is of a cluster of {members} nodes; run demo with as many --nodes, or with --fresh"
    )]
    NoLeader {
        /// The number of voters in the member table.
        members: usize,
    },
    /// Every node has exited.
    #[error("all nodes have ended; see their logs")]
    AllExited,
    /// Stdout is closed, or a system call failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The subcommand.
pub(crate) fn command() -> Command {
    let nodes = Arg::new("nodes")
        .long("nodes")
        .value_name("NUMBER")
        .value_parser(value_parser!(u16).range(1..=MAX_NODES))
        .default_value("3")
        .help("Number of nodes");
    let port = |name: &'static str, default: &'static str, help: &'static str| {
        let parser = value_parser!(u16).range(1..=MAX_FIRST_PORT);
        Arg::new(name).long(name).value_name("PORT").value_parser(parser).default_value(default).help(help)
    };
    let http = port(HTTP_FROM, "2221", "HTTP port of the first node; the others count upwards");
    let raft = port(RAFT_FROM, "1111", "Raft port of the first node; the others count upwards");
    let fresh = Arg::new(FRESH)
        .long(FRESH)
        .action(ArgAction::SetTrue)
        .help("Delete the data of earlier demos first; with --secure, make new credentials too");
    let secure = Arg::new(SECURE).long(SECURE).action(ArgAction::SetTrue).help(
        "TLS on both ports, and a token; a CA, the nodes' certificates and an admin's token are made in DIRECTORY/certs",
    );
    let open = Arg::new(OPEN)
        .long(OPEN)
        .action(ArgAction::SetTrue)
        .help("Open the page in the browser, by xdg-open or, on macOS, open");
    let page = Arg::new(PAGE_PORT)
        .long(PAGE_PORT)
        .value_name("PORT")
        .value_parser(value_parser!(u16))
        .default_value("2220")
        .help("Port of the page with buttons that kill, pause, cut and heal nodes; 0: without it");
    let directory = Arg::new("dir")
        .long("dir")
        .value_name("DIRECTORY")
        .value_parser(value_parser!(PathBuf))
        .default_value("data")
        .help("Directory for the nodes' directories node1, node2, ... and their logs");
    Command::new(NAME)
        .about("Run a cluster of real nodes on this machine until Ctrl-C")
        .args([nodes, secure, fresh, open, directory, http, raft, page])
}

/// Runs the demo and returns the exit code.
pub(crate) fn run(matches: &ArgMatches) -> u8 {
    let number = |name: &str| matches.get_one::<u16>(name).copied().expect("clap has a default for it");
    let directory = matches.get_one::<PathBuf>("dir").expect("clap has a default for it");
    let plan = processes::plan(number("nodes"), [number(HTTP_FROM), number(RAFT_FROM)], directory);
    let flags = Flags {
        fresh: matches.get_flag(FRESH),
        secure: matches.get_flag(SECURE),
        open: matches.get_flag(OPEN),
        page: Some(number(PAGE_PORT)).filter(|port| *port != 0),
    };
    let result = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(DemoError::from)
        .and_then(|runtime| runtime.block_on(Box::pin(run_until_signal(plan, directory, flags))));
    match result {
        Ok(()) => 0,
        Err(error) => {
            print_error(error);
            FAILED
        }
    }
}

/// What the flags ask for.
#[derive(Clone, Copy)]
struct Flags {
    fresh: bool,
    secure: bool,
    open: bool,
    /// The port of the page.
    page: Option<u16>,
}

async fn run_until_signal(plan: Vec<Plan>, directory: &Path, flags: Flags) -> Result<(), DemoError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let listener = processes::check_ports(&plan, flags.page)?;
    if flags.secure {
        // Before any data is removed.
        credentials::check(directory)?;
    }
    if flags.fresh {
        for path in processes::clear(directory)? {
            print_line(format_args!("removed {}", path.display()))?;
        }
    }
    let credentials = match flags.secure {
        true => Some(prepare_credentials(&plan, directory, flags.fresh)?),
        false => None,
    };
    let mut children = Processes::start(plan, credentials.as_ref())?;
    let result = tokio::select! {
        result = start_and_watch(&mut children, credentials.as_ref(), listener, flags) => result,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        _ = hangup.recv() => Ok(()),
    };
    let count = children.nodes.len();
    for name in children.stop().await {
        print_error(format_args!("{name} did not stop in time and was killed; what it acknowledged is on disk"));
    }
    if result.is_ok() {
        // A closed stdout is no error after the stop.
        print_line(format_args!("\n{count} nodes stopped; run demo again to find the data again")).ok();
    }
    result
}

/// Makes the credentials that are missing, and says which.
fn prepare_credentials(plan: &[Plan], directory: &Path, fresh: bool) -> Result<Credentials, DemoError> {
    let names: Vec<&str> = plan.iter().map(|node| node.name.as_str()).collect();
    let (credentials, made) = Credentials::prepare(directory, &names, fresh)?;
    made.iter().try_for_each(|what| print_line(format_args!("made {what}")))?;
    Ok(credentials)
}

fn print_line(line: std::fmt::Arguments<'_>) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{line}")
}

/// Joins the nodes, does what the page asks for and prints every change of their roles; returns only on an error.
async fn start_and_watch(
    processes: &mut Processes,
    credentials: Option<&Credentials>,
    listener: Option<TcpListener>,
    flags: Flags,
) -> Result<(), DemoError> {
    let access = credentials.map_or_else(|| Ok(Access::default()), Credentials::access)?;
    let client = NodeClient::with_access(STATS_TIMEOUT, access.clone());
    wait_until_healthy(processes, &client).await?;
    let (leader, members) = join_all(processes, &client, access).await?;
    let (states, nodes) = watch::channel(processes.states());
    let (sender, mut commands) = mpsc::channel(MAX_COMMANDS);
    if let (Some(listener), Some(port)) = (listener, flags.page) {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let access = credentials.map_or_else(|| Ok(Access::default()), Credentials::access_without_token)?;
        let client = NodeClient::with_access(STATS_TIMEOUT, access);
        let admin = credentials.map(Credentials::admin);
        tokio::spawn(PageServer { port, nodes, commands: sender, client, admin }.serve(listener));
    }
    let plan: Vec<&Plan> = processes.nodes.iter().map(|node| &node.plan).collect();
    let page = intro::page(plan[0], flags.page, credentials);
    print_line(format_args!("{}", intro::text(&plan, &leader, members, &page, credentials)))?;
    if flags.open {
        open_in_browser(&page)?;
    }
    let mut last_line = String::new();
    loop {
        for node in processes.newly_exited() {
            print_exit(&node.plan, node.exited.as_deref().unwrap_or_default())?;
        }
        // Those that the page has killed can be healed by it.
        if processes.nodes.iter().all(|node| node.exited.is_some() && node.fault.is_none()) {
            return Err(DemoError::AllExited);
        }
        states.send_replace(processes.states());
        let poll = async {
            sleep(POLL_INTERVAL).await;
            fetch_summaries(processes, &client).await
        };
        tokio::select! {
            Some(command) = commands.recv() => obey(command, processes, credentials, &states).await?,
            summaries = poll => {
                let line = status_line(processes, &summaries);
                if line != last_line {
                    print_line(format_args!("{line}"))?;
                    last_line = line;
                }
            }
        }
    }
}

/// Does what the page asks for.
async fn obey(
    command: faults::Command,
    processes: &mut Processes,
    credentials: Option<&Credentials>,
    states: &watch::Sender<Vec<faults::NodeState>>,
) -> io::Result<()> {
    let done = processes.act(&command.node, command.action, credentials).await;
    states.send_replace(processes.states());
    if let Ok(said) = &done {
        print_line(format_args!("{said}"))?;
    }
    // A browser that has gone away wants no answer.
    command.answer.send(done.map(drop)).ok();
    Ok(())
}

/// Opens an address in the browser of the user. Where that fails the demo goes on, for its address was printed.
fn open_in_browser(address: &str) -> io::Result<()> {
    let quiet = Stdio::null;
    match tokio::process::Command::new(OPENER).arg(address).stdin(quiet()).stdout(quiet()).stderr(quiet()).spawn() {
        // Not waited for: it may be the browser itself, which outlives the demo.
        Ok(_) => Ok(()),
        Err(error) => print_line(format_args!("{OPENER} cannot be started ({error}); open {address} yourself")),
    }
}

fn print_exit(plan: &Plan, how: &str) -> io::Result<()> {
    print_line(format_args!("{} has ended ({how}); the end of {}:", plan.name, plan.log.display()))?;
    let text = std::fs::read_to_string(&plan.log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].iter().try_for_each(|line| print_line(format_args!("  {line}")))
}

/// Fails if a node has exited: during the start that ends the demo.
fn check_running(processes: &mut Processes) -> Result<(), DemoError> {
    let exited = processes.newly_exited();
    for node in &exited {
        print_exit(&node.plan, node.exited.as_deref().unwrap_or_default())?;
    }
    exited.first().map_or(Ok(()), |node| Err(DemoError::NodeExited(node.plan.name.clone())))
}

async fn wait_until_healthy(processes: &mut Processes, client: &NodeClient) -> Result<(), DemoError> {
    let deadline = Instant::now() + START_TIMEOUT;
    for plan in processes.nodes.iter().map(|node| node.plan.clone()).collect::<Vec<_>>() {
        while !client.get(&plan.http(), "/health").await.is_ok_and(|answer| answer.status == 200) {
            check_running(processes)?;
            if Instant::now() >= deadline {
                let log = plan.log.display().to_string();
                return Err(DemoError::NotHealthy { address: plan.http(), name: plan.name, log });
            }
            sleep(POLL_INTERVAL).await;
        }
    }
    Ok(())
}

async fn fetch_summaries(processes: &Processes, client: &NodeClient) -> Vec<Option<NodeSummary>> {
    let requests = processes.nodes.iter().map(|node| async move {
        if node.exited.is_some() {
            return None;
        }
        client.stats(&node.plan.http()).await.ok().map(|stats| NodeSummary::new(&stats))
    });
    futures_util::future::join_all(requests).await
}

/// Waits for a leader and joins every node that is no member yet; returns the leader's name, and the number of voters
/// before.
async fn join_all(
    processes: &mut Processes,
    client: &NodeClient,
    access: Access,
) -> Result<(String, usize), DemoError> {
    let deadline = Instant::now() + START_TIMEOUT;
    let (target, summaries, leader) = loop {
        check_running(processes)?;
        let summaries = fetch_summaries(processes, client).await;
        // Wait until every node answers: a node that is missing could be the one with the larger cluster.
        let found = join_target(&summaries).and_then(|(target, node)| Some((target, node.leader()?.to_owned())));
        if let Some((target, leader)) = found.filter(|_| summaries.iter().all(Option::is_some)) {
            break (target, summaries, leader);
        }
        if Instant::now() >= deadline {
            let members = join_target(&summaries).map_or(0, |(_, node)| node.voters().count());
            return Err(DemoError::NoLeader { members });
        }
        sleep(POLL_INTERVAL).await;
    };
    let join_client = NodeClient::with_access(JOIN_TIMEOUT, access);
    let target_address = processes.nodes[target].plan.http();
    for (number, node) in processes.nodes.iter().enumerate() {
        let is_member = match (&summaries[target], &summaries[number]) {
            (Some(target), Some(node)) => target.has_member(node),
            _ => false,
        };
        if number == target || is_member {
            continue;
        }
        let body = json!({ "node_id": node.plan.name, "raft_address": node.plan.raft() });
        match join_client.post(&target_address, "/raft/join?timeout=60s", &body).await {
            Ok(answer) if answer.status == 200 => print_line(format_args!("{} joined", node.plan.name))?,
            Ok(answer) => {
                let detail = answer.body["detail"].as_str().unwrap_or("without a reason");
                print_line(format_args!("{} could not be joined: {} {detail}", node.plan.name, answer.status))?;
            }
            Err(error) => print_line(format_args!("{} could not be joined: {error}", node.plan.name))?,
        }
    }
    let members = summaries[target].as_ref().map_or(0, |node| node.voters().count());
    Ok((leader, members))
}

fn status_line(processes: &Processes, summaries: &[Option<NodeSummary>]) -> String {
    let term = summaries.iter().flatten().filter_map(|node| node.stats.term.parse::<u64>().ok()).max();
    let roles = processes.nodes.iter().zip(summaries).map(|(node, summary)| {
        let role = if node.exited.is_some() { "has ended" } else { role(summary.as_ref()) };
        format!("{} {role}", node.plan.name)
    });
    format!("term {}: {}", term.unwrap_or(0), roles.collect::<Vec<_>>().join(", "))
}
