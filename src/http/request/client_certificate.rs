//! The certificate of a client, on each request of its connection.
//!
//! Why: a connection lives longer than a certificate or the trust in its authority, so each request asks again.
//!
//! See also: [`crate::trust::verified_certificate`].

use std::sync::Arc;

use crate::http::response::problem::Problem;
use crate::trust::certificate::CertificateInfo;
use crate::trust::verified_certificate::VerifiedCertificate;

/// The verified certificate of a client; None where it has sent none, or has connected without TLS.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClientCertificate(pub(crate) Option<Arc<VerifiedCertificate>>);

impl ClientCertificate {
    /// Returns the 401 of a client whose certificate was valid when the connection began and is not any more.
    pub(crate) fn check(&self) -> Result<(), Problem> {
        let verdict = self.0.as_ref().map_or(Ok(()), |certificate| certificate.check());
        verdict.map_err(|reason| Problem::certificate_ended(&reason))
    }

    /// What it says.
    pub(crate) fn info(&self) -> Option<&CertificateInfo> {
        self.0.as_ref().and_then(|certificate| certificate.info())
    }
}
