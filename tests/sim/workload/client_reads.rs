//! Reads of a node's state by the threads that serve its clients, in two halves.
//!
//! ```text
//!   granted --1 to 5 ms--> the memtables are read --0 to 40 ms--> the tree is read --> answered
//!                                                |
//!                                                '-- a freeze came between: the memtables are read again
//! ```
//!
//! Why: on a real node applying, flushing and reading go on at once. Here turns and flushes come between the two halves.

use huskv::consensus::{Fetched, Listed, ReadGrant};
use huskv::model::{List, Refusal};
use huskv::storage::{BegunRead, Error, KeyInMemory, MemoryPage};

use crate::workload::clients;
use crate::world::outbox::Process;
use crate::world::{Event, World};

/// What a client reads.
#[derive(Debug, Clone)]
pub enum Query {
    /// One key.
    Key(Vec<u8>),
    /// A page.
    Page(List),
}

/// The half of a read that is done.
enum Begun {
    Nothing,
    Key(BegunRead<KeyInMemory>),
    Page(BegunRead<MemoryPage>),
}

/// A read under way.
pub struct ReadUnderWay {
    operation: u64,
    query: Query,
    grant: ReadGrant,
    begun: Begun,
}

/// Takes the answer of the loop to a read.
pub fn granted(world: &mut World, process: Process, operation: u64, query: Query, result: Result<ReadGrant, Refusal>) {
    match (result, query) {
        (Ok(grant), query) => {
            let delay = 1 + world.rng.below(5);
            let read = ReadUnderWay { operation, query, grant, begun: Begun::Nothing };
            world.after(delay, Event::Read(process, Box::new(read)));
        }
        (Err(refusal), Query::Key(_)) => clients::read(world, operation, world.now, Err(refusal)),
        (Err(refusal), Query::Page(_)) => clients::listed(world, operation, world.now, Err(refusal)),
    }
}

/// Does the next half of a read. The process that serves it may have ended: its client has no answer then.
pub fn go_on(world: &mut World, process: Process, mut read: Box<ReadUnderWay>) {
    if !world.alive(process) {
        return;
    }
    let ReadGrant { state, term, clock } = read.grant.clone();
    let answered = match (std::mem::replace(&mut read.begun, Begun::Nothing), &read.query) {
        (Begun::Key(begun), Query::Key(key)) => state.end_get(begun, key).map(|found| {
            found.map(|(value, at)| {
                let fetched = Fetched { value, index: at.index, term, clock };
                clients::read(world, read.operation, world.now, Ok(fetched));
            })
        }),
        (Begun::Page(begun), Query::Page(_)) => state.end_list(begun).map(|found| {
            found.map(|(page, at)| {
                let listed = Listed { page, index: at.index, term, clock };
                clients::listed(world, read.operation, world.now, Ok(listed));
            })
        }),
        (_, Query::Key(key)) => {
            read.begun = Begun::Key(state.begin_get(key));
            Ok(None)
        }
        (_, Query::Page(list)) => {
            read.begun = Begun::Page(state.begin_list(list));
            Ok(None)
        }
    };
    match answered {
        Ok(Some(())) => {}
        Ok(None) => {
            let delay = world.rng.below(40);
            world.after(delay, Event::Read(process, read));
        }
        Err(failure) => failed(world, process, &failure),
    }
}

fn failed(world: &mut World, process: Process, failure: &Error) {
    world.fail(format!("n{} cannot read its state: {failure}", process.0));
}
