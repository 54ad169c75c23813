//! Faults that the page may cause to a node of the demo, and their end.
//!
//! Why: what a dead, a stopped and an unreachable leader look like is learned by causing them.
//!
//! Invariants: a node has at most one fault, and each can be healed. A kill is SIGKILL, so nothing is written that was not; a pause is
//! SIGSTOP; a cut ends all traffic between the node and its peers, while clients still reach it ([`crate::transport`]).
//!
//! See also: `page` for the requests, `processes` for the children.

use std::fmt;
use std::str::FromStr;

use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::sync::oneshot;

use super::credentials::Credentials;
use super::processes::{Node, Processes};
use crate::node::{ISOLATE, RECONNECT};

/// A fault that lasts until it is healed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Fault {
    /// Its process was ended by SIGKILL.
    Killed,
    /// Its process stands still.
    Paused,
    /// It reaches no peer.
    Cut,
}

/// What the page may do to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Causes a fault.
    Cause(Fault),
    /// Ends any fault; a node that has ended is started again.
    Heal,
}

/// What is known of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct NodeState {
    /// Its name.
    pub name: String,
    /// Its HTTP address.
    pub http: String,
    /// Its fault; `ended` for one that has exited by itself, `none` for a healthy one.
    pub state: &'static str,
}

/// A request for an action on the named node; the answer is the refusal, if any.
pub(super) struct Command {
    pub(super) node: String,
    pub(super) action: Action,
    pub(super) answer: oneshot::Sender<Result<(), Refusal>>,
}

/// Why nothing was done to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The demo has no such node.
    Unknown(String),
    /// Its state does not allow it.
    Conflict(String),
    /// The system refused.
    Failed(String),
}

impl FromStr for Action {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        match name {
            "kill" => Ok(Self::Cause(Fault::Killed)),
            "pause" => Ok(Self::Cause(Fault::Paused)),
            "cut" => Ok(Self::Cause(Fault::Cut)),
            "heal" => Ok(Self::Heal),
            _ => Err(()),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Killed => "killed",
            Self::Paused => "paused",
            Self::Cut => "cut",
        })
    }
}

impl Processes {
    /// The states of all nodes, in the order of their numbers.
    pub(super) fn states(&self) -> Vec<NodeState> {
        self.nodes.iter().map(Node::state).collect()
    }

    /// Does what the page asks for, and says what was done.
    pub(super) async fn act(
        &mut self,
        name: &str,
        action: Action,
        credentials: Option<&Credentials>,
    ) -> Result<String, Refusal> {
        let node = self.nodes.iter_mut().find(|node| node.plan.name == name);
        let node = node.ok_or_else(|| Refusal::Unknown(format!("the demo has no node {name:?}")))?;
        match action {
            Action::Cause(fault) => node.cause(fault).await?,
            Action::Heal => node.heal(credentials).await?,
        }
        Ok(match action {
            Action::Cause(fault) => format!("{name} is {fault}, by the page"),
            Action::Heal => format!("{name} is healed, by the page"),
        })
    }
}

impl Node {
    fn state(&self) -> NodeState {
        let state = match (self.fault, &self.exited) {
            (Some(Fault::Killed), _) => "killed",
            (_, Some(_)) => "ended",
            (Some(Fault::Paused), None) => "paused",
            (Some(Fault::Cut), None) => "cut",
            (None, None) => "none",
        };
        NodeState { name: self.plan.name.clone(), http: self.plan.http(), state }
    }

    async fn cause(&mut self, fault: Fault) -> Result<(), Refusal> {
        let state = self.state();
        // A kill ends a node in any state; the other faults are for a healthy one, so that there is one thing to heal.
        if state.state != "none" && !(fault == Fault::Killed && matches!(state.state, "paused" | "cut")) {
            let is = if state.state == "ended" { "has ended" } else { &format!("is {}", state.state) };
            return Err(Refusal::Conflict(format!("{} {is}; heal it first", state.name)));
        }
        match fault {
            Fault::Killed => {
                self.child.kill().await.map_err(|error| self.failed("killed", &error))?;
                self.exited = Some("killed by the page".to_owned());
            }
            Fault::Paused => self.signal(Signal::STOP).map_err(|error| self.failed("paused", &error))?,
            Fault::Cut => self.send_line(ISOLATE).await?,
        }
        self.fault = Some(fault);
        Ok(())
    }

    async fn heal(&mut self, credentials: Option<&Credentials>) -> Result<(), Refusal> {
        match self.state().state {
            "none" => return Err(Refusal::Conflict(format!("{} has no fault to heal", self.plan.name))),
            "paused" => self.signal(Signal::CONT).map_err(|error| self.failed("continued", &error))?,
            "cut" => self.send_line(RECONNECT).await?,
            _ => self.restart(credentials).map_err(|error| Refusal::Failed(error.to_string()))?,
        }
        self.fault = None;
        Ok(())
    }

    /// Continues the process if it is paused.
    pub(super) fn resume(&mut self) {
        if self.fault == Some(Fault::Paused) {
            self.signal(Signal::CONT).ok();
        }
    }

    /// Signals the process, unless it has ended.
    fn signal(&self, signal: Signal) -> std::io::Result<()> {
        // The id of a child that was not waited for cannot be that of another process.
        let pid = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let pid = pid.ok_or_else(|| std::io::Error::other("its process has ended"))?;
        Ok(kill_process(pid, signal)?)
    }

    /// Sends a line over its standard input.
    async fn send_line(&mut self, line: &str) -> Result<(), Refusal> {
        let sent = match &mut self.child.stdin {
            Some(pipe) => pipe.write_all(format!("{line}\n").as_bytes()).await,
            None => Err(std::io::Error::other("its process has ended")),
        };
        sent.map_err(|error| self.failed("cut or reconnected", &error))
    }

    fn failed(&self, what: &str, error: &std::io::Error) -> Refusal {
        Refusal::Failed(format!("{} cannot be {what}: {error}", self.plan.name))
    }
}
