//! What a certificate says: subject, issuer, names, dates.
//!
//! Why: refusals, warnings of the end and `huskv certs show` are for people, and rustls keeps none of it.
//!
//! Invariants: nothing is verified here, and text of a certificate is escaped before it reaches a log or a terminal.
//!
//! See also: RFC 5280, section 4.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

/// The most names of a certificate that are kept and shown.
const MAX_NAMES: usize = 32;
/// The most characters of one text of a certificate that are kept.
const MAX_TEXT: usize = 256;

/// The readable part of an X.509 certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateInfo {
    /// The subject, such as `CN=billing`; escaped.
    pub subject: String,
    /// The issuer, likewise.
    pub issuer: String,
    /// The DNS names of the subject alternative name, in lower case; escaped.
    pub dns_names: Vec<String>,
    /// The IP addresses of it.
    pub ip_addresses: Vec<IpAddr>,
    /// The beginning of its validity.
    pub not_before: SystemTime,
    /// The end of its validity.
    pub not_after: SystemTime,
}

impl CertificateInfo {
    /// Reads a certificate.
    ///
    /// # Errors
    /// A reason where it is not X.509.
    pub fn parse(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let (rest, parsed) =
            X509Certificate::from_der(certificate).map_err(|_| "it is no X.509 certificate".to_owned())?;
        if !rest.is_empty() {
            return Err("bytes follow the certificate".to_owned());
        }
        let mut info = Self {
            subject: shown(&parsed.subject().to_string()),
            issuer: shown(&parsed.issuer().to_string()),
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            not_before: time(parsed.validity().not_before),
            not_after: time(parsed.validity().not_after),
        };
        let names = parsed.subject_alternative_name().map_err(|_| "its subject alternative name is malformed")?;
        for name in names.iter().flat_map(|names| &names.value.general_names).take(MAX_NAMES) {
            match name {
                GeneralName::DNSName(name) => info.dns_names.push(shown(&name.to_ascii_lowercase())),
                GeneralName::IPAddress(bytes) => info.ip_addresses.extend(address(bytes)),
                _ => {}
            }
        }
        Ok(info)
    }

    /// The names as a list for people, such as `DNS:kv1 IP:10.0.0.1`; `no names` where there is none.
    #[must_use]
    pub fn names(&self) -> String {
        let dns = self.dns_names.iter().map(|name| format!("DNS:{name}"));
        let names: Vec<String> = dns.chain(self.ip_addresses.iter().map(|ip| format!("IP:{ip}"))).collect();
        if names.is_empty() { "no names".to_owned() } else { names.join(" ") }
    }
}

impl CertificateInfo {
    /// Whether it has a name of a kind that is used.
    #[must_use]
    pub fn has_names(&self) -> bool {
        !(self.dns_names.is_empty() && self.ip_addresses.is_empty())
    }

    /// Says that `name` is missing, such as `the name kv9 is not among DNS:kv1`.
    #[must_use]
    pub fn lacks(&self, name: &str) -> String {
        if self.has_names() {
            format!("the name {name} is not among {}", self.names())
        } else {
            format!("the name {name} is missing: the certificate has no names")
        }
    }
}

/// Whether servers may use the certificate: its extended key usage says so, or says nothing. None where it cannot be read.
#[must_use]
pub fn is_for_servers(certificate: &CertificateDer<'_>) -> Option<bool> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let usage = parsed.extended_key_usage().ok()?;
    Some(usage.is_none_or(|usage| usage.value.server_auth || usage.value.any))
}

impl fmt::Display for CertificateInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let until = humantime::format_rfc3339_seconds(self.not_after);
        write!(f, "{}, issued by {}, {}, valid until {until}", self.subject, self.issuer, self.names())
    }
}

/// Whether a certificate may issue others (RFC 5280, 4.2.1.9).
#[must_use]
pub fn is_authority(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return false };
    matches!(parsed.basic_constraints(), Ok(Some(constraints)) if constraints.value.ca)
}

/// Escapes and shortens text that another machine has chosen.
fn shown(text: &str) -> String {
    text.chars().take(MAX_TEXT).flat_map(char::escape_debug).collect()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// Dates before 1970 and beyond 9999 are taken for those, which changes no verdict: webpki judges the certificate itself.
fn time(at: ASN1Time) -> SystemTime {
    const LAST_SECOND: u64 = 253_402_300_799;
    let seconds = u64::try_from(at.timestamp()).unwrap_or(0).min(LAST_SECOND);
    UNIX_EPOCH + Duration::from_secs(seconds)
}
