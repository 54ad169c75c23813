//! The bound of one turn, on a node whose clock moves whenever the driver reads it.
//!
//! Why: heartbeats leave between turns. So a turn must be bounded by bytes on a fast machine and by time on a slow one,
//! however much is committed at once.

use std::sync::{Arc, Mutex};

use huskv::consensus::{Driver, Hop, Input};
use huskv::model::Millis;
use huskv::model::{Command, Condition, Operation, Request, Txn, Value};

use crate::checks;
use crate::trace::Trace;
use crate::world::World;

/// The bytes of a value.
const VALUE: usize = 64 << 10;

/// The number of values that a transaction reads.
const VALUES: usize = 16;

/// The number of transactions sent at once.
const TRANSACTIONS: u64 = 32;

/// Counts the turns until all are applied, where each read of the clock takes `clock_step` ms and a turn may read `work` bytes.
fn turns(clock_step: Millis, work: usize) -> Result<u64, String> {
    let mut world = World::new(1, 1, Trace::Off);
    world.apply_work = Some(work);
    // No flush ends here, and none is waited for.
    world.memtable_bytes = 1 << 30;
    world.restart(0);
    while world.step(5_000) {}
    let keys: Vec<_> = (0..VALUES).map(|at| bytes::Bytes::from(format!("v{at}"))).collect();
    for key in &keys {
        let value = Value::binary(vec![7; VALUE]);
        write(&mut world, Command::Put { key: key.clone(), value, condition: Condition::Always, ttl: None });
        while world.nodes[0].driver.as_ref().is_some_and(Driver::has_work) {
            world.drive(0, |_, _| Ok(()));
        }
    }
    world.outbox(0).clock_step.store(clock_step, std::sync::atomic::Ordering::Relaxed);
    let then: Vec<_> = keys.into_iter().map(|key| Operation::Get { key }).collect();
    for _ in 0..TRANSACTIONS {
        let txn = Txn { checks: Vec::new(), then: then.clone(), otherwise: Vec::new() };
        offer(&mut world, Command::Txn(txn));
    }
    let before = applied(&mut world)?;
    let (mut turns, mut last) = (0, before);
    while last < before + TRANSACTIONS {
        world.drive(0, |_, _| Ok(()));
        turns += 1;
        let now = applied(&mut world)?;
        // A turn ends after the entry that exceeds its budget, so it applies at least one.
        let most = (work / (VALUE * VALUES)).max(1) as u64;
        if now - last > most || turns > 10 * TRANSACTIONS {
            return Err(format!("a turn applies {} transactions, {most} are allowed; turn {turns}", now - last));
        }
        last = now;
    }
    world.failure.take().map_or(Ok(turns), Err)
}

fn write(world: &mut World, command: Command) {
    offer(world, command);
    world.drive(0, |_, _| Ok(()));
}

/// Hands node 0 a write without a turn.
fn offer(world: &mut World, command: Command) {
    let now = world.now + world.nodes[0].clock_offset;
    let answers = Arc::new(Mutex::new(0));
    let reply = Box::new(move |_| *answers.lock().expect("one thread") += 1);
    let input = Input::Request {
        request: Request::Write(command.into()),
        deadline: now + 60_000,
        hop: Hop::Client,
        to: 0,
        reply,
    };
    let driver = world.nodes[0].driver.as_mut().expect("it runs");
    drop(driver.handle(now, input));
}

fn applied(world: &mut World) -> Result<u64, String> {
    checks::status(world, 0).map(|status| status.applied_index).ok_or_else(|| "the node is down".into())
}

/// Checks the bound by work while time stands still, and the bound by time while work is cheap.
pub fn are_bounded() -> Result<(), String> {
    let all = VALUE * VALUES * TRANSACTIONS as usize;
    let (by_work, at_once, by_time) = (turns(0, all / 8)?, turns(0, all)?, turns(25, all)?);
    if by_work < 8 || at_once > 2 || by_time < 8 {
        return Err(format!("{by_work} turns by work, {at_once} without a bound, {by_time} by time"));
    }
    Ok(())
}
