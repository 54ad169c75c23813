//! Scenarios: runs whose order of events is written down.
//!
//! | file | what |
//! |---|---|
//! | `script` | the scripts in `tests/scenarios`: text in, text out |
//! | `join_rollback` | joins that are never finished |
//! | `snapshot_over_membership` | a snapshot that covers a membership change which is not applied yet |
//! | `bounded_turns` | the bound of one turn in work and in time |

pub mod bounded_turns;
pub mod join_rollback;
pub mod script;
pub mod snapshot_over_membership;

use huskv::consensus::{Hop, Input};
use huskv::model::Request;
use libtest_mimic::Failed;

use crate::world::World;
use crate::world::outbox::Reply;

/// Lets time pass until `holds`, within `within` ms.
pub fn until(
    world: &mut World,
    within: u64,
    what: &str,
    mut holds: impl FnMut(&mut World) -> bool,
) -> Result<(), Failed> {
    let end = world.now + within;
    while !holds(world) {
        if let Some(failure) = world.failure.take() {
            return Err(failure.into());
        }
        if !world.step(end) && !holds(world) {
            return Err(format!("not within {within} ms: {what}").into());
        }
    }
    Ok(())
}

/// Asks node 0 to join another node, with a deadline.
pub fn join(world: &mut World, at: usize, timeout: u64) {
    let reply = world.outbox(0).reply(|result| Reply::Operator { asked: 0, result });
    let raft_address = world.nodes[at].table.raft_address.clone();
    let request = Request::Join { node_id: format!("n{at}"), raft_address, force: true };
    let deadline = world.now + world.nodes[0].clock_offset + timeout;
    world.input(0, Input::Request { request, deadline, hop: Hop::Client, to: 0, reply });
}
