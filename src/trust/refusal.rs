//! Refusals: why a handshake failed, in words.
//!
//! Why: `bad certificate` sends an operator through four configurations. The line says which rule failed, for which
//! certificate, with the dates and names that it has.
//!
//! Invariants: text of the other side is escaped and shortened (`certificate`). Nothing here decides anything.
//!
//! See also: [`super::acceptor`], which makes them; RFC 8446, section 6.2 (alerts).

use std::fmt::Display;
use std::io;
use std::time::{Duration, SystemTime};

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};
use rustls_pki_types::{CertificateDer, UnixTime};
use slog::{Logger, warn};

use super::certificate::CertificateInfo;
use crate::logging::LogLimits;

/// Why a handshake failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The kind, which the rate of log lines is limited by.
    pub kind: &'static str,
    /// The reason, for people.
    pub reason: String,
    /// What the refused certificate says, where one was sent.
    pub certificate: Option<CertificateInfo>,
}

impl Refusal {
    /// A refusal without a certificate.
    #[must_use]
    pub fn new(kind: &'static str, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into(), certificate: None }
    }

    /// A connection that does not begin with TLS, told by its first byte.
    #[must_use]
    pub fn not_tls(first_byte: u8) -> Self {
        if first_byte.is_ascii_uppercase() {
            return Self::new("plain HTTP", "plain HTTP on a port that speaks TLS only; use https://");
        }
        Self::new("no TLS", format!("the first byte, 0x{first_byte:02x}, begins no TLS handshake"))
    }

    /// A handshake that was not complete in time.
    #[must_use]
    pub fn timeout(limit: Duration) -> Self {
        Self::new("timeout", format!("no complete handshake within {} s", limit.as_secs()))
    }

    /// Explains the error of a handshake, in which the other side has presented `certificate`.
    pub(super) fn explain(error: &io::Error, certificate: Option<&CertificateDer<'_>>) -> Self {
        let Some(cause) = error.get_ref().and_then(|source| source.downcast_ref::<Error>()) else {
            return match error.kind() {
                io::ErrorKind::UnexpectedEof => {
                    Self::new("closed", "the connection was closed during the handshake, without an alert")
                }
                _ => Self::new("broken", format!("the connection broke during the handshake: {error}")),
            };
        };
        Self::of(cause, certificate)
    }

    fn of(cause: &Error, certificate: Option<&CertificateDer<'_>>) -> Self {
        match cause {
            Error::InvalidCertificate(reason) => {
                let info = certificate.map(CertificateInfo::parse);
                let malformed = matches!(info, Some(Err(_)));
                let info = info.and_then(Result::ok);
                let issuer = info.as_ref().map_or_else(|| "(unreadable)".to_owned(), |info| info.issuer.clone());
                let (kind, reason) = if malformed {
                    ("malformed certificate", "what was sent is no X.509 certificate".to_owned())
                } else {
                    explain_certificate(reason, &issuer)
                };
                Self { kind, reason, certificate: info }
            }
            Error::NoCertificatesPresented => {
                Self::new("no certificate", "no certificate was sent, and one is required")
            }
            // TLS 1.1 has no such extension, and rustls misses it before it looks at the version.
            Error::PeerIncompatible(
                PeerIncompatible::SignatureAlgorithmsExtensionRequired
                | PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
            ) => Self::new("version", "no common TLS version: this node speaks 1.2 and 1.3, and nothing older"),
            Error::PeerIncompatible(what) => Self::new(
                "incompatible",
                format!("no common parameters: {what:?}; this node uses TLS 1.2 and 1.3 with AEAD suites"),
            ),
            Error::NoApplicationProtocol => {
                Self::new("protocol", "no common protocol (ALPN); the HTTP port speaks http/1.1, the peer port huskv")
            }
            Error::AlertReceived(alert) => Self::new(
                "alert",
                format!("the other side refused with the alert {alert:?}: {}", explain_alert(*alert)),
            ),
            Error::InvalidMessage(_) | Error::PeerMisbehaved(_) | Error::InappropriateMessage { .. } => {
                Self::new("malformed", format!("what was sent is no valid TLS handshake: {cause}"))
            }
            _ => Self::new("other", cause.to_string()),
        }
    }

    /// Logs one line about a refused handshake, unless there are too many of this kind.
    pub fn log(&self, limits: &LogLimits, log: &Logger, side: &str, address: &dyn Display) {
        let Some(suppressed) = limits.due(self.kind) else { return };
        let (subject, names, not_after) = match &self.certificate {
            Some(info) => (info.subject.clone(), info.names(), date(info.not_after)),
            None => ("none".to_owned(), "none".to_owned(), "none".to_owned()),
        };
        warn!(log, "a TLS handshake was refused: {}", self.reason; "side" => side, "address" => address.to_string(),
            "subject" => subject, "names" => names, "not_after" => not_after, "more_like_this" => suppressed);
    }
}

fn date(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

fn unix(time: UnixTime) -> String {
    // The last second of 9999: what the formatter can write.
    date(SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs().min(253_402_300_799)))
}

fn explain_certificate(reason: &CertificateError, issuer: &str) -> (&'static str, String) {
    match reason {
        CertificateError::ExpiredContext { not_after, .. } => {
            ("expired", format!("the certificate expired on {}", unix(*not_after)))
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            ("not yet valid", format!("the certificate is not valid before {}; compare the clocks", unix(*not_before)))
        }
        CertificateError::UnknownIssuer => {
            ("unknown issuer", format!("unknown issuer {issuer}: it is not among the trusted authorities"))
        }
        CertificateError::BadSignature => {
            ("signature", format!("the signature is not by the trusted authority called {issuer}"))
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            ("purpose", "the certificate is not for this use (extended key usage)".to_owned())
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            ("name", format!("the name {} is not among {}", expected.to_str(), presented.join(" ")))
        }
        other => ("certificate", format!("the certificate is invalid: {other}")),
    }
}

fn explain_alert(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::UnknownCA => "it does not know the CA of this node's certificate",
        AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
            "it does not accept this node's certificate; it may not know the CA, or have dialled a name that is not in it"
        }
        AlertDescription::CertificateExpired => "it takes this node's certificate for expired; compare the clocks",
        AlertDescription::UnsupportedCertificate => "it does not support this node's kind of certificate",
        AlertDescription::CertificateRevoked => "it takes this node's certificate for revoked",
        AlertDescription::CertificateRequired | AlertDescription::NoCertificate => "it requires a certificate",
        AlertDescription::ProtocolVersion => "it speaks no TLS version of this node, 1.2 and 1.3",
        AlertDescription::HandshakeFailure => "no common cipher suite or signature scheme",
        AlertDescription::NoApplicationProtocol => {
            "no common protocol (ALPN); the HTTP port speaks http/1.1, the peer port huskv"
        }
        AlertDescription::UserCanceled => "it gave up",
        _ => "see RFC 8446, section 6.2",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::test_ca::TestCa;
    use rustls_pki_types::pem::PemObject;

    fn explained(cause: Error, certificate: Option<&CertificateDer<'_>>) -> Refusal {
        Refusal::explain(&io::Error::new(io::ErrorKind::InvalidData, cause), certificate)
    }

    #[test]
    fn each_failure_has_its_words() {
        let second = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let pem = TestCa::new("other-ca").client("billing").certificate;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let invalid = |reason| explained(Error::InvalidCertificate(reason), Some(&certificate));
        for (reason, words) in [
            (
                CertificateError::ExpiredContext { time: second(9), not_after: second(86_400) },
                "expired on 1970-01-02T00:00:00Z",
            ),
            (
                CertificateError::NotValidYetContext { time: second(9), not_before: second(u64::MAX) },
                "not valid before 9999-12-31T23:59:59Z",
            ),
            (CertificateError::UnknownIssuer, "unknown issuer CN=other-ca"),
            (CertificateError::BadSignature, "not by the trusted authority called CN=other-ca"),
            (CertificateError::InvalidPurpose, "not for this use"),
        ] {
            let refusal = invalid(reason);
            assert!(refusal.reason.contains(words), "{refusal:?}");
            assert_eq!(refusal.certificate.unwrap().subject, "CN=billing");
        }
        for (cause, words) in [
            (Error::NoCertificatesPresented, "no certificate was sent"),
            (Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered), "no common TLS version"),
            (Error::NoApplicationProtocol, "http/1.1"),
            (Error::AlertReceived(AlertDescription::UnknownCA), "alert UnknownCA: it does not know the CA"),
            (Error::AlertReceived(AlertDescription::BadCertificate), "does not accept this node's certificate"),
        ] {
            let refusal = explained(cause, None);
            assert!(refusal.reason.contains(words), "{refusal:?}");
        }
        assert_eq!(Refusal::explain(&io::ErrorKind::UnexpectedEof.into(), None).kind, "closed");
        assert_eq!((Refusal::not_tls(b'G').kind, Refusal::not_tls(0x80).kind), ("plain HTTP", "no TLS"));
        let garbage = CertificateDer::from(vec![1, 2, 3]);
        let refusal = explained(Error::InvalidCertificate(CertificateError::BadEncoding), Some(&garbage));
        assert_eq!((refusal.kind, refusal.certificate), ("malformed certificate", None));
    }
}
