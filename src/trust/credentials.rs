//! Credentials: a key pair and a CA bundle that are read again while the node runs.
//!
//! Why: certificates are renewed by tools that replace files, and a restart for that would cost an election. Kubernetes swaps
//! symbolic links, which notifications of file changes do not see, so the files are read again and compared.
//!
//! Invariants: pair and bundle are replaced together or not at all, and only by ones that a start would accept. A failure
//! leaves the present ones in use; it is logged once, and then at most once in ten minutes.
//!
//! Example: a tool writes node.pem, and a second later node-key.pem. A reload between the two finds a key that does not belong
//! to the certificate and keeps the old pair; the next one finds both new.
//!
//! See also: `node::reload`, which calls this every 10 s and at SIGHUP.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use slog::{Logger, info, warn};
use tokio::sync::watch;

use super::TrustError;
use super::certificate::{CertificateInfo, is_for_servers};
use super::pem_files::{CaBundle, KeyPair};
use crate::telemetry::logging::LogLimit;

/// By how much the clock of the issuer may be ahead of this machine's.
const CLOCK_DIFFERENCE: Duration = Duration::from_secs(300);
/// The interval at which the same failure is logged again, in milliseconds.
const REPEAT_MS: u64 = 600_000;

/// Where credentials are read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialFiles {
    /// The certificate chain, the node's own certificate first.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The certificates of the authorities whose certificates are accepted.
    pub ca: Option<PathBuf>,
}

/// A key pair, and the authorities that are trusted.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The node's own certificate and key.
    pub pair: KeyPair,
    /// The authorities.
    pub ca: Option<CaBundle>,
}

impl CredentialFiles {
    /// Reads all files, for use at `now`.
    ///
    /// # Errors
    /// [`TrustError`] where one is wrong, or where the certificate is not valid at `now`.
    pub fn read(&self, now: SystemTime) -> Result<Credentials, TrustError> {
        let pair = KeyPair::read(&self.certificate, &self.key)?;
        check_dates(&pair.info, now)
            .map_err(|reason| TrustError::Invalid { path: self.certificate.clone(), reason })?;
        let ca = self.ca.as_deref().map(CaBundle::read).transpose()?;
        Ok(Credentials { pair, ca })
    }
}

impl Credentials {
    /// Whether these are the same certificates. The key need not be compared: it belongs to its certificate.
    fn equals(&self, other: &Self) -> bool {
        let bundle = |of: &Self| of.ca.as_ref().map(|ca| ca.certificates.clone());
        self.pair.certified.cert == other.pair.certified.cert && bundle(self) == bundle(other)
    }
}

/// The result of a reload.
#[derive(Debug)]
pub enum Reload {
    /// The files hold what is in use.
    Unchanged,
    /// The new ones are in use.
    Replaced,
    /// They are wrong, and the old ones stay in use.
    Failed(TrustError),
}

/// A condition on what was read; its reason is about the certificate.
pub type Condition = Box<dyn Fn(&Credentials) -> Result<(), String> + Send + Sync>;

/// Checks that clients accept the certificate as that of a server.
///
/// # Errors
/// The reason why they do not.
pub fn check_server(read: &Credentials) -> Result<(), String> {
    match read.pair.certified.cert.first().and_then(is_for_servers) {
        Some(false) => {
            Err("the certificate is not for servers (extended key usage), so every client would refuse it; issue one \
                            with serverAuth, as huskv certs node does"
                .to_owned())
        }
        _ => Ok(()),
    }
}

/// Credentials that can be replaced while connections use them.
pub struct CredentialStore {
    files: CredentialFiles,
    condition: Condition,
    present: ArcSwap<Credentials>,
    /// The number of reloads that have replaced them.
    generation: watch::Sender<u64>,
    /// The last failure, until a reload succeeds, and the limit of its log line.
    failure: Mutex<(Option<String>, LogLimit)>,
    started: Instant,
}

impl std::fmt::Debug for CredentialStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CredentialStore").field("files", &self.files).finish_non_exhaustive()
    }
}

impl CredentialStore {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// As [`CredentialFiles::read`].
    pub fn open(files: CredentialFiles) -> Result<Self, TrustError> {
        Self::open_checked(files, Box::new(|_| Ok(())))
    }

    /// Reads the files for the first time; what is read fulfils `condition`, now and at each reload.
    ///
    /// # Errors
    /// As [`CredentialFiles::read`], and where it does not fulfil it.
    pub fn open_checked(files: CredentialFiles, condition: Condition) -> Result<Self, TrustError> {
        let present = ArcSwap::from_pointee(read_checked(&files, &condition)?);
        let generation = watch::Sender::new(0);
        Ok(Self { files, condition, present, generation, failure: Mutex::default(), started: Instant::now() })
    }

    /// The file of the CA bundle, for messages.
    #[must_use]
    pub fn ca_file(&self) -> String {
        self.files.ca.as_ref().map_or_else(String::new, |file| file.display().to_string())
    }

    /// The credentials in use.
    #[must_use]
    pub fn present(&self) -> Arc<Credentials> {
        self.present.load_full()
    }

    /// The number of replacements since the start.
    #[must_use]
    pub fn generation(&self) -> u64 {
        *self.generation.borrow()
    }

    /// Returns a receiver that sees each replacement.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// What the certificate in use says.
    #[must_use]
    pub fn info(&self) -> CertificateInfo {
        self.present.load().pair.info.clone()
    }

    /// Reads the files without using what they hold; None where that is in use. Blocks on the disk.
    ///
    /// # Errors
    /// As [`CredentialFiles::read`].
    pub fn check(&self) -> Result<Option<Credentials>, TrustError> {
        let read = read_checked(&self.files, &self.condition)?;
        Ok((!self.present.load().equals(&read)).then_some(read))
    }

    /// Uses what [`CredentialStore::check`] has read.
    pub fn replace(&self, new: Credentials, log: &Logger) {
        self.failure().0.take();
        info!(log, "new certificates are in use"; "certificate" => new.pair.info.to_string(),
            "authorities" => new.ca.as_ref().map_or(0, |ca| ca.infos.len()));
        self.present.store(Arc::new(new));
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// Reads the files again and uses what they hold, if all of it is right. Blocks on the disk.
    pub fn reload(&self, log: &Logger) -> Reload {
        let read = match self.check() {
            Ok(read) => read,
            Err(error) => {
                self.failed(&error.to_string(), log);
                return Reload::Failed(error);
            }
        };
        let Some(read) = read else {
            if self.failure().0.take().is_some() {
                info!(log, "the certificate files hold what is in use again");
            }
            return Reload::Unchanged;
        };
        self.replace(read, log);
        Reload::Replaced
    }

    /// Logs a failed reload, unless it is the last one again.
    fn failed(&self, reason: &str, log: &Logger) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut failure = self.failure();
        if failure.0.as_deref() != Some(reason) {
            *failure = (Some(reason.to_owned()), LogLimit::default());
        }
        if failure.1.every(REPEAT_MS, now).is_some() {
            warn!(log, "the certificate files are wrong; the certificates read before stay in use"; "reason" => reason,
                "in_use_until" => humantime::format_rfc3339_seconds(self.info().not_after).to_string());
        }
    }

    fn failure(&self) -> std::sync::MutexGuard<'_, (Option<String>, LogLimit)> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the files, for use now, and checks them.
fn read_checked(files: &CredentialFiles, condition: &Condition) -> Result<Credentials, TrustError> {
    let read = files.read(SystemTime::now())?;
    condition(&read).map_err(|reason| TrustError::Invalid { path: files.certificate.clone(), reason })?;
    Ok(read)
}

/// Checks that a certificate can be used at `now`.
fn check_dates(info: &CertificateInfo, now: SystemTime) -> Result<(), String> {
    if info.not_after < now {
        let on = humantime::format_rfc3339_seconds(info.not_after);
        return Err(format!("the certificate expired on {on}; issue a new one"));
    }
    if info.not_before > now + CLOCK_DIFFERENCE {
        let before = humantime::format_rfc3339_seconds(info.not_before);
        return Err(format!(
            "the certificate is not valid before {before}; check this machine's clock, or issue a new one"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::test_ca::{LeafParams, TestCa};
    use std::fs;

    fn days(days: i64) -> (i64, i64) {
        (-1, days)
    }

    fn silent() -> Logger {
        Logger::root(slog::Discard, slog::o!())
    }

    #[test]
    fn dates_allow_five_minutes_of_clock_difference() {
        let folder = tempfile::tempdir().unwrap();
        TestCa::new("ca").node("kv1").write(folder.path());
        let info = KeyPair::read(&folder.path().join("node.pem"), &folder.path().join("node-key.pem")).unwrap().info;
        let at = |time: SystemTime| check_dates(&info, time);
        assert!(at(info.not_before - Duration::from_secs(299)).is_ok());
        assert!(at(info.not_before - Duration::from_secs(301)).unwrap_err().contains("not valid before"));
        assert!(at(info.not_after).is_ok());
        assert!(at(info.not_after + Duration::from_secs(1)).unwrap_err().contains("expired on"));
    }

    #[test]
    fn a_certificate_for_clients_only_is_none_for_a_server() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let files = || CredentialFiles { certificate: path("node.pem"), key: path("node-key.pem"), ca: None };
        let open = || CredentialStore::open_checked(files(), Box::new(check_server));
        let ca = TestCa::new("ca");
        ca.leaf("kv1", |leaf| leaf.for_clients_only()).write(folder.path());
        let error = open().unwrap_err().to_string();
        assert!(error.contains("node.pem: the certificate is not for servers (extended key usage)"), "{error}");
        for change in [LeafParams::for_servers_only, LeafParams::for_any_use] {
            ca.leaf("kv1", change).write(folder.path());
            assert!(open().is_ok());
        }
        let store = open().unwrap();
        ca.leaf("kv1", |leaf| leaf.for_clients_only()).write(folder.path());
        assert!(matches!(store.reload(&silent()), Reload::Failed(_)));
    }

    #[test]
    fn a_reload_takes_all_files_or_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let ca = TestCa::new("first");
        ca.node("kv1").write(folder.path());
        let files =
            CredentialFiles { certificate: path("node.pem"), key: path("node-key.pem"), ca: Some(path("ca.pem")) };
        let store = CredentialStore::open(files).unwrap();
        let subject = || store.info().subject;
        assert!(matches!(store.reload(&silent()), Reload::Unchanged));
        // A new certificate without its key, a wrong bundle, an expired one: nothing is taken over.
        let old = ["node.pem", "node-key.pem", "ca.pem"].map(|name| (name, fs::read(path(name)).unwrap()));
        let restore = || old.iter().for_each(|(name, bytes)| fs::write(path(name), bytes).unwrap());
        let second = TestCa::new("second");
        fs::write(path("node.pem"), second.node("kv2").certificate).unwrap();
        assert!(
            matches!(store.reload(&silent()), Reload::Failed(TrustError::Invalid { path: of, .. }) if of == path("node-key.pem"))
        );
        second.node("kv2").write(folder.path());
        fs::write(path("ca.pem"), "garbage").unwrap();
        assert!(
            matches!(store.reload(&silent()), Reload::Failed(TrustError::Invalid { path: of, .. }) if of == path("ca.pem"))
        );
        second.leaf("kv2", |leaf| leaf.days((-9, -1))).write(folder.path());
        assert!(
            matches!(store.reload(&silent()), Reload::Failed(TrustError::Invalid { path: of, .. }) if of == path("node.pem"))
        );
        fs::remove_file(path("node.pem")).unwrap();
        assert!(matches!(store.reload(&silent()), Reload::Failed(TrustError::Io { .. })));
        assert_eq!((subject().as_str(), store.present().ca.as_ref().unwrap().infos.len()), ("CN=kv1", 1));
        restore();
        assert!(matches!(store.reload(&silent()), Reload::Unchanged));
        second.leaf("kv2", |leaf| leaf.days(days(9))).write(folder.path());
        assert!(matches!(store.reload(&silent()), Reload::Replaced));
        assert_eq!(subject(), "CN=kv2");
        // A bundle alone is a change, too.
        fs::write(path("ca.pem"), [ca.certificate(), second.certificate()].concat()).unwrap();
        assert!(matches!(store.reload(&silent()), Reload::Replaced));
        assert_eq!(store.present().ca.as_ref().unwrap().infos.len(), 2);
    }
}
