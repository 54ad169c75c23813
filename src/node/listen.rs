//! The HTTP port and the peer port: bound before anything else is done.
//!
//! Why: a port in use is the most common mistake with several nodes on one machine; the error must name it, and must leave
//! no half-made directory behind.
//!
//! Invariants: port 0 is picked by the system once and stored in the data directory, so peers find the node again. A
//! stored port that is in use while nothing listens on it is waited for: it is the local end of a connection in TIME_WAIT
//! (RFC 9293 3.6.1). Of a host with several addresses the first that can be bound is taken.
//!
//! See also: `transport::listener` and `http::server` (accepting).

use std::io;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use slog::{Logger, info, warn};
use thiserror::Error;
use tokio::time::{Instant, sleep};

use crate::config::{Config, keys};
use crate::storage::Identity;
use crate::trust::Mode;

/// How long a stored port is waited for; on Linux TIME_WAIT lasts 60 s.
const STORED_PORT_WAIT: Duration = Duration::from_secs(65);

/// The interval of the attempts.
const STORED_PORT_RETRY: Duration = Duration::from_millis(250);

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
        /// A further cause; empty, or beginning with a semicolon.
        hint: String,
    },
    /// The host is unknown or of another machine, or the port needs privileges.
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
        /// The error of the system.
        source: io::Error,
    },
    /// The port would be open to the network without TLS.
    #[error(
        "the {port_name} port would be open to the network without TLS on {address} ({host_setting}): every host that reaches it may \
         {harm}. Give it certificates (HUSKV_TLS_DIR and {mode_setting} = on, see docs/tls.md), bind it to loopback, or, where the \
         network itself is trusted, set HUSKV_NETWORK_INSECURE=true (network.insecure)"
    )]
    Insecure {
        /// `HTTP` or `peer`.
        port_name: &'static str,
        /// The address.
        address: String,
        /// The setting that chose the host.
        host_setting: String,
        /// What a stranger can do there.
        harm: &'static str,
        /// The setting of the mode.
        mode_setting: &'static str,
    },
}

/// One bound port.
pub(super) struct Port {
    /// The listener, non-blocking.
    pub listener: TcpListener,
    /// The bound address, `host:port`.
    pub address: String,
    /// The bound port.
    pub port: u16,
    /// The bound port, where the system picked it.
    pub picked: Option<u16>,
    /// Whether it is bound to loopback.
    pub loopback: bool,
}

/// All ports.
pub(super) struct Ports {
    /// For clients.
    pub http: Port,
    /// For peers.
    pub raft: Port,
    /// For figures and probes.
    pub metrics: Option<Port>,
}

/// Binds both ports as [`bind`] does, and waits for stored ones in TIME_WAIT.
///
/// # Errors
/// [`ListenError`] where a port cannot be bound.
pub(super) async fn bind_or_wait(config: &Config, seen: Option<&Identity>, log: &Logger) -> Result<Ports, ListenError> {
    let until = Instant::now() + STORED_PORT_WAIT;
    let mut is_logged = false;
    loop {
        match bind(config, seen) {
            Err(ListenError::InUse { port, host, .. })
                if is_stored(config, seen, port) && Instant::now() < until && is_closed(&host, port) =>
            {
                // A listening socket would accept the connection of `is_closed`: then another process has the port,
                // and waiting is in vain.
                if !is_logged {
                    info!(log, "waiting for the port that this node picked at its first start"; "port" => port);
                    is_logged = true;
                }
                sleep(STORED_PORT_RETRY).await;
            }
            bound => {
                if let Ok(ports) = &bound {
                    warn_of_insecure(config, ports, log);
                }
                return bound;
            }
        }
    }
}

/// Whether the system picked this port at an earlier start, and the directory has it.
fn is_stored(config: &Config, seen: Option<&Identity>, port: u16) -> bool {
    let http = config.server.port == 0 && seen.and_then(|id| id.picked_http_port) == Some(port);
    let raft = config.raft.port == 0 && seen.and_then(|id| id.picked_raft_port) == Some(port);
    http || raft
}

/// Whether connections to the port are refused.
fn is_closed(host: &str, port: u16) -> bool {
    TcpStream::connect((host, port)).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Binds both ports; for port 0 the one that the directory has, or any free one.
pub(super) fn bind(config: &Config, seen: Option<&Identity>) -> Result<Ports, ListenError> {
    let stored = |pick: fn(&Identity) -> Option<u16>| seen.and_then(pick);
    // A directory that exists belongs to an earlier start, whose process may still run.
    let hint = match seen {
        Some(_) => format!("; another huskv may already run on {}", config.raft.vol_dir.display()),
        None => String::new(),
    };
    let http =
        port(("server.port", config.server.port), ("host", &config.host), stored(|id| id.picked_http_port), &hint)?;
    let raft_host_setting = if config.raft.host == config.host { "host" } else { "raft.host" };
    let raft_host = (raft_host_setting, config.raft.host.as_str());
    let raft = port(("raft.port", config.raft.port), raft_host, stored(|id| id.picked_raft_port), &hint)?;
    if !config.network.insecure {
        let (tls, harm) = (&config.tls, "read and change everything, and read the tokens of others");
        check_secure(&http, tls.http_mode(), ("HTTP", "host", harm, "tls.http"))?;
        let harm = "speak as a member, and so make the cluster lose writes";
        check_secure(&raft, tls.peer_mode(), ("peer", raft_host_setting, harm, "tls.peer"))?;
    }
    // Plain wherever it is: no key can be reached there, and no secret but that of the figures is sent there.
    let metrics = match config.http.metrics_port {
        0 => None,
        wanted => Some(port(("http.metrics_port", wanted), ("host", &config.host), None, &hint)?),
    };
    Ok(Ports { http, raft, metrics })
}

/// Warns of ports that are open to the network without TLS, as `network.insecure` allows.
fn warn_of_insecure(config: &Config, ports: &Ports, log: &Logger) {
    let tls = &config.tls;
    for (port, mode, name) in [(&ports.http, tls.http_mode(), "HTTP"), (&ports.raft, tls.peer_mode(), "peer")] {
        if !port.loopback && mode != Mode::On {
            warn!(log, "the {} port is open to the network without TLS (network.insecure): every host that reaches it is trusted", name;
                "address" => &port.address, "tls" => mode.as_str());
        }
    }
}

/// Checks that a port is bound to loopback, or speaks TLS only.
fn check_secure(
    port: &Port,
    mode: Mode,
    (port_name, host_setting, harm, mode_setting): (&'static str, &str, &'static str, &'static str),
) -> Result<(), ListenError> {
    if port.loopback || mode == Mode::On {
        return Ok(());
    }
    let (address, host_setting) = (port.address.clone(), known_as(host_setting));
    Err(ListenError::Insecure { port_name, address, host_setting, harm, mode_setting })
}

fn known_as(path: &str) -> String {
    keys::find(path).map_or_else(|| path.to_owned(), keys::Key::known_as)
}

fn port(
    (setting, configured): (&'static str, u16),
    (host_setting, host): (&'static str, &str),
    stored: Option<u16>,
    hint: &str,
) -> Result<Port, ListenError> {
    let wanted = if configured == 0 { stored.unwrap_or(0) } else { configured };
    let bound = TcpListener::bind((host, wanted)).and_then(|listener| {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    });
    match bound {
        Ok((listener, address)) => Ok(Port {
            listener,
            address: address.to_string(),
            port: address.port(),
            picked: (configured == 0).then_some(address.port()),
            loopback: address.ip().to_canonical().is_loopback(),
        }),
        Err(source) if source.kind() == io::ErrorKind::AddrInUse => Err(ListenError::InUse {
            port: wanted,
            host: host.to_owned(),
            setting: known_as(setting),
            hint: hint.to_owned(),
        }),
        Err(source) => Err(ListenError::Refused {
            port: wanted,
            host: host.to_owned(),
            setting: known_as(setting),
            host_setting: known_as(host_setting),
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
            journal: 0,
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
    fn picked_ports_are_used_again_and_configured_ones_are_not_called_picked() {
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

    #[test]
    fn beyond_loopback_a_port_needs_tls_or_a_word_that_it_is_meant() {
        let bound = |flags: &[(&'static str, &str)]| {
            let ports = [("server.port", "0"), ("raft.port", "0"), ("advertise_host", "kv1")];
            let flags = [&ports, flags].concat().into_iter().map(|(path, value)| (path, value.to_owned())).collect();
            bind(&load(&Given { flags, ..Given::default() }).unwrap(), None)
                .map(|ports| (ports.http.loopback, ports.raft.loopback))
        };
        let refused = |flags: &[(&'static str, &str)]| bound(flags).unwrap_err().to_string();
        let tls = ("tls.dir", "tls");
        assert_eq!(bound(&[]).unwrap(), (true, true));
        assert_eq!(bound(&[("host", "0.0.0.0"), tls]).unwrap(), (false, false));
        assert_eq!(bound(&[("host", "0.0.0.0"), ("network.insecure", "true")]).unwrap(), (false, false));
        assert_eq!(bound(&[("raft.host", "0.0.0.0"), tls, ("tls.http", "off")]).unwrap(), (true, false));
        let http = refused(&[("host", "0.0.0.0")]);
        assert!(
            http.contains("HTTP port")
                && http.contains("HUSKV_NETWORK_INSECURE=true")
                && http.contains("HUSKV_TLS_DIR")
        );
        assert!(refused(&[("host", "0.0.0.0"), tls, ("tls.http", "accept")]).contains("the HTTP port"));
        assert!(refused(&[("host", "0.0.0.0"), tls, ("tls.peer", "off")]).contains("the peer port"));
        let peer = refused(&[("raft.host", "0.0.0.0")]);
        assert!(peer.contains("the peer port") && peer.contains("HUSKV_RAFT_HOST"), "{peer}");
    }

    #[tokio::test]
    async fn a_stored_port_in_time_wait_is_waited_for() {
        // A connection whose local port has no listener.
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
