//! The way of a write from its handler to the loop and back.
//!
//! Invariants: no command of a client is proposed whose token does not allow all of it. The name in a write is that of the token that this
//! node has authenticated, and nothing else in a request can set it.
//!
//! See also: `consensus::handle` (the queue of clients), `request::idempotency` (what makes it apply once).

use crate::http::request::handler_context::RequestContext;
use crate::http::request::idempotency;
use crate::http::request::uri::Deadline;
use crate::http::response::problem::Problem;
use crate::model::{Answer, Command, CommandResult, Request, Write, Written};

/// Proposes the command of a request with this body and waits for its result. With an `Idempotency-Key` it is applied once.
pub(crate) async fn propose(
    request: &RequestContext,
    body: &[u8],
    command: Command,
    deadline: Deadline,
) -> Result<Written, Problem> {
    if let Some(trail) = &request.trail {
        trail.command(&command);
    }
    request.caller.check_command(&command)?;
    let (idempotency_key, by) = (idempotency::of(request, body)?, request.caller.token_name().cloned());
    let write = Write { idempotency_key, by, command };
    match request.context.request(Request::Write(write), deadline).await? {
        // These three were committed as entries and refused when they were applied, so the problem has the index of an entry.
        Answer::Written(written) if written.outcome == CommandResult::IdempotencyKeyReused => {
            Err(Problem::key_reused().decided(&written))
        }
        Answer::Written(written) if written.outcome == CommandResult::Invalid => {
            Err(Problem::invalid().decided(&written))
        }
        Answer::Written(written) if written.outcome == CommandResult::ResultsFull => {
            Err(Problem::results_full(&written))
        }
        Answer::Written(written) => Ok(written),
        _ => Err(Problem::internal()),
    }
}
