//! The run of one seed.
//!
//! ```text
//!   forming         faults, 20 s          healing, at most 150 s                 expiry              history
//!   all nodes  -->  nemesis, clients,  -->  no faults: one leader, all nodes -->  clients stop,  -->  is every register
//!   join            operators               members, a write on each             keys expire         linearizable?
//! ```
//!
//! Invariants: after the last fault the cluster becomes whole by itself, within a bound of virtual time.

use std::panic::{AssertUnwindSafe, catch_unwind};

use huskv::model::State;

use crate::checks::{self, expiry, history};
use crate::faults::{disk_copies, disk_space};
use crate::trace::Trace;
use crate::world::disk::Fault;
use crate::world::{Event, World};

/// The duration of the faults, in virtual milliseconds.
const FAULTS: u64 = 20_000;

/// The time within which the cluster must be whole again.
const HEALING: u64 = 150_000;

/// The number of writes that it must acknowledge then.
const NEW_WRITES: u64 = 20;

/// The result of a seed.
pub struct Ended {
    /// The digest of all answers to clients, or the violation.
    pub result: Result<u64, String>,
    /// The virtual milliseconds.
    pub simulated: u64,
}

/// Runs one seed to its end; a panic of the code under test is a failure of the seed.
pub fn run(seed: u64, trace: &Trace) -> Ended {
    let mut simulated = 0;
    let result = catch_unwind(AssertUnwindSafe(|| phases(seed, trace, &mut simulated))).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        let said = said.or_else(|| panic.downcast_ref::<&str>().map(|said| (*said).to_owned()));
        Err(format!("a node panics: {}", said.unwrap_or_default()))
    });
    Ended { result, simulated }
}

/// Runs the phases of a seed one after the other.
fn phases(seed: u64, trace: &Trace, simulated: &mut u64) -> Result<u64, String> {
    let nodes = 3 + usize::try_from(seed % 2 * 2).expect("small");
    let mut world = World::new(seed, nodes, trace.clone());
    world.after(5, Event::ForgedOffer);
    world.after(10, Event::Operator);
    world.after(10, Event::RogueMember);
    world.after(10, Event::CertifiedStranger);
    // In a quarter of the seeds the cluster forms under faults.
    world.faults = seed % 8 >= 6;
    if world.faults {
        world.after(100, Event::Nemesis);
    } else {
        while world.step(20_000) && !world.operators.complete {}
        if !world.operators.complete {
            return Err(world.failure.unwrap_or_else(|| "the cluster does not form".into()));
        }
        world.faults = true;
        world.after(100, Event::Nemesis);
    }
    world.after(200, Event::DiskCopy);
    if disk_space::disks_fill(seed) {
        world.after(300, Event::DiskSpace);
    }
    for client in 0..4 {
        world.after(client, Event::Client(usize::try_from(client).expect("small")));
    }
    let end = world.now + FAULTS;
    while world.step(end) {
        *simulated = world.now;
    }
    heal(&mut world);
    let end = world.now + HEALING;
    while world.step(end) && !whole(&mut world) {
        *simulated = world.now;
    }
    // The history is checked even where the cluster has not healed, as the first violation is the better message.
    let healed = whole(&mut world);
    if healed {
        history::check_tokens(&mut world);
        expiry::check(&mut world);
        *simulated = world.now;
    }
    history::check(&mut world);
    match world.failure.take() {
        Some(failure) => Err(failure),
        None if !healed => Err(format!("not whole {HEALING} ms after the last fault: {}", describe(&mut world))),
        None => Ok(world.digest),
    }
}

/// Ends all faults: links are whole, disks are sound, and every node is up.
fn heal(world: &mut World) {
    world.trace(|| "faults end".into());
    world.faults = false;
    world.cut_links.clear();
    disk_copies::replace_stale_disks(world);
    disk_space::heal(world);
    for at in 0..world.size {
        world.nodes[at].paused_until = 0;
        world.nodes[at].disk_fails_until = 0;
        world.nodes[at].turn_ms = 0;
        if world.nodes[at].driver.is_none() {
            world.after(1, Event::Restart(at));
        } else {
            world.nodes[at].engine.set_fault(Fault::None);
        }
    }
    // Counted anew: only writes and joins after the last fault show that the cluster is whole.
    world.operators.complete = false;
    world.clients.by_node.clear();
}

/// Whether every node is a member, follows the one leader, and has acknowledged new writes.
fn whole(world: &mut World) -> bool {
    let count = world.size;
    let by_node = &world.clients.by_node;
    if !world.operators.complete || by_node.len() < count || by_node.values().sum::<u64>() < NEW_WRITES {
        return false;
    }
    let all: Vec<_> = (0..count).filter_map(|at| checks::status(world, at)).collect();
    all.len() == count
        && all.iter().filter(|status| status.state == State::Leader).count() == 1
        && all
            .iter()
            .all(|status| status.members.len() == count && status.leader == all[0].leader && status.leader.is_some())
}

/// Describes the nodes, for a cluster that is not whole.
fn describe(world: &mut World) -> String {
    let nodes = (0..world.size).map(|at| {
        checks::status(world, at).map_or_else(
            || format!("n{at} down"),
            |s| {
                let (applied, last, members) = (s.applied_index, s.last_log_index, s.members.len());
                format!("n{at} {:?} term {} applied {applied}/{last} members {members}", s.state, s.term)
            },
        )
    });
    let nodes: Vec<String> = nodes.collect();
    format!("complete {}, acknowledged {:?}; {}", world.operators.complete, world.clients.by_node, nodes.join("; "))
}
