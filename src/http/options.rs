//! Options of the HTTP server.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::audit::Audit;
use super::clients::rate_limit::RequestLimiter;
use super::clients::trusted_proxies::TrustedProxies;
use super::reload::ReloadRequests;
use super::server::fair_memory::Budgets;
use crate::auth::TokenStore;
use crate::model::Limits;
use crate::telemetry::logging::LogLimits;
use crate::trust::Mode;
use crate::trust::acceptor::TlsAcceptor;
use crate::trust::peer_tls::PeerTls;

/// What the HTTP server is configured with.
#[derive(Debug, Clone)]
pub struct Options {
    /// The longest key, in bytes.
    pub key_bytes: usize,
    /// The longest value, in bytes.
    pub value_bytes: usize,
    /// The longest request body, in bytes.
    pub body_bytes: usize,
    /// The most clients that watch at once.
    pub watchers: usize,
    /// The most connections at once; fewer where the process may open few files.
    pub connections: usize,
    /// The timeout of a request without `?timeout=`.
    pub request_timeout: Duration,
    /// How long a connection may be idle between two requests.
    pub idle_timeout: Duration,
    /// How long a client may keep the node waiting before it has to keep the least rate (64 KiB/s).
    pub rate_grace: Duration,
    /// Origins besides the node's own whose pages may use it, such as `https://ui.example.org`.
    pub allowed_origins: Vec<String>,
    /// Hosts besides the node's own that requests may be for; `*` is any.
    pub allowed_hosts: Vec<String>,
    /// The hosts that make an origin the node's own: bound and advertised host. On loopback localhost, 127.0.0.1 and
    /// `[::1]` do as well.
    pub own_hosts: Vec<String>,
    /// Whether the bound host is a loopback address.
    pub loopback: bool,
    /// The bound HTTP port.
    pub port: u16,
    /// How much memory clients may hold.
    pub budgets: Budgets,
    /// The HUSKV_JOIN list, shown in the stats of a node that waits to form a cluster; its hosts are the node's own too.
    pub join_list: Vec<String>,
    /// The tokens that requests need; None where every client may do everything.
    pub tokens: Option<Arc<TokenStore>>,
    /// How many requests a caller may send.
    pub limiter: Arc<RequestLimiter>,
    /// The proxies that name the addresses of clients.
    pub trusted_proxies: Arc<TrustedProxies>,
    /// TLS; None where the port is plain.
    pub tls: Option<Arc<HttpTls>>,
    /// TLS of the peer port, for the stats; None where that is plain.
    pub peer_tls: Option<Arc<PeerTls>>,
    /// The audit file.
    pub audit: Audit,
    /// Whether the page `/ui/` is served.
    pub ui: bool,
    /// Where a request for a reload of the settings goes.
    pub reloads: ReloadRequests,
    /// The versions of the peer protocol that the node speaks.
    pub wire_versions: RangeInclusive<u16>,
    /// The formats of the files in the data directory, by what is written in them.
    pub formats: &'static [(&'static str, u32)],
}

/// TLS of the HTTP port.
pub struct HttpTls {
    /// `accept` or `on`.
    pub mode: Mode,
    /// What makes the handshakes.
    pub acceptor: TlsAcceptor,
    /// The limits of the log lines about refused handshakes.
    pub(super) refusals: LogLimits,
}

impl HttpTls {
    /// TLS in this mode.
    #[must_use]
    pub fn new(mode: Mode, acceptor: TlsAcceptor) -> Self {
        Self { mode, acceptor, refusals: LogLimits::default() }
    }
}

impl fmt::Debug for HttpTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpTls").field("mode", &self.mode).field("acceptor", &self.acceptor).finish_non_exhaustive()
    }
}

impl Options {
    /// Whether the port uses TLS.
    pub(crate) fn tls_mode(&self) -> Mode {
        self.tls.as_ref().map_or(Mode::Off, |tls| tls.mode)
    }

    /// The limits of a command.
    pub(super) fn limits(&self) -> Limits {
        Limits::of_settings(self.key_bytes, self.value_bytes, self.body_bytes)
    }
}
