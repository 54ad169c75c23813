//! The two ports: bound before anything else happens.
//!
//! Why: a port that is taken is the most common mistake with several nodes on one machine; it must be named, and must
//! leave no half-made directory behind.
//!
//! Laws: port 0 is picked by the system once and then kept by the directory, so peers find the node again. A kept port
//! on which nobody listens is waited for: it is the near end of a connection that has just ended (TIME_WAIT, RFC 9293
//! 3.6.1). Addresses that resolve to several are tried in the order of the resolver.
//!
//! Not here: accepting (`transport`, `http`).

use std::io;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use slog::{Logger, info};
use thiserror::Error;
use tokio::time::{Instant, sleep};

use crate::config::{Config, keys};
use crate::storage::Identity;

/// How long a kept port is waited for; Linux holds the end of a connection for 60 s.
const KEPT_PORT_WAIT: Duration = Duration::from_secs(65);

/// How often it is tried.
const KEPT_PORT_RETRY: Duration = Duration::from_millis(250);

/// Why a port cannot be bound; names the port and the setting that chose it.
#[derive(Debug, Error)]
pub enum ListenError {
    /// Something else listens there.
    #[error("port {port} on {host} is in use; stop what uses it, or choose another with {setting}{hint}")]
    InUse {
        /// The port.
        port: u16,
        /// The host.
        host: String,
        /// The setting.
        setting: String,
        /// What else may be going on; empty, or beginning with a semicolon.
        hint: String,
    },
    /// The host is not of this machine, is unknown, or the port is forbidden.
    #[error("cannot listen on port {port} of {host} ({setting} and {host_setting}): {source}")]
    Refused {
        /// The port.
        port: u16,
        /// The host.
        host: String,
        /// The setting that chose the port.
        setting: String,
        /// The setting that chose the host.
        host_setting: String,
        /// The system's answer.
        source: io::Error,
    },
}

/// One bound port.
pub(super) struct Port {
    /// The listener, non-blocking.
    pub listener: TcpListener,
    /// Where it listens really, `host:port`.
    pub address: String,
    /// The real port.
    pub port: u16,
    /// The real port, where the settings left the choice to the system.
    pub picked: Option<u16>,
    /// Whether it can be reached from this machine only.
    pub loopback: bool,
}

/// Both ports.
pub(super) struct Ports {
    /// For clients.
    pub http: Port,
    /// For peers.
    pub raft: Port,
}

/// Binds both ports as [`bind`] does, and waits for kept ones that are only the ends of old connections.
///
/// # Errors
/// [`ListenError`] where a port cannot be had.
pub(super) async fn bind_or_wait(config: &Config, seen: Option<&Identity>, log: &Logger) -> Result<Ports, ListenError> {
    let until = Instant::now() + KEPT_PORT_WAIT;
    let mut said = false;
    loop {
        match bind(config, seen) {
            Err(ListenError::InUse { port, host, .. })
                if is_kept(config, seen, port) && Instant::now() < until && nobody_listens(&host, port) =>
            {
                if !said {
                    info!(log, "waiting for the port that this node picked at its first start"; "port" => port);
                    said = true;
                }
                sleep(KEPT_PORT_RETRY).await;
            }
            bound => return bound,
        }
    }
}

/// Whether the settings left this port to the system, and the directory remembers it.
fn is_kept(config: &Config, seen: Option<&Identity>, port: u16) -> bool {
    let http = config.server.port == 0 && seen.and_then(|id| id.picked_http_port) == Some(port);
    let raft = config.raft.port == 0 && seen.and_then(|id| id.picked_raft_port) == Some(port);
    http || raft
}

fn nobody_listens(host: &str, port: u16) -> bool {
    TcpStream::connect((host, port)).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Binds both ports; where the settings say 0, the one that the directory remembers, or any that is free.
pub(super) fn bind(config: &Config, seen: Option<&Identity>) -> Result<Ports, ListenError> {
    let remembered = |pick: fn(&Identity) -> Option<u16>| seen.and_then(pick);
    let hint = match seen {
        Some(_) => format!("; another huskv may already run on {}", config.raft.vol_dir.display()),
        None => String::new(),
    };
    let http = port(config, "server.port", config.server.port, remembered(|id| id.picked_http_port), &hint)?;
    let raft = port(config, "raft.port", config.raft.port, remembered(|id| id.picked_raft_port), &hint)?;
    Ok(Ports { http, raft })
}

fn known_as(path: &str) -> String {
    keys::find(path).map_or_else(|| path.to_owned(), keys::Key::known_as)
}

fn port(
    config: &Config,
    setting: &'static str,
    asked: u16,
    remembered: Option<u16>,
    hint: &str,
) -> Result<Port, ListenError> {
    let wanted = if asked == 0 { remembered.unwrap_or(0) } else { asked };
    let bound = TcpListener::bind((config.host.as_str(), wanted)).and_then(|listener| {
        listener.set_nonblocking(true)?;
        let real = listener.local_addr()?;
        Ok((listener, real))
    });
    match bound {
        Ok((listener, real)) => Ok(Port {
            listener,
            address: real.to_string(),
            port: real.port(),
            picked: (asked == 0).then_some(real.port()),
            loopback: real.ip().to_canonical().is_loopback(),
        }),
        Err(source) if source.kind() == io::ErrorKind::AddrInUse => Err(ListenError::InUse {
            port: wanted,
            host: config.host.clone(),
            setting: known_as(setting),
            hint: hint.to_owned(),
        }),
        Err(source) => Err(ListenError::Refused {
            port: wanted,
            host: config.host.clone(),
            setting: known_as(setting),
            host_setting: known_as("host"),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Given, load};

    fn config(ports: [u16; 2]) -> Config {
        let flags = vec![("server.port", ports[0].to_string()), ("raft.port", ports[1].to_string())];
        load(&Given { flags, ..Given::default() }).unwrap()
    }

    fn identity(http: u16, raft: u16) -> Identity {
        Identity {
            started_as: "node1".into(),
            cluster_id: 1,
            raft_id: 2,
            ready: true,
            formed: false,
            removed: false,
            boot_history: crate::model::BootHistory::default(),
            raft_address: String::new(),
            http_address: String::new(),
            picked_http_port: Some(http),
            picked_raft_port: Some(raft),
            previous: None,
        }
    }

    #[test]
    fn picked_ports_are_used_again_and_fixed_ones_are_not_called_picked() {
        let first = bind(&config([0, 0]), None).unwrap();
        let (http, raft) = (first.http.port, first.raft.port);
        assert_eq!((first.http.picked, first.raft.picked), (Some(http), Some(raft)));
        assert_eq!(first.http.address, format!("127.0.0.1:{http}"));
        assert!(first.http.loopback);
        drop(first);
        let again = bind(&config([0, 0]), Some(&identity(http, raft))).unwrap();
        assert_eq!((again.http.port, again.raft.port), (http, raft));
        drop(again);
        let fixed = bind(&config([http, 0]), Some(&identity(1, raft))).unwrap();
        assert_eq!((fixed.http.port, fixed.http.picked, fixed.raft.picked), (http, None, Some(raft)));
    }

    #[tokio::test]
    async fn a_kept_port_that_only_an_old_connection_holds_is_waited_for() {
        // A connection whose near end is a port without anybody listening on it.
        let far = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(far.local_addr().unwrap()).unwrap();
        let port = near.local_addr().unwrap().port();
        let (config, identity) = (config([0, 0]), identity(port, 0));
        assert!(matches!(bind(&config, Some(&identity)), Err(ListenError::InUse { .. })), "the port is held");
        let log = Logger::root(slog::Discard, slog::o!());
        let waiting = tokio::spawn(async move { bind_or_wait(&config, Some(&identity), &log).await });
        // The far end closes first, so that it is the one in TIME_WAIT.
        let (taken, _) = far.accept().unwrap();
        drop(taken);
        drop(near);
        let ports = waiting.await.unwrap().unwrap();
        assert_eq!(ports.http.port, port);
    }

    #[test]
    fn a_port_in_use_is_named_with_its_setting() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let Err(error) = bind(&config([0, port]), None) else { panic!("bound twice") };
        let message = error.to_string();
        assert!(message.contains(&port.to_string()) && message.contains("RAFT_PORT"), "{message}");
    }
}
