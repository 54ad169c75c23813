//! Trust: TLS for both ports and for the client; the only module that names rustls.
//!
//! Why: certificates decide who may connect, so what they must hold, when they are read again, and how a refusal is explained
//! stands in one place. Everything above gets a stream and the certificate at its other end.
//!
//! ```text
//!   ca.pem, node.pem, node-key.pem -> pem_files -> certificate (names, dates) -> expiry (warnings)
//!                                         `-> credentials (reload) -> acceptor (ring; TLS 1.2 and 1.3; no system roots)
//!                                                                        |-> stream, verified_certificate (again after reloads)
//!                                                                        `-> refusal (why, in words)
//! ```
//!
//! Invariants: certificates are verified by webpki, never by code of our own. A key pair and a bundle replace the present ones
//! together or not at all. Sessions are not resumed and there is no early data, so each handshake verifies what is trusted now.
//!
//! See also: `config` (the settings), `docs/tls.md` (for operators).

pub mod acceptor;
pub mod authority;
pub mod certificate;
pub mod connector;
pub mod credentials;
pub mod expiry;
pub mod inspect;
pub mod names;
pub mod new_files;
pub mod peer_identity;
pub mod peer_tls;
pub mod pem_files;
pub mod probe;
pub mod refusal;
#[cfg(test)]
#[path = "../../tests/support/test_ca.rs"]
pub(crate) mod test_ca;
pub mod verified_certificate;

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use thiserror::Error;

/// Whether a port uses TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// Plain connections only.
    #[default]
    Off,
    /// Both on one port: the first byte of a connection tells.
    Accept,
    /// TLS only.
    On,
}

impl Mode {
    /// The name, as in the settings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Accept => "accept",
            Self::On => "on",
        }
    }
}

/// Whether clients are asked for a certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// None is asked for.
    #[default]
    None,
    /// One is verified where it is sent.
    Optional,
    /// No connection without one.
    Required,
}

/// Why a certificate, key or bundle cannot be used.
#[derive(Debug, Error)]
pub enum TrustError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The file does not hold what it should; the reason says what to do.
    #[error("{}: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// The cryptography of every configuration: ring, passed explicitly, so no process-wide default matters.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
