//! The certificate at the other end of an open connection, for as long as the connection is used.
//!
//! Why: a handshake verifies once, and a connection may live for days. A certificate that has expired since, or whose authority
//! has left the bundle, must not keep its rights until its client hangs up.
//!
//! Invariants: what the handshake verified is verified again by webpki, with the bundle that is present, before the first use after a
//! reload or after an end date of the chain. In between a use costs a comparison.
//!
//! See also: [`super::acceptor`], which makes them; [`super::credentials`] (reloads).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::Error;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};

use super::certificate::CertificateInfo;
use super::credentials::{CredentialStore, Credentials};
use super::provider;
use super::refusal::Refusal;

/// The certificate of a client or node, which was verified when its connection began.
pub struct VerifiedCertificate {
    credentials: Arc<CredentialStore>,
    /// The certificate, and those that were sent with it.
    chain: Vec<CertificateDer<'static>>,
    info: Option<CertificateInfo>,
    /// The end of each certificate of the chain; None where one cannot be read, so that each use verifies.
    ends: Option<Vec<SystemTime>>,
    last: Mutex<Verification>,
}

/// What the last verification said.
struct Verification {
    /// The reloads of the credentials before it.
    generation: u64,
    at: SystemTime,
    refused: Option<String>,
}

impl std::fmt::Debug for VerifiedCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VerifiedCertificate").field("info", &self.info).finish_non_exhaustive()
    }
}

impl VerifiedCertificate {
    /// The chain of a handshake that was verified with `credentials` after their reload `generation`, or with later ones. None for
    /// an empty chain.
    pub(super) fn new(
        credentials: Arc<CredentialStore>,
        chain: &[CertificateDer<'_>],
        generation: u64,
    ) -> Option<Self> {
        // One that only webpki can read names no client.
        let infos: Vec<_> = chain.iter().map(|certificate| CertificateInfo::parse(certificate).ok()).collect();
        let ends = infos.iter().map(|info| info.as_ref().map(|info| info.not_after)).collect();
        let info = infos.into_iter().next()?;
        let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        let last = Mutex::new(Verification { generation, at: SystemTime::now(), refused: None });
        Some(Self { credentials, chain, info, ends, last })
    }

    /// What it says; None where only webpki can read it.
    #[must_use]
    pub fn info(&self) -> Option<&CertificateInfo> {
        self.info.as_ref()
    }

    /// Verifies it again, where something has changed.
    ///
    /// # Errors
    /// The reason why it is not valid any more, in words.
    pub fn check(&self) -> Result<(), String> {
        self.check_at(SystemTime::now())
    }

    fn check_at(&self, now: SystemTime) -> Result<(), String> {
        // Before the credentials: a reload between the two only makes the next use verify again.
        let generation = self.credentials.generation();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.generation != generation || last.refused.is_some() || self.has_ended_since(last.at, now) {
            let refused = verify(&self.credentials.present(), &self.chain, now).err();
            *last = Verification { generation, at: now, refused };
        }
        last.refused.clone().map_or(Ok(()), Err)
    }

    /// Whether a certificate of the chain has ended between the last verification and `now`.
    fn has_ended_since(&self, last: SystemTime, now: SystemTime) -> bool {
        // In whole seconds, as webpki compares: a certificate is valid during its last second. A clock that was set back makes
        // `last` later than `now`.
        let ended = |end: &SystemTime, at: SystemTime| at >= *end + Duration::from_secs(1);
        self.ends.as_ref().is_none_or(|ends| now < last || ends.iter().any(|end| ended(end, now) && !ended(end, last)))
    }

    /// Waits until a reload has replaced the credentials by ones that do not verify it, and returns the reason.
    pub async fn until_refused(&self) -> String {
        // Subscribed first, checked second: a reload between the two wakes the wait below.
        let mut changes = self.credentials.changes();
        loop {
            if let Err(reason) = self.check() {
                return reason;
            }
            // The sender lives as long as `self`.
            drop(changes.changed().await);
        }
    }
}

/// Verifies a chain as that of a client. A node's certificate is one for clients, too.
fn verify(present: &Credentials, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<(), String> {
    let Some(ca) = &present.ca else { return Err("there is no CA bundle to verify it with".to_owned()) };
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&ca.roots), provider()).build();
    let verifier = verifier.map_err(|error| error.to_string())?;
    let (first, rest) = chain.split_first().ok_or("it is missing")?;
    let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    let verdict: Result<_, Error> = verifier.verify_client_cert(first, rest, now);
    verdict.map(drop).map_err(|error| Refusal::of(&error, Some(first)).reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::credentials::CredentialFiles;
    use crate::trust::test_ca::TestCa;
    use rustls_pki_types::pem::PemObject;
    use slog::Logger;
    use std::fs;

    /// A store that trusts `ca`, in `folder`.
    fn store(ca: &TestCa, folder: &std::path::Path) -> Arc<CredentialStore> {
        ca.node("kv1").write(folder);
        let path = |name: &str| folder.join(name);
        let files =
            CredentialFiles { certificate: path("node.pem"), key: path("node-key.pem"), ca: Some(path("ca.pem")) };
        Arc::new(CredentialStore::open(files).unwrap())
    }

    fn silent() -> Logger {
        Logger::root(slog::Discard, slog::o!())
    }

    fn certificate(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    #[tokio::test]
    async fn a_certificate_is_valid_until_its_end_or_until_the_bundle_lacks_its_issuer() {
        let (ca, next) = (TestCa::new("ca"), TestCa::new("next"));
        let folder = tempfile::tempdir().unwrap();
        let store = store(&ca, folder.path());
        let chain = [certificate(&ca.client("billing").certificate)];
        let client = VerifiedCertificate::new(Arc::clone(&store), &chain, store.generation()).unwrap();
        assert_eq!((client.check(), client.info().unwrap().subject.as_str()), (Ok(()), "CN=billing"));
        let end = client.info().unwrap().not_after;
        assert_eq!(client.check_at(end), Ok(()), "valid during its last second");
        let refused = client.check_at(end + Duration::from_secs(1)).unwrap_err();
        assert!(refused.starts_with("the certificate expired on"), "{refused}");
        assert_eq!(client.check(), Ok(()), "the clock was set back");

        let write = |bundle: &[&TestCa]| {
            let text: String = bundle.iter().map(|ca| ca.certificate()).collect();
            fs::write(folder.path().join("ca.pem"), text).unwrap();
            store.reload(&silent());
        };
        write(&[&ca, &next]);
        assert_eq!(client.check(), Ok(()));
        write(&[&next]);
        assert!(client.check().unwrap_err().contains("unknown issuer CN=ca"));
        assert!(client.until_refused().await.contains("unknown issuer CN=ca"));
        write(&[&ca]);
        assert_eq!(client.check(), Ok(()));
        assert!(VerifiedCertificate::new(store, &[], 0).is_none());
    }

    #[tokio::test]
    async fn a_reload_during_the_handshake_is_not_missed() {
        let (ca, next) = (TestCa::new("ca"), TestCa::new("next"));
        let folder = tempfile::tempdir().unwrap();
        let store = store(&ca, folder.path());
        let before = store.generation();
        fs::write(folder.path().join("ca.pem"), next.certificate()).unwrap();
        store.reload(&silent());
        let chain = [certificate(&ca.client("billing").certificate)];
        let client = VerifiedCertificate::new(store, &chain, before).unwrap();
        assert!(client.check().unwrap_err().contains("unknown issuer CN=ca"));
    }
}
