//! What a certificate file holds, for people: each certificate in full, and never a key.
//!
//! Why: `huskv certs show` answers what `openssl x509 -text` buries in a page: for which names, from when to when, from which CA.
//!
//! Invariants: nothing is verified here. Of a key only its kind is told. Files are bounded.
//!
//! See also: [`super::certificate`] (what the node itself reads), [`super::probe`] (certificates of a server).

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{PemObject, SectionKind};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::TrustError;
use super::certificate::CertificateInfo;

/// The largest file, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;
const DAY_SECONDS: u64 = 24 * 3600;

/// A part of a PEM file.
#[derive(Debug, PartialEq, Eq)]
pub enum Item {
    /// A certificate, or why it cannot be read.
    Certificate(Result<Description, String>),
    /// Something else: its kind.
    Other(&'static str),
}

/// A certificate in full. Its text has a line for each part.
#[derive(Debug, PartialEq, Eq)]
pub struct Description {
    /// Subject, issuer, names, validity.
    pub info: CertificateInfo,
    /// What it may be used for.
    pub usage: String,
    /// The SHA-256 of its DER form, as openssl prints it.
    pub fingerprint: String,
}

impl Description {
    /// Describes a certificate.
    ///
    /// # Errors
    /// A reason where it is not X.509.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let info = CertificateInfo::parse(certificate)?;
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|_| "it is no X.509 certificate".to_owned())?;
        let usage = usage(&parsed).map_err(|_| "its usage extensions are malformed".to_owned())?;
        Ok(Self { info, usage, fingerprint: fingerprint(certificate) })
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let info = &self.info;
        let date = humantime::format_rfc3339_seconds;
        writeln!(f, "  subject  {}", info.subject)?;
        writeln!(f, "  issuer   {}", info.issuer)?;
        writeln!(f, "  names    {}", info.names())?;
        writeln!(f, "  usage    {}", self.usage)?;
        let left = left(info, SystemTime::now());
        writeln!(f, "  valid    {} to {}, {left}", date(info.not_before), date(info.not_after))?;
        write!(f, "  SHA-256  {}", self.fingerprint)
    }
}

/// The time that is left, in words.
fn left(info: &CertificateInfo, now: SystemTime) -> String {
    let count = |seconds: u64| match seconds / DAY_SECONDS {
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    };
    match info.not_after.duration_since(now) {
        Err(since) => format!("expired {} ago", count(since.duration().as_secs())),
        Ok(_) if now < info.not_before => "not yet valid".to_owned(),
        Ok(left) => format!("{} left", count(left.as_secs())),
    }
}

fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let mut text = String::new();
    for byte in Sha256::digest(certificate) {
        let colon = if text.is_empty() { "" } else { ":" };
        // Writing to a String cannot fail.
        write!(text, "{colon}{byte:02X}").ok();
    }
    text
}

/// The usages, such as `server, client; Digital Signature`.
fn usage(certificate: &X509Certificate<'_>) -> Result<String, x509_parser::error::X509Error> {
    let mut parts = Vec::new();
    if let Some(constraints) = certificate.basic_constraints()?.filter(|found| found.value.ca) {
        parts.push(match constraints.value.path_len_constraint {
            Some(length) => format!("CA, path length {length}"),
            None => "CA".to_owned(),
        });
    }
    if let Some(extended) = certificate.extended_key_usage()? {
        let known = [
            (extended.value.any, "any"),
            (extended.value.server_auth, "server"),
            (extended.value.client_auth, "client"),
            (extended.value.code_signing, "code signing"),
            (extended.value.email_protection, "e-mail"),
            (extended.value.time_stamping, "time stamps"),
            (extended.value.ocsp_signing, "OCSP"),
            (!extended.value.other.is_empty(), "others"),
        ];
        let named: Vec<&str> = known.iter().filter(|(is_set, _)| *is_set).map(|(_, name)| *name).collect();
        parts.push(named.join(", "));
    }
    if let Some(usage) = certificate.key_usage()? {
        parts.push(usage.value.to_string());
    }
    if parts.is_empty() { Ok("not restricted".to_owned()) } else { Ok(parts.join("; ")) }
}

/// Reads what a PEM file holds, in order; at least one item.
///
/// # Errors
/// [`TrustError`], naming the file.
pub fn items(file: &Path) -> Result<Vec<Item>, TrustError> {
    let invalid = |reason: String| TrustError::Invalid { path: file.to_owned(), reason };
    let io = |source| TrustError::Io { path: file.to_owned(), source };
    let mut text = Vec::new();
    File::open(file).map_err(io)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut text).map_err(io)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(invalid(format!("it is larger than {MAX_FILE_BYTES} bytes")));
    }
    let mut items = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(&text) {
        let (kind, bytes) = section.map_err(|_| invalid("it is malformed PEM".to_owned()))?;
        items.push(match kind {
            SectionKind::Certificate => Item::Certificate(Description::of(&CertificateDer::from(bytes))),
            SectionKind::PrivateKey => Item::Other("a private key (PKCS #8)"),
            SectionKind::EcPrivateKey => Item::Other("a private key (SEC 1)"),
            SectionKind::RsaPrivateKey => Item::Other("a private key (PKCS #1)"),
            SectionKind::PublicKey => Item::Other("a public key"),
            SectionKind::Csr => Item::Other("a certificate request"),
            SectionKind::Crl => Item::Other("a revocation list"),
            _ => Item::Other("an item that is no certificate"),
        });
    }
    // The iterator skips sections that it does not know.
    if String::from_utf8_lossy(&text).contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") {
        items.push(Item::Other("an encrypted private key (PKCS #8)"));
    }
    if items.is_empty() {
        return Err(invalid("it holds no certificate in PEM form".to_owned()));
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::test_ca::TestCa;
    use std::time::Duration;

    fn items_of(text: &str) -> Result<Vec<Item>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        items(file.path()).map_err(|error| error.to_string().split_once(": ").unwrap().1.to_owned())
    }

    #[test]
    fn each_item_of_a_file_is_named_and_no_key_is_printed() {
        let ca = TestCa::new("ca");
        let leaf = ca.leaf("kv1", |leaf| leaf.for_servers_only());
        let both = items_of(&[leaf.certificate.as_str(), &leaf.key, &ca.certificate()].concat()).unwrap();
        let [Item::Certificate(Ok(first)), Item::Other("a private key (PKCS #8)"), Item::Certificate(Ok(second))] =
            &both[..]
        else {
            panic!("{both:?}")
        };
        assert_eq!((first.usage.as_str(), second.usage.as_str()), ("server", "CA; Key Cert Sign, CRL Sign"));
        assert_eq!((first.fingerprint.len(), first.info.subject.as_str()), (32 * 3 - 1, "CN=kv1"));
        for key in ["EC PRIVATE KEY", "RSA PRIVATE KEY", "PRIVATE KEY", "ENCRYPTED PRIVATE KEY"] {
            let text = format!("-----BEGIN {key}-----\nc2VjcmV0\n-----END {key}-----\n");
            let found = items_of(&text).unwrap();
            assert!(matches!(found[..], [Item::Other(kind)] if kind.contains("private key")), "{key}: {found:?}");
        }
        let broken = "-----BEGIN CERTIFICATE-----\nc2VjcmV0\n-----END CERTIFICATE-----\n";
        assert_eq!(items_of(broken).unwrap(), [Item::Certificate(Err("it is no X.509 certificate".into()))]);
    }

    #[test]
    fn files_without_any_are_refused() {
        for (text, reason) in [
            ("", "it holds no certificate in PEM form"),
            ("hello", "it holds no certificate in PEM form"),
            ("-----BEGIN CERTIFICATE-----\n????\n-----END CERTIFICATE-----\n", "it is malformed PEM"),
            (&"a".repeat(1 << 21), "it is larger than 1048576 bytes"),
        ] {
            assert_eq!(items_of(text).unwrap_err(), reason);
        }
        assert!(matches!(items(Path::new("/nowhere")), Err(TrustError::Io { .. })));
    }

    #[test]
    fn the_time_left_is_in_whole_days() {
        let day = Duration::from_secs(DAY_SECONDS);
        let start = SystemTime::UNIX_EPOCH + 100 * day;
        let info = CertificateInfo {
            subject: String::new(),
            issuer: String::new(),
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            not_before: start,
            not_after: start + 10 * day,
        };
        for (now, words) in [
            (start - day, "not yet valid"),
            (start, "10 days left"),
            (start + 9 * day, "1 day left"),
            (start + 9 * day + day / 2, "0 days left"),
            (start + 10 * day, "0 days left"),
            (start + 11 * day, "expired 1 day ago"),
        ] {
            assert_eq!(left(&info, now), words);
        }
    }
}
