//! The PEM files of a key pair and of a CA bundle.
//!
//! Why: a wrong file is the most frequent cause of a handshake that fails, so it is named before any handshake.
//!
//! Invariants: files are bounded, regular and read once. A key that other users of the machine may read is refused, and so is
//! one that does not belong to its certificate.
//!
//! See also: `huskv certs`, which writes them.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::certificate::CertificateInfo;
use super::{TrustError, provider};

/// The largest file, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// The permission bit by which users other than owner and group may read.
const OTHERS_READ: u32 = 0o004;

/// A certificate chain with its key.
#[derive(Debug, Clone)]
pub struct KeyPair {
    /// The chain and the key, as rustls takes them.
    pub certified: Arc<CertifiedKey>,
    /// What its first certificate says.
    pub info: CertificateInfo,
}

/// The certificates of the authorities that are trusted.
#[derive(Debug, Clone)]
pub struct CaBundle {
    /// The roots, as rustls takes them.
    pub roots: Arc<RootCertStore>,
    /// The certificates themselves.
    pub certificates: Vec<CertificateDer<'static>>,
    /// What each says.
    pub infos: Vec<CertificateInfo>,
}

impl KeyPair {
    /// Reads the chain from `certificate` and its key from `key` (PKCS #8, SEC 1 or PKCS #1).
    ///
    /// # Errors
    /// [`TrustError`], naming the file. Dates are not looked at.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, TrustError> {
        let chain = certificates(certificate)?;
        let info = CertificateInfo::parse(&chain[0]).map_err(|reason| invalid(certificate, reason))?;
        let (text, mode) = read(key)?;
        if mode & OTHERS_READ != 0 {
            return Err(invalid(
                key,
                format!("other users may read this key (mode {:04o}); chmod 600 it", mode & 0o7777),
            ));
        }
        if String::from_utf8_lossy(&text).contains("ENCRYPTED") {
            return Err(invalid(
                key,
                "the key is encrypted, and a node asks for no passphrase; decrypt it (openssl pkey)",
            ));
        }
        let parsed =
            PrivateKeyDer::from_pem_slice(&text).map_err(|_| invalid(key, "it holds no private key in PEM form"))?;
        let signing = provider().key_provider.load_private_key(parsed);
        let signing = signing
            .map_err(|_| invalid(key, "the key is of a kind that is not supported; use ECDSA P-256, Ed25519 or RSA"))?;
        let certified = CertifiedKey::new(chain, signing);
        certified.keys_match().map_err(|_| {
            invalid(key, format!("the key does not belong to the certificate {}", certificate.display()))
        })?;
        Ok(Self { certified: Arc::new(certified), info })
    }
}

impl CaBundle {
    /// Reads every certificate of `file`.
    ///
    /// # Errors
    /// [`TrustError`], naming the file.
    pub fn read(file: &Path) -> Result<Self, TrustError> {
        let (mut roots, mut infos) = (RootCertStore::empty(), Vec::new());
        let certificates = certificates(file)?;
        for certificate in &certificates {
            infos.push(CertificateInfo::parse(certificate).map_err(|reason| invalid(file, reason))?);
            roots
                .add(certificate.clone())
                .map_err(|error| invalid(file, format!("a certificate of it cannot be an authority: {error}")))?;
        }
        Ok(Self { roots: Arc::new(roots), certificates, infos })
    }
}

/// Reads the certificates of a file; at least one.
///
/// # Errors
/// [`TrustError`], naming the file.
pub fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let (text, _) = read(file)?;
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match parsed {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(invalid(file, "it holds no certificate in PEM form")),
        Err(_) => Err(invalid(file, "it is malformed PEM")),
    }
}

/// Reads a bounded regular file, and its mode.
fn read(path: &Path) -> Result<(Vec<u8>, u32), TrustError> {
    let io = |source| TrustError::Io { path: path.to_owned(), source };
    // Without the flag the open of a pipe would wait for its writer; for regular files it has no effect.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    if !metadata.is_file() {
        return Err(invalid(path, "it is no regular file"));
    }
    let mut text = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text).map_err(io)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(invalid(path, format!("it is larger than {MAX_FILE_BYTES} bytes")));
    }
    Ok((text, metadata.mode()))
}

fn invalid(path: &Path, reason: impl Into<String>) -> TrustError {
    TrustError::Invalid { path: PathBuf::from(path), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    #[test]
    fn only_bounded_regular_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        mknodat(CWD, path("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        std::fs::write(path("long"), "#".repeat(1 + (1 << 20))).unwrap();
        std::fs::write(path("empty"), "").unwrap();
        for (name, reason) in [
            ("pipe", "no regular file"),
            (".", "no regular file"),
            ("long", "larger than 1048576 bytes"),
            ("empty", "no certificate in PEM form"),
            ("none", "No such file"),
        ] {
            let error = certificates(&path(name)).unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains(name), "{error}");
        }
    }
}
