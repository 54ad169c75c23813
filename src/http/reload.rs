//! The options that can change while the server runs, and the request for a reload that the node carries out.
//!
//! Why: the settings belong to the node, which is above this module. So a request for a reload carries its own reply, and what it
//! changes here comes back through [`Control`].
//!
//! Invariants: a request under way keeps what it has read; the next one sees the new options.
//!
//! See also: `node::reload` (what is read), [`crate::http::api::admin`] (the route).

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use super::metrics;
use super::options::Options;
use super::request::handler_context::ServerContext;
use super::server::browser_guard::BrowserGuard;
use super::server::host_guard::HostGuard;
use crate::auth::LastReload;

/// The options that can change.
#[derive(Debug, Clone)]
pub struct Reloadable {
    /// See [`Options::watchers`].
    pub watchers: usize,
    /// See [`Options::request_timeout`].
    pub request_timeout: Duration,
    /// See [`Options::allowed_origins`].
    pub allowed_origins: Vec<String>,
    /// See [`Options::allowed_hosts`].
    pub allowed_hosts: Vec<String>,
    /// The requests of one caller per second; 0: as many as it likes.
    pub requests_per_second: u32,
    /// Its requests at once after a pause; 0: as many as per second.
    pub request_burst: u32,
    /// See [`Options::trusted_proxies`].
    pub trusted_proxies: Vec<IpNet>,
}

/// What requests are checked by at present.
#[derive(Debug)]
pub(crate) struct Present {
    /// The hosts that the node answers for.
    pub(crate) hosts: HostGuard,
    /// The origins whose pages may use the node.
    pub(crate) origins: BrowserGuard,
    /// The timeout of a request without `?timeout=`.
    pub(crate) request_timeout: Duration,
}

impl Present {
    /// Derives it from the options.
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            hosts: HostGuard::new(options),
            origins: BrowserGuard::new(options),
            request_timeout: options.request_timeout,
        }
    }

    /// Derives it from the options of the start with those that have changed.
    pub(crate) fn changed(options: &Options, new: Reloadable) -> Self {
        let Reloadable { watchers, request_timeout, allowed_origins, allowed_hosts, .. } = new;
        Self::new(&Options { watchers, request_timeout, allowed_origins, allowed_hosts, ..options.clone() })
    }
}

/// A setting that a reload has found changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReloadChange {
    /// Its key.
    pub key: String,
    /// The value in use before.
    pub old: String,
    /// The value that was read.
    pub new: String,
}

/// The result of a reload.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ReloadReport {
    /// What is in use now.
    pub applied: Vec<ReloadChange>,
    /// What will be in use after a restart.
    pub needs_restart: Vec<ReloadChange>,
}

/// A request for a reload: where to send the report, or the reason why nothing has changed.
pub type ReloadRequest = oneshot::Sender<Result<ReloadReport, String>>;

/// Where requests for a reload are sent.
pub type ReloadRequests = mpsc::Sender<ReloadRequest>;

/// A handle of a running server, by which the node applies a reload; cheap to clone.
#[derive(Clone)]
pub struct Control(pub(super) Arc<ServerContext>);

impl Control {
    /// Uses these options from now on.
    pub fn apply(&self, options: Reloadable) {
        self.0.apply(options);
    }

    /// Lets `/readyz` fail from now on, since the node stops soon; requests are served as before.
    pub fn begin_drain(&self) {
        self.0.handle.begin_draining();
    }

    /// Shows a reload in the stats.
    pub fn record(&self, reload: LastReload) {
        if reload.problem.is_none() {
            self.0.metrics().access.reload_succeeded_at.set(metrics::seconds(reload.at));
        }
        self.0.last_reload.store(Some(Arc::new(reload)));
    }
}
