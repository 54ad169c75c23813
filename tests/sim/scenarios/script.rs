//! Scripted scenarios over the real driver: text in, text out, in `tests/scenarios`.
//!
//! Why: a seed shows that something holds, a script shows what happens. A line that begins with `> ` is a command, and the
//! lines under it are its output, which is compared. With `SCENARIO_REWRITE=1` the output is written into the file.
//!
//! Invariants: the world is that of the seeds, with all its checks, and without faults but those of the script.
//!
//! | command | does |
//! |---|---|
//! | `cluster N of M` | M nodes, the first N of which become voters |
//! | `write n0 KEY VALUE [for SECONDS] [within MS]`, `fill n0 COUNT`, `read n0 KEY` | asks a node |
//! | `join n3 via n0`, `remove n1 via n0`, `transfer n1 via n0` | asks for a change of the membership |
//! | `crash n0`, `start n0`, `wipe n0`, `pause n0 MS`, `cut n0 n1`, `isolate n0`, `heal` | faults |
//! | `pass MS`, `settle` | lets time pass; until all that are up agree |
//! | `nodes` | shows every node |

use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use huskv::consensus::{Bounds, Consistency, Hop, Input, ReadGrant};
use huskv::model::{Answer, Command, Condition, Outcome, Refusal, Request, Role, State, Status, Ttl, Value};
use libtest_mimic::{Failed, Trial};

use super::until;
use crate::checks;
use crate::faults::nemesis;
use crate::trace::Trace;
use crate::world::World;

/// The time that a request may take, where the script does not say.
const WITHIN: u64 = 10_000;

/// One trial for each script.
pub fn trials() -> Vec<Trial> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let scripts = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "txt"));
    scripts
        .map(|path| {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            Trial::test(format!("scenario_{name}"), move || play(&path))
        })
        .collect()
}

/// Runs a script, and compares its output with the file.
fn play(path: &Path) -> Result<(), Failed> {
    let script = std::fs::read_to_string(path)?;
    let (mut played, mut world) = (String::new(), None);
    let mut printed = true;
    for line in script.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            let output =
                run(&mut world, command).map_err(|why| format!("{command}: {}", why.message().unwrap_or("")))?;
            write!(played, "{line}\n{output}")?;
            printed = false;
        } else if line.is_empty() || line.starts_with('#') {
            printed = true;
            writeln!(played, "{line}")?;
        } else if printed {
            return Err(format!("neither a command nor what one prints: {line}").into());
        }
    }
    if std::env::var_os("SCENARIO_REWRITE").is_some() {
        std::fs::write(path, &played)?;
    } else if played != script {
        return Err(format!("it goes otherwise:\n{played}").into());
    }
    Ok(())
}

/// Runs a command, and returns its output.
fn run(state: &mut Option<World>, command: &str) -> Result<String, Failed> {
    let words: Vec<&str> = command.split(' ').collect();
    if let ["cluster", voters, "of", nodes] = words.as_slice() {
        *state = Some(cluster(voters.parse()?, nodes.parse()?)?);
        return Ok(String::new());
    }
    let world = state.as_mut().ok_or("no cluster yet")?;
    let output = match words.as_slice() {
        ["write", at, key, value, options @ ..] => write(world, at, (key, value), options)?,
        ["fill", at, count] => {
            for number in 0..count.parse::<u64>()? {
                let output = write(world, at, ("fill", &number.to_string()), &[])?;
                if output != "ok" {
                    return Err(output.into());
                }
            }
            String::new()
        }
        ["read", at, key] => read(world, node(at)?, key)?,
        ["join", who, "via", at] => {
            let raft_address = world.nodes[node(who)?].table.raft_address.clone();
            let request = Request::Join { node_id: (*who).into(), raft_address, force: true };
            ask(world, node(at)?, request, 3 * WITHIN)?
        }
        ["remove", who, "via", at] => ask(world, node(at)?, Request::Remove { node_id: (*who).into() }, WITHIN)?,
        ["transfer", who, "via", at] => {
            ask(world, node(at)?, Request::Transfer { node_id: Some((*who).into()) }, WITHIN)?
        }
        ["nodes"] => nodes(world),
        ["settle"] => {
            until(world, 30_000, "all agree", agree)?;
            String::new()
        }
        ["pass", ms] => {
            let end = world.now + ms.parse::<u64>()?;
            while world.step(end) {}
            String::new()
        }
        _ => {
            fault(world, &words)?;
            String::new()
        }
    };
    match world.failure.take() {
        Some(failure) => Err(failure.into()),
        None if output.is_empty() => Ok(output),
        None => Ok(format!("{output}\n")),
    }
}

/// Injects the fault of a command.
fn fault(world: &mut World, words: &[&str]) -> Result<(), Failed> {
    match words {
        ["crash", at] => world.crash(node(at)?),
        ["start", at] => world.boot(node(at)?),
        ["wipe", at] => {
            let at = node(at)?;
            nemesis::wipe(world, at);
            until(world, 5_000, "it is up again", |world| checks::status(world, at).is_some())?;
        }
        ["pause", at, ms] => world.nodes[node(at)?].paused_until = world.now + ms.parse::<u64>()?,
        ["cut", one, other] => {
            let (one, other) = (node(one)?, node(other)?);
            world.cut_links.extend([(one, other), (other, one)]);
        }
        ["isolate", at] => {
            let at = node(at)?;
            for other in (0..world.size).filter(|other| *other != at) {
                world.cut_links.extend([(at, other), (other, at)]);
            }
        }
        ["heal"] => world.cut_links.clear(),
        _ => return Err("no such command".into()),
    }
    Ok(())
}

fn node(name: &str) -> Result<usize, Failed> {
    Ok(name.strip_prefix('n').ok_or("no node has this name")?.parse()?)
}

/// Creates a cluster of the first nodes, led by node 0.
fn cluster(voters: usize, nodes: usize) -> Result<World, Failed> {
    let mut world = World::new(5, nodes, Trace::Off);
    let alone = |world: &mut World| {
        (0..nodes).all(|at| checks::status(world, at).is_some_and(|status| status.state == State::Leader))
    };
    until(&mut world, 5_000, "each leads itself", alone)?;
    for at in 1..voters {
        let raft_address = world.nodes[at].table.raft_address.clone();
        let request = Request::Join { node_id: format!("n{at}"), raft_address, force: true };
        let output = ask(&mut world, 0, request, 3 * WITHIN)?;
        if output != "ok" {
            return Err(output.into());
        }
    }
    Ok(world)
}

fn refused(refusal: &Refusal) -> String {
    let outcome = match refusal.outcome {
        Outcome::NotApplied => "not applied",
        Outcome::Unknown => "it may have been applied",
    };
    format!("{}: {outcome}", refusal.code.as_str())
}

/// Sends a node a request, and waits for the answer.
fn ask(world: &mut World, at: usize, request: Request, within: u64) -> Result<String, Failed> {
    let heard = Arc::new(Mutex::new(None));
    let answer = Arc::clone(&heard);
    let reply = Box::new(move |result: Result<Answer, Refusal>| {
        *answer.lock().expect("one thread") =
            Some(result.map_or_else(|refusal| refused(&refusal), |_| "ok".to_owned()));
    });
    let deadline = world.now + world.nodes[at].clock_offset + within;
    world.input(at, Input::Request { request, deadline, hop: Hop::Client, to: 0, reply });
    until(world, within + 1_000, "an answer", |_| heard.lock().expect("one thread").is_some())?;
    let output = heard.lock().expect("one thread").take();
    Ok(output.unwrap_or_default())
}

fn write(world: &mut World, at: &str, (key, value): (&str, &str), options: &[&str]) -> Result<String, Failed> {
    let (mut ttl, mut within) = (None, WITHIN);
    for option in options.chunks(2) {
        match option {
            ["for", seconds] => ttl = Some(Ttl(seconds.parse()?)),
            ["within", ms] => within = ms.parse()?,
            _ => return Err("no such option".into()),
        }
    }
    let (key, value) = (key.as_bytes().to_vec().into(), Value::binary(value.as_bytes().to_vec()));
    let command = Command::Put { key, value, condition: Condition::Always, ttl };
    ask(world, node(at)?, Request::Write(command.into()), within)
}

fn read(world: &mut World, at: usize, key: &str) -> Result<String, Failed> {
    let heard = Arc::new(Mutex::new(None));
    let answer = Arc::clone(&heard);
    let key = key.as_bytes().to_vec();
    let reply = Box::new(move |result: Result<ReadGrant, Refusal>| {
        *answer.lock().expect("one thread") = Some(match result.map(|grant| grant.fetch(&key)) {
            Ok(Err(failure)) => failure.to_string(),
            Ok(Ok(fetched)) => fetched
                .value
                .map_or_else(|| "none".to_owned(), |item| String::from_utf8_lossy(&item.value.bytes).into_owned()),
            Err(refusal) => refused(&refusal),
        });
    });
    let deadline = world.now + world.nodes[at].clock_offset + WITHIN;
    let bounds = Bounds::default();
    world.input(at, Input::Read { consistency: Consistency::Linearizable, bounds, deadline, reply });
    until(world, WITHIN + 1_000, "an answer", |_| heard.lock().expect("one thread").is_some())?;
    let output = heard.lock().expect("one thread").take();
    Ok(output.unwrap_or_default())
}

/// One line for each node: its state, its leader, and the members that it lists.
fn nodes(world: &mut World) -> String {
    let lines = (0..world.size).map(|at| {
        let Some(status) = checks::status(world, at) else { return format!("n{at} is down") };
        let leader = status.leader.as_ref().map_or("no leader", |leader| leader.node_id.as_str());
        let kind = match (&status, status.state) {
            (Status { removed: true, .. }, _) => "removed".to_owned(),
            (Status { joining: true, .. }, _) => "joining".to_owned(),
            (_, State::Leader) => "leader".to_owned(),
            (_, State::Follower) => format!("follower of {leader}"),
            (_, State::Candidate) => "candidate".to_owned(),
        };
        let members = status.members.iter().map(|member| match member.role {
            Role::Voter => member.node_id.clone(),
            Role::Learner => format!("({})", member.node_id),
        });
        format!("n{at} {kind}, members {}", members.collect::<Vec<_>>().join(" "))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Whether all running members follow one leader and have applied the same.
fn agree(world: &mut World) -> bool {
    let all: Vec<Status> = (0..world.size).filter_map(|at| checks::status(world, at)).collect();
    let Some(leader) = all
        .iter()
        .filter(|status| status.cluster_id == world.cluster && !status.removed)
        .find(|status| status.state == State::Leader && status.commit_index == status.last_log_index)
    else {
        return false;
    };
    all.iter().filter(|status| leader.members.iter().any(|member| member.raft_id == status.raft_id)).all(|status| {
        status.leader == leader.leader
            && status.applied_index == leader.applied_index
            && status.members.iter().all(|member| member.role == Role::Voter)
    })
}
