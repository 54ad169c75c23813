//! Setup of a node: variables, arguments, directory; by default port 0 and a fresh directory.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::node::Node;

/// How a node is to be started.
#[derive(Clone)]
pub struct Setup {
    /// RAFT_NODE_ID, unless it is left to its default.
    pub name: String,
    /// The directory, where it is not one of the node's own.
    pub directory: Option<PathBuf>,
    /// The variables of the process.
    pub variables: BTreeMap<String, String>,
    /// Its command line.
    pub arguments: Vec<String>,
    /// The command that it runs under, if any.
    pub wrapper: Vec<String>,
    /// The secret that requests to it carry, if any.
    pub secret: Option<String>,
}

impl Setup {
    /// A node with this RAFT_NODE_ID, port 0 for both ports, and a directory of its own.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            directory: None,
            variables: BTreeMap::new(),
            arguments: Vec::new(),
            wrapper: Vec::new(),
            secret: None,
        }
        .set("RAFT_NODE_ID", name)
        .set("SERVER_PORT", "0")
        .set("RAFT_PORT", "0")
    }

    /// Sets a variable.
    pub fn set(mut self, variable: &str, value: impl ToString) -> Self {
        self.variables.insert(variable.to_owned(), value.to_string());
        self
    }

    /// Takes a variable away.
    pub fn unset(mut self, variable: &str) -> Self {
        self.variables.remove(variable);
        self
    }

    /// Uses this directory as RAFT_VOL_DIR.
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Adds a command line argument.
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Runs the node under this command.
    pub fn wrapped(mut self, command: &[&str]) -> Self {
        self.wrapper = command.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Sends this secret with every request that has no `Authorization` of its own.
    pub fn secret(mut self, secret: &str) -> Self {
        self.secret = Some(secret.to_owned());
        self
    }

    /// Starts it and waits until it is up.
    #[track_caller]
    pub fn start(self) -> Node {
        let mut node = self.prepare();
        node.start();
        node
    }

    /// Starts it and does not wait.
    pub fn spawn(self) -> Node {
        let mut node = self.prepare();
        node.spawn();
        node
    }

    /// Makes the node without starting it. Where neither a directory nor RAFT_VOL_DIR is given, the variable is set to
    /// a fresh directory, unless the node is a bare one.
    pub fn prepare(self) -> Node {
        let home = tempfile::Builder::new().prefix("huskv-").tempdir().expect("a directory for the node");
        let mut setup = self;
        let directory = setup.directory.clone().unwrap_or_else(|| home.path().join("volume"));
        setup.variables.insert("RAFT_VOL_DIR".to_owned(), directory.display().to_string());
        Node::at(setup, home, directory)
    }

    /// Makes the node with no variables but the two ports, so that its directory is the default one.
    pub fn bare() -> Node {
        let home = tempfile::Builder::new().prefix("huskv-").tempdir().expect("a directory for the node");
        let directory = home.path().join("data/node1");
        Node::at(Self::named("node1").unset("RAFT_NODE_ID"), home, directory)
    }
}
