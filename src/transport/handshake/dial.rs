//! Dialling: from an address to a connection on which both ends have completed the handshake.
//!
//! Why: members, snapshot streams and rpcs dial the same way, and a failure must be explained to the operator who typed the
//! address.
//!
//! Invariants: the name is resolved at every dial, and every address of it is tried, handshake included (`localhost` may be `::1`,
//! where another process listens). Every wait is bounded.
//!
//! See also: `link` (when to dial again).

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::{Denial, Hello, WIRE_VERSION, Welcome, preamble};
use crate::model::{IdentityConflict, NodeAddress};
use crate::transport::socket::PeerStream;
use crate::transport::wire::frame_limits;
use crate::transport::wire::framing::{Preamble, read_frame, read_preamble};
use crate::transport::wire::{Frame, WireError};
use crate::trust::Mode;
use crate::trust::connector::handshake_error;
use crate::trust::peer_tls::PeerTls;

/// The limit of a connect to one address.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// The limit of the handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(3);
/// The maximum addresses tried per name.
const MAX_ADDRESSES: usize = 8;

/// Why a dial failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DialError {
    /// The address is malformed.
    #[error("it is not of the form host:port ({0})")]
    Address(&'static str),
    /// The name cannot be resolved.
    #[error("the host name cannot be resolved: {0}")]
    Unresolved(String),
    /// Nothing listens, or nothing answers.
    #[error("{0}")]
    Unreachable(String),
    /// Another protocol. What it sent goes to the debug log alone: a client that may cause a dial must not read the
    /// banners of other hosts.
    #[error("something answered, but not as a huskv peer port (an HTTP port?)")]
    Foreign(String),
    /// It closes the connection before its preamble is complete, as a process that ends does, or a server of another protocol that
    /// refuses the first bytes.
    #[error("{0} closed the connection before the handshake (a node that ends, or no huskv peer port?)")]
    Closed(SocketAddr),
    /// It accepts the connection and sends nothing.
    #[error(
        "{0} takes the connection, but does not answer as a huskv peer port (an HTTP port, or a process that hangs?)"
    )]
    Unresponsive(SocketAddr),
    /// The connection broke during the handshake.
    #[error("the handshake failed: {0}")]
    Broken(String),
    /// It refuses this node.
    #[error("refused: {0}")]
    Denied(Denial),
    /// It is not the recorded member.
    #[error("identity conflict: its {0}")]
    Conflict(IdentityConflict),
    /// It speaks another wire version.
    #[error("it speaks wire version {0}, this node speaks {WIRE_VERSION}")]
    Version(u16),
    /// One of the two refused the TLS handshake.
    #[error("TLS: {0}")]
    Tls(String),
}

/// Whom a dial means, and how the connection is secured.
#[derive(Clone)]
pub struct Target {
    /// TLS of this node; None for a plain connection.
    pub tls: Option<Arc<PeerTls>>,
    /// The name that the certificate there has to prove; None for any node of the cluster.
    pub name: Option<String>,
    /// Whether it has spoken TLS before: then a plain connection is out of the question.
    pub spoke_tls: bool,
}

impl fmt::Debug for Established {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Established")
            .field("welcome", &self.welcome)
            .field("certified", &self.certified)
            .finish_non_exhaustive()
    }
}

/// A connection after both handshakes.
pub struct Established {
    /// The connection.
    pub stream: PeerStream,
    /// What the acceptor says of itself.
    pub welcome: Welcome,
    /// Its name as its certificate proves it; None on a plain connection.
    pub certified: Option<String>,
}

impl DialError {
    /// Returns how specific an error is; of several addresses the most specific error is reported.
    fn specificity(&self) -> u8 {
        match self {
            Self::Unresolved(_) => 0,
            Self::Unreachable(_) => 1,
            Self::Address(_) => 2,
            Self::Foreign(_) | Self::Closed(_) | Self::Unresponsive(_) => 3,
            Self::Broken(_) => 4,
            Self::Version(_) | Self::Tls(_) => 5,
            Self::Denied(Denial::Removed { .. } | Denial::Conflict(_)) | Self::Conflict(_) => 7,
            Self::Denied(_) => 6,
        }
    }
}

/// The known addresses of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAddress {
    /// The address in the member table.
    table: String,
    /// The address the member reported last, in a handshake.
    self_reported: Option<NodeAddress>,
    /// Whether its own report is newer than the table.
    prefer_self_reported: bool,
    /// The address another member has passed on.
    gossiped: Option<NodeAddress>,
}

impl PeerAddress {
    /// Starts with the address in the table.
    pub fn new(table: &str) -> Self {
        Self { table: table.into(), self_reported: None, prefer_self_reported: false, gossiped: None }
    }

    /// Returns the address in the table.
    pub fn listed_address(&self) -> &str {
        &self.table
    }

    /// Stores an address reported by the member itself.
    pub fn set_self_reported(&mut self, address: &str) {
        if let Ok(address) = NodeAddress::from_str(address) {
            self.prefer_self_reported = *address != *self.table;
            self.self_reported = Some(address);
        }
    }

    /// Stores the address in a published table; true if it is new.
    pub fn set_listed(&mut self, address: &str) -> bool {
        let changed = address != self.table;
        if changed {
            address.clone_into(&mut self.table);
            self.prefer_self_reported = false;
        }
        changed
    }

    /// Stores an address passed on by another member; true if it is new.
    pub fn set_gossiped(&mut self, address: &str) -> bool {
        match NodeAddress::from_str(address) {
            Ok(address) if self.gossiped.as_ref() != Some(&address) => {
                self.gossiped = Some(address);
                true
            }
            _ => false,
        }
    }

    /// Returns the self-reported address if it differs from the table.
    pub fn self_reported(&self) -> Option<&str> {
        self.self_reported.as_deref().filter(|address| *address != self.table.as_str())
    }

    /// Returns the address of the given attempt: the newest first, and the others in turn.
    pub fn address(&self, attempt: usize) -> &str {
        // The table says old:1 and the member itself moved:1: attempts 0, 1, 2 go to moved:1, old:1, moved:1. Once the
        // table says new:1, that comes first.
        let (table, self_reported) = (Some(self.table.as_str()), self.self_reported.as_deref());
        let sources = if self.prefer_self_reported { [self_reported, table] } else { [table, self_reported] };
        let mut known: Vec<&str> = Vec::new();
        for address in sources.into_iter().chain([self.gossiped.as_deref()]).flatten() {
            if !known.contains(&address) {
                known.push(address);
            }
        }
        known[attempt % known.len()]
    }
}

/// Dials `address` and completes the handshake with `hello`, all within `limit`.
///
/// # Errors
/// [`DialError`]; of several addresses, the most specific one.
pub async fn dial(address: &str, hello: &Hello, target: &Target, limit: Duration) -> Result<Established, DialError> {
    NodeAddress::from_str(address).map_err(DialError::Address)?;
    let deadline = Instant::now() + limit;
    let sockets = timeout_at(deadline, resolve(address)).await;
    let sockets = sockets.map_err(|_| DialError::Unresolved("no answer in time".into()))??;
    // `localhost` is ::1, where nothing listens, and 127.0.0.1, where the node refuses: its refusal is reported.
    let mut best_error = DialError::Unresolved("it has no address".into());
    for (tried, socket) in sockets.iter().enumerate() {
        // The rest of the time is shared by the addresses left, but each gets enough for a handshake on a fast network.
        let left = deadline.saturating_duration_since(Instant::now());
        // 6 s and three addresses: 2 s for the first; if that fails at once, 3 s for the second.
        let share = left / u32::try_from(sockets.len() - tried).unwrap_or(1);
        match connect_one(*socket, hello, target, share.max(left.min(HANDSHAKE_LIMIT / 6))).await {
            Ok(established) => return Ok(established),
            Err(error) if error.specificity() >= best_error.specificity() => best_error = error,
            Err(_) => {}
        }
    }
    Err(best_error)
}

async fn resolve(address: &str) -> Result<Vec<SocketAddr>, DialError> {
    let sockets = tokio::net::lookup_host(address).await;
    Ok(sockets.map_err(|error| DialError::Unresolved(error.to_string()))?.take(MAX_ADDRESSES).collect())
}

/// Connects to one address and completes both handshakes.
async fn connect_one(
    socket: SocketAddr,
    hello: &Hello,
    target: &Target,
    limit: Duration,
) -> Result<Established, DialError> {
    let deadline = Instant::now() + limit;
    let left = || deadline.saturating_duration_since(Instant::now()).min(HANDSHAKE_LIMIT);
    let (mut stream, certified) = secure(socket, target, deadline).await?;
    let welcome = timeout(left(), shake_hands(&mut stream, hello, socket)).await;
    Ok(Established { stream, welcome: welcome.map_err(|_| DialError::Unresponsive(socket))??, certified })
}

/// Connects, and makes the TLS handshake where there is TLS. What has no TLS is spoken to in plain only where this node may do
/// so (`tls.peer` is accept) and where the member has never spoken TLS.
async fn secure(
    socket: SocketAddr,
    target: &Target,
    deadline: Instant,
) -> Result<(PeerStream, Option<String>), DialError> {
    let left = || deadline.saturating_duration_since(Instant::now());
    let stream = connect(socket, left()).await?;
    let Some(tls) = &target.tls else { return Ok((PeerStream::Plain(stream), None)) };
    let handshake = timeout(left().min(HANDSHAKE_LIMIT), tls.connect(stream, target.name.as_deref())).await;
    let error = match handshake.map_err(|_| DialError::Unresponsive(socket))? {
        Ok(((stream, certificate), identity)) => {
            return Ok((PeerStream::Tls(Box::new(stream), certificate), Some(identity.name)));
        }
        Err(error) => error,
    };
    // A node without TLS closes at the first byte. One with TLS that refuses says so in an alert, which is no reason for plain.
    if !error.is_no_tls() {
        return Err(DialError::Tls(error.reason));
    }
    if tls.mode() == Mode::Accept && !target.spoke_tls {
        return Ok((PeerStream::Plain(connect(socket, left()).await?), None));
    }
    Err(DialError::Tls(format!(
        "{}; a node whose tls.peer is off answers so, and this one needs TLS there",
        error.reason
    )))
}

/// Connects to one address.
async fn connect(socket: SocketAddr, limit: Duration) -> Result<TcpStream, DialError> {
    let connected = timeout(limit.min(CONNECT_LIMIT), TcpStream::connect(socket)).await;
    let stream = connected
        .map_err(|_| DialError::Unreachable(format!("{socket} does not answer")))?
        .map_err(|error| DialError::Unreachable(format!("{socket}: {error}")))?;
    // The kernel may pick the dialled port as the source port and connect the socket to itself.
    if stream.local_addr().ok() == stream.peer_addr().ok() {
        return Err(DialError::Unreachable(format!("{socket}: nothing listens there")));
    }
    drop(crate::transport::socket::prepare(&stream));
    Ok(stream)
}

async fn shake_hands(stream: &mut PeerStream, hello: &Hello, socket: SocketAddr) -> Result<Welcome, DialError> {
    use tokio::io::AsyncWriteExt;
    let broken = |error: WireError| DialError::Broken(error.to_string());
    let mut bytes = preamble(WIRE_VERSION).to_vec();
    bytes.extend(Frame::Hello(hello.clone()).encode().map_err(broken)?);
    // An acceptor may refuse and close before it has read everything, so its answer is read even if the write failed.
    let written = async {
        stream.write_all(&bytes).await?;
        stream.flush().await
    };
    let written = written.await;
    match read_preamble(stream).await {
        Ok(Preamble::Huskv(WIRE_VERSION)) => {}
        Ok(Preamble::Huskv(version)) => return Err(DialError::Version(version)),
        Ok(Preamble::Foreign(bytes)) => {
            return Err(DialError::Foreign(format!("it begins with {}", bytes.escape_ascii())));
        }
        Ok(Preamble::Closed) => return Err(DialError::Closed(socket)),
        // With TLS 1.3 the refusal of this node's certificate arrives only now.
        Err(error) => {
            let refused = handshake_error(&error).map(|refusal| DialError::Tls(refusal.reason));
            return Err(refused.unwrap_or(DialError::Closed(socket)));
        }
    }
    written.map_err(|error| DialError::Broken(error.to_string()))?;
    match read_frame(stream, frame_limits::VERDICT).await.map_err(broken)? {
        Frame::Verdict(Ok(welcome)) => Ok(welcome),
        Frame::Verdict(Err(denial)) => Err(DialError::Denied(denial)),
        other => Err(broken(WireError::Unexpected(other.kind().1))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_address_is_dialled_first_and_the_others_in_turn() {
        let mut peer_address = PeerAddress::new("old:1");
        assert_eq!([peer_address.address(0), peer_address.address(1)], ["old:1", "old:1"]);
        peer_address.set_self_reported("moved:1");
        assert_eq!([peer_address.address(0), peer_address.address(1)], ["moved:1", "old:1"]);
        assert!(!peer_address.set_listed("old:1"));
        assert_eq!(peer_address.address(0), "moved:1");
        assert!(peer_address.set_listed("new:1"));
        assert_eq!([peer_address.address(0), peer_address.address(1)], ["new:1", "moved:1"]);
        peer_address.set_self_reported("not an address");
        assert_eq!(peer_address.address(0), "new:1");
        peer_address.set_self_reported("new:1");
        assert_eq!([peer_address.address(0), peer_address.address(1)], ["new:1", "new:1"]);
        assert!(peer_address.set_gossiped("third:1") && !peer_address.set_gossiped("third:1"));
        assert_eq!([peer_address.address(0), peer_address.address(1)], ["new:1", "third:1"]);
    }
}
