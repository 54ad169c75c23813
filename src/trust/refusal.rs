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

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};
use rustls_pki_types::{CertificateDer, UnixTime};
use slog::{Logger, warn};

use super::certificate::CertificateInfo;
use crate::telemetry::logging::LogLimits;

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

    /// Explains why `certificate`, or a handshake, was refused.
    pub(super) fn of(cause: &Error, certificate: Option<&CertificateDer<'_>>) -> Self {
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
                format!(
                    "no common parameters: {}; this node uses TLS 1.2 and 1.3 with AEAD suites",
                    in_words(&format!("{what:?}"))
                ),
            ),
            Error::NoApplicationProtocol => {
                Self::new("protocol", "no common protocol (ALPN); the HTTP port speaks http/1.1, the peer port huskv")
            }
            Error::AlertReceived(alert) => Self::new(
                "alert",
                format!("the other side refused with the alert {alert:?}: {}", explain_alert(*alert)),
            ),
            Error::InvalidMessage(message) => Self::malformed(&explain_message(message)),
            Error::PeerMisbehaved(how) => Self::malformed(&in_words(&format!("{how:?}"))),
            Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
                Self::malformed("a message came out of its order")
            }
            _ => Self::new("other", cause.to_string()),
        }
    }

    fn malformed(what: &str) -> Self {
        Self::new("malformed", format!("what was sent is no valid TLS handshake: {what}"))
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
        CertificateError::BadSignature => (
            "signature",
            format!(
                "the signature is not by the trusted authority called {issuer}, or an RSA key has fewer than 2048 bits"
            ),
        ),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            ("purpose", "the certificate is not for this use (extended key usage)".to_owned())
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let name = expected.to_str();
            ("name", match presented.is_empty() {
                true => format!("the name {name} is missing: the certificate has no names"),
                false => format!("the name {name} is not among {}", presented.join(" ")),
            })
        }
        // webpki's own errors have no text but their names.
        CertificateError::Other(other) => explain_webpki(&other.0.to_string()),
        CertificateError::BadEncoding => {
            ("malformed certificate", "what was sent is a malformed certificate, or none".to_owned())
        }
        CertificateError::Expired => {
            ("certificate", "the dates of the certificate are wrong: it ends before it begins".to_owned())
        }
        CertificateError::UnhandledCriticalExtension => {
            ("certificate", "the certificate has a critical extension that is not supported".to_owned())
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => (
            "algorithm",
            "the signature algorithm of the certificate is not supported; use ECDSA P-256 or P-384, Ed25519, or RSA of \
             2048 bits and more, with SHA-256 or better"
                .to_owned(),
        ),
        other => ("certificate", format!("the certificate is invalid: {}", in_words(&format!("{other:?}")))),
    }
}

/// Explains an error of webpki by its name.
fn explain_webpki(name: &str) -> (&'static str, String) {
    let reason = match name {
        "CaUsedAsEndEntity" => {
            "the certificate is that of an authority, which stands for no client and no node; issue one with it".to_owned()
        }
        "EndEntityUsedAsCa" => {
            "the certificate was issued by one that is of no authority (basic constraints), or by itself".to_owned()
        }
        "PathLenConstraintViolated" => {
            "there are more authorities between the certificate and the trusted one than one of them allows (path length)"
                .to_owned()
        }
        "NameConstraintViolation" => {
            "the certificate has a name that its authority may not give (name constraints)".to_owned()
        }
        "UnsupportedCertVersion" => "the certificate is not of X.509 version 3; issue it anew".to_owned(),
        "UnsupportedCriticalExtension" => {
            "the certificate has a critical extension that is not supported".to_owned()
        }
        other => format!("the certificate is invalid: {}", in_words(other)),
    };
    ("certificate", reason)
}

/// Explains what a handshake had that none has.
fn explain_message(message: &InvalidMessage) -> String {
    match message {
        InvalidMessage::HandshakePayloadTooLarge
        | InvalidMessage::CertificatePayloadTooLarge
        | InvalidMessage::MessageTooLarge => {
            "it has a longer message than is read; are there too many certificates in the chain?".to_owned()
        }
        InvalidMessage::InvalidContentType => "it is no TLS record".to_owned(),
        InvalidMessage::MessageTooShort | InvalidMessage::MissingData(_) => "a message is too short".to_owned(),
        InvalidMessage::TrailingData(_) => "a message is too long for what it says".to_owned(),
        other => in_words(&format!("{other:?}")),
    }
}

/// Turns the name of a variant into words: `InvalidCcs(1)` is `invalid ccs`.
fn in_words(name: &str) -> String {
    let mut words = String::new();
    for character in name.chars().take_while(char::is_ascii_alphanumeric) {
        if character.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(character.to_ascii_lowercase());
    }
    words
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
        AlertDescription::DecryptError => {
            "it cannot verify a signature: it has another CA of the same name, as where that was made anew"
        }
        AlertDescription::HandshakeFailure => "no common cipher suite or signature scheme",
        AlertDescription::NoApplicationProtocol => {
            "no common protocol (ALPN); the HTTP port speaks http/1.1, the peer port huskv"
        }
        AlertDescription::UserCanceled => "it gave up",
        AlertDescription::CloseNotify => "it closed the connection",
        _ => "see RFC 8446, section 6.2",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::test_ca::TestCa;
    use rustls::OtherError;
    use rustls_pki_types::pem::PemObject;
    use std::sync::Arc;

    fn explained(cause: Error, certificate: Option<&CertificateDer<'_>>) -> Refusal {
        Refusal::explain(&io::Error::new(io::ErrorKind::InvalidData, cause), certificate)
    }

    #[test]
    fn each_failure_has_its_words() {
        let second = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let pem = TestCa::new("other-ca").client("billing").certificate;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let webpki = |name: &'static str| CertificateError::Other(OtherError(Arc::new(io::Error::other(name))));
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
            (webpki("CaUsedAsEndEntity"), "the certificate is that of an authority"),
            (webpki("EndEntityUsedAsCa"), "issued by one that is of no authority"),
            (webpki("MaximumPathDepthExceeded"), "the certificate is invalid: maximum path depth exceeded"),
            (CertificateError::BadEncoding, "malformed"),
            (CertificateError::UnhandledCriticalExtension, "critical extension"),
            (CertificateError::Revoked, "the certificate is invalid: revoked"),
            (
                CertificateError::NotValidForNameContext { expected: "kv1".try_into().unwrap(), presented: Vec::new() },
                "the name kv1 is missing: the certificate has no names",
            ),
        ] {
            let refusal = invalid(reason);
            assert!(refusal.reason.contains(words) && !refusal.reason.contains("Other"), "{refusal:?}");
            assert_eq!(refusal.certificate.unwrap().subject, "CN=billing");
        }
        for (cause, words) in [
            (Error::NoCertificatesPresented, "no certificate was sent"),
            (Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered), "no common TLS version"),
            (Error::NoApplicationProtocol, "http/1.1"),
            (Error::AlertReceived(AlertDescription::UnknownCA), "alert UnknownCA: it does not know the CA"),
            (Error::AlertReceived(AlertDescription::BadCertificate), "does not accept this node's certificate"),
            (Error::AlertReceived(AlertDescription::CloseNotify), "it closed the connection"),
            (Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge), "too many certificates in the chain"),
            (Error::InvalidMessage(InvalidMessage::InvalidCcs), "no valid TLS handshake: invalid ccs"),
            (Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon), "no cipher suites in common; this"),
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
