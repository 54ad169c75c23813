//! The reload of what can change while the node runs: files of certificates and tokens every 10 s; at SIGHUP and by
//! `POST /admin/reload` all settings, and the audit file, which may have been moved away.
//!
//! Why: certificates are renewed every few weeks or months, and tokens and limits change any day; a restart for that would cost
//! an election.
//!
//! Invariants: the files are read on a thread for blocking work, one reload at a time. A reload that was asked for reads everything before it
//! uses anything, so a failed one changes nothing; the look every 10 s is for each file by itself. A failure is tried again
//! soon, because it may have met a replacement that was half done. What a running node cannot change stays as it is, and is named.
//!
//! See also: [`crate::config::RELOADED`] (the keys), [`crate::trust::credentials`] and [`crate::auth`] (the files),
//! `http::reload` (the request).

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use slog::{Logger, info, warn};
use tokio::sync::{Notify, mpsc};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::access_warnings;
use super::memory::Memory;
use super::module_options::{self, open_audit};
use crate::auth::{self, LastReload, TokenStore, format_time};
use crate::config::{Change, Loaded, RELOADED};
use crate::consensus::Handle;
use crate::http::{self, Audit, ReloadChange, ReloadReport, ReloadRequest};
use crate::telemetry::logging::{self, Guard, OpenedFile};
use crate::trust::certificate::CertificateInfo;
use crate::trust::credentials::{CredentialStore, Credentials, Reload};
use crate::trust::expiry::ExpiryLog;

/// The interval of looks at the files.
const INTERVAL: Duration = Duration::from_secs(10);
/// The interval while they are wrong.
const RETRY: Duration = Duration::from_secs(2);
/// How many requests for a reload may wait; more are answered later.
pub(super) const WAITING: usize = 16;

/// The keys that name the certificates of the two ports in a report.
const HTTP_CERTIFICATE: &str = "tls.http_cert";
const PEER_CERTIFICATE: &str = "tls.peer_cert";
/// The key that names the token file.
const TOKENS: &str = "auth.tokens";
/// The key that names the audit file.
const AUDIT: &str = "audit.file";

/// What is reloaded, and where it is used.
pub(super) struct Reloader {
    /// The settings in use.
    pub(super) settings: Loaded,
    /// The certificates of the HTTP port, where it uses TLS.
    pub(super) http: Option<Arc<CredentialStore>>,
    /// The certificates of the peer port, where it uses TLS.
    pub(super) peer: Option<Arc<CredentialStore>>,
    /// The tokens, where requests need one.
    pub(super) tokens: Option<Arc<TokenStore>>,
    /// The HTTP server.
    pub(super) control: http::Control,
    /// The change feed is behind it.
    pub(super) handle: Handle,
    /// The audit file.
    pub(super) audit: Audit,
    /// The memory of the node, which is divided at the start.
    pub(super) memory: Memory,
    /// Whether the HTTP port asks clients for certificates.
    pub(super) asks_for_certificates: bool,
    /// Where the node logs.
    pub(super) log: Logger,
    /// What the level of the log is set with.
    pub(super) guard: Guard,
}

/// Why files are read.
enum Trigger {
    /// The interval has passed.
    Interval,
    /// A signal.
    Hangup,
    /// A request.
    Request(ReloadRequest),
}

/// Everything that a reload has read, before any of it is used.
struct Read {
    settings: Loaded,
    changes: Vec<Change>,
    /// New ones, each with its key in a report and its store.
    certificates: Vec<(&'static str, Arc<CredentialStore>, Credentials)>,
    tokens: Option<auth::Loaded>,
    audit: Option<OpenedFile>,
}

impl Reloader {
    /// Reloads at SIGHUP, on request and in intervals, until it is aborted.
    pub(super) async fn run(mut self, hangup: Arc<Notify>, mut requests: mpsc::Receiver<ReloadRequest>) {
        let mut expiry = [ExpiryLog::default(), ExpiryLog::default()];
        let mut wait = INTERVAL;
        loop {
            for (log, (port, store)) in expiry.iter_mut().zip([("http", &self.http), ("peer", &self.peer)]) {
                store.iter().for_each(|store| log.check(port, &store.info(), &self.log));
            }
            let trigger = tokio::select! {
                () = sleep(wait) => Trigger::Interval,
                () = hangup.notified() => Trigger::Hangup,
                Some(reply) = requests.recv() => Trigger::Request(reply),
            };
            let reload = move || {
                let failed = self.reload(trigger);
                (self, failed)
            };
            // An error means that the process ends.
            let Ok((reloader, failed)) = spawn_blocking(reload).await else { return };
            self = reloader;
            wait = if failed { RETRY } else { INTERVAL };
        }
    }

    /// Reads again what the trigger asks for; true where something was wrong.
    fn reload(&mut self, trigger: Trigger) -> bool {
        let (by, reply) = match trigger {
            Trigger::Interval => return self.reload_files(),
            Trigger::Hangup => ("SIGHUP", None),
            Trigger::Request(reply) => ("POST /admin/reload", Some(reply)),
        };
        let since = Instant::now();
        let result = self.reload_settings();
        // A request has its line where it is answered.
        if reply.is_none() {
            self.audit.reloaded_by_signal(result.is_ok(), since.elapsed());
        }
        match &result {
            Ok(report) => info!(self.log, "settings reloaded"; "by" => by, "applied" => listed(&report.applied),
                "needs_restart" => listed(&report.needs_restart)),
            Err(reason) => {
                warn!(self.log, "the reload failed and has changed nothing"; "by" => by, "reason" => reason);
                // The audit file in use may have been moved away, which has nothing to do with what is wrong.
                if let Err(error) = self.audit.reopen() {
                    warn!(self.log, "the audit file cannot be opened again"; "reason" => error.to_string());
                }
            }
        }
        let problem = result.as_ref().err().cloned();
        self.control.record(LastReload { at: SystemTime::now(), problem });
        let failed = result.is_err();
        if let Some(reply) = reply {
            // A client that has gone does not need the report.
            reply.send(result).ok();
        }
        failed
    }

    /// Reads certificates and tokens again, each for itself; true where something was wrong.
    fn reload_files(&self) -> bool {
        let tokens = self.tokens.as_ref().map_or(Ok(()), |tokens| {
            let before = tokens.generation();
            let reloaded = tokens.reload();
            if tokens.generation() != before {
                access_warnings::of_unusable_tokens(tokens, self.asks_for_certificates, &self.log);
            }
            reloaded
        });
        let stores = [&self.http, &self.peer].into_iter().flatten();
        let certificates: Vec<Reload> = stores.map(|store| store.reload(&self.log)).collect();
        tokens.is_err() || certificates.iter().any(|it| matches!(it, Reload::Failed(_)))
    }

    /// Reads everything again, and uses all of it or nothing.
    fn reload_settings(&mut self) -> Result<ReloadReport, String> {
        let mut read = self.read()?;
        if let Some(change) = read.changes.iter().find(|change| change.key == AUDIT) {
            self.audit.close(&change.new);
        }
        // Only this can still fail, where no thread can be started, and then nothing has changed.
        self.audit.switch(read.audit.take()).map_err(|error| format!("{AUDIT}: {error}"))?;
        Ok(self.apply(read))
    }

    /// The certificates in use, each with its key in a report.
    fn stores(&self) -> impl Iterator<Item = (&'static str, Arc<CredentialStore>)> {
        let stores = [(HTTP_CERTIFICATE, self.http.clone()), (PEER_CERTIFICATE, self.peer.clone())];
        stores.into_iter().filter_map(|(key, store)| Some((key, store?)))
    }

    /// Reads the settings, and the files that those of the start name.
    fn read(&self) -> Result<Read, String> {
        let settings = self.settings.again().map_err(|error| error.to_string())?;
        let changes = self.settings.changes(&settings);
        // A file that will be another one after the restart is not looked at: the old one may be gone.
        let is_kept = |section: &str| !changes.iter().any(|change| change.key.starts_with(section));
        let mut certificates = Vec::new();
        for (key, store) in self.stores().filter(|_| is_kept("tls.")) {
            let new = store.check().map_err(|error| error.to_string())?;
            certificates.extend(new.map(|new| (key, store, new)));
        }
        let tokens = match self.tokens.as_ref().filter(|_| is_kept(TOKENS)) {
            Some(tokens) => tokens.check().map_err(|error| error.to_string())?,
            None => None,
        };
        // The last one, since it may create a file. The one in use is opened again, in case it was moved.
        let audit = open_audit(&settings.config).map_err(|error| error.to_string())?;
        Ok(Read { settings, changes, certificates, tokens, audit })
    }

    /// Uses what was read, which cannot fail.
    fn apply(&mut self, read: Read) -> ReloadReport {
        let Read { settings, changes, certificates, tokens, audit: _ } = read;
        let change = |key: &str, old: String, new: String| ReloadChange { key: key.to_owned(), old, new };
        let (applied, needs_restart): (Vec<_>, Vec<_>) =
            changes.into_iter().partition(|change| RELOADED.contains(&change.key));
        let shown = |changes: Vec<Change>| changes.into_iter().map(|one| change(one.key, one.old, one.new)).collect();
        let mut report = ReloadReport { applied: shown(applied), needs_restart: shown(needs_restart) };
        let config = &settings.config;
        self.guard.set_level(logging::level_named(&config.log.level));
        self.handle.feed().set_limits(module_options::history(config, self.memory));
        self.control.apply(module_options::reloadable(config, self.memory));
        for (key, store, new) in certificates {
            report.applied.push(change(key, until(&store.info()), until(&new.pair.info)));
            store.replace(new, &self.log);
        }
        if let Some(store) = &self.tokens {
            if let Some(new) = &tokens {
                report.applied.push(change(TOKENS, store.sha256(), new.sha256().to_owned()));
            }
            let is_new = tokens.is_some();
            store.replace(tokens);
            if is_new {
                access_warnings::of_unusable_tokens(store, self.asks_for_certificates, &self.log);
            }
        }
        self.settings = self.settings.reloaded(&settings);
        report
    }
}

/// Formats `log.level info -> debug, limits.watchers 5 -> 6`; `none` where there are none.
fn listed(changes: &[ReloadChange]) -> String {
    let one = |change: &ReloadChange| format!("{} {} -> {}", change.key, change.old, change.new);
    let all: Vec<_> = changes.iter().map(one).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

/// Names a certificate by its subject and its end.
fn until(info: &CertificateInfo) -> String {
    format!("{} until {}", info.subject, format_time(info.not_after))
}
