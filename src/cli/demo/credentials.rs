//! Credentials of a secure demo: a CA, the certificate of each node, and the token of an admin.
//!
//! Why: with them the demo's nodes are set up as those of a real secure cluster, by the code behind `huskv certs` and `huskv
//! token`, and all of it can be looked at and used by hand.
//!
//! ```text
//!   DIRECTORY/certs/ca.pem  ca-key.pem     the CA, O=demo
//!   DIRECTORY/certs/node1/                 ca.pem node.pem node-key.pem, which HUSKV_TLS_DIR names
//!   DIRECTORY/certs/tokens.toml            what HUSKV_AUTH_TOKENS names
//!   DIRECTORY/certs/admin.secret           the secret of its token `admin`
//!   DIRECTORY/certs/admin.header           the same as a header, for curl -H @FILE
//! ```
//!
//! Invariants: a folder with the CA of another cluster is left as it is. What is there and valid is used again, so that a CA which
//! a browser was given, and tokens that were added by hand, outlive a run. Keys and secrets have mode 0600 from their first moment.
//!
//! See also: `trust::authority`, `auth::NewToken`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use slog::{Discard, Logger, o};
use thiserror::Error;

use crate::auth::{NewToken, TokenStore};
use crate::cli::access::read_file;
use crate::client::{Access, Token};
use crate::trust::TrustError;
use crate::trust::authority::{self, Authority};
use crate::trust::connector::TlsConnector;
use crate::trust::names::Label;
use crate::trust::new_files::{self, NewFile};
use crate::trust::pem_files::CaBundle;

/// The folder in the directory of the demo.
const FOLDER: &str = "certs";
/// The cluster of the CA, by which its folder is known to be of a demo.
const CLUSTER: &str = "demo";
/// The name of the token.
const ADMIN: &str = "admin";
/// How long a certificate is valid.
const VALID_DAYS: u32 = 397;
/// A certificate that ends sooner is made anew, so that none ends while the demo runs for a day.
const RENEWAL: Duration = Duration::from_secs(24 * 3600);

/// Why there are no credentials. Nothing was started.
#[derive(Debug, Error)]
pub(crate) enum CredentialError {
    /// The CA is of a real cluster.
    #[error("{} holds the CA of the cluster {cluster}, which is no demo's; choose another --dir. Nothing was changed", .folder.display())]
    OtherCluster {
        /// Where it is.
        folder: PathBuf,
        /// Its cluster.
        cluster: String,
    },
    /// The CA is not one of `huskv certs`, or is damaged.
    #[error("{source}; remove {} for a new CA, or choose another --dir. Nothing was changed", .folder.display())]
    UnusableCa {
        /// Where it is.
        folder: PathBuf,
        /// What is wrong with it.
        source: TrustError,
    },
    /// The token cannot be used.
    #[error("{reason}; correct it, or start with --fresh for a new token. Nothing was started")]
    UnusableToken {
        /// What is wrong with it.
        reason: String,
    },
    /// A file cannot be written or read.
    #[error("{0}")]
    File(String),
}

fn file(error: impl std::fmt::Display) -> CredentialError {
    CredentialError::File(error.to_string())
}

/// The credentials in their folder.
#[derive(Debug)]
pub(crate) struct Credentials {
    folder: PathBuf,
    admin: Token,
}

/// Checks that the CA in `directory`, if there is one, is of a demo.
pub(super) fn check(directory: &Path) -> Result<(), CredentialError> {
    existing_ca(&directory.join(FOLDER)).map(drop)
}

fn existing_ca(folder: &Path) -> Result<Option<Authority>, CredentialError> {
    let exists = |name: &str| folder.join(name).symlink_metadata().is_ok();
    // A key without its certificate is no CA of a demo that is to be overwritten.
    if !exists("ca.pem") && !exists("ca-key.pem") {
        return Ok(None);
    }
    match Authority::read(folder) {
        Ok(ca) if ca.cluster().as_str() == CLUSTER => Ok(Some(ca)),
        Ok(ca) => {
            let cluster = ca.cluster().to_string();
            Err(CredentialError::OtherCluster { folder: folder.to_owned(), cluster })
        }
        Err(source) => Err(CredentialError::UnusableCa { folder: folder.to_owned(), source }),
    }
}

impl Credentials {
    /// Makes what is missing in `directory`, or all of it if `fresh`; returns what was made, in words.
    pub(super) fn prepare(
        directory: &Path,
        names: &[&str],
        fresh: bool,
    ) -> Result<(Self, Vec<String>), CredentialError> {
        // The folder below is for its owner alone, this one need not be.
        fs::create_dir_all(directory)
            .map_err(|error| file(format_args!("cannot make {}: {error}", directory.display())))?;
        let folder = directory.join(FOLDER);
        let mut made = Vec::new();
        let ca = match existing_ca(&folder)?.filter(|_| !fresh) {
            Some(ca) => ca,
            None => {
                let cluster = Label::parse(CLUSTER).map_err(file)?;
                authority::create(&folder, &cluster, fresh).map_err(file)?;
                made.push(format!("a CA: {}", folder.join("ca.pem").display()));
                Authority::read(&folder).map_err(file)?
            }
        };
        let now = SystemTime::now();
        let mut certified = Vec::new();
        for name in names {
            let label = Label::parse_own(name).map_err(file)?;
            if !ca.has_issued(&label, &[now, now + RENEWAL]) {
                ca.node(&label, &[], VALID_DAYS, true).map_err(file)?;
                certified.push(*name);
            }
        }
        if !certified.is_empty() {
            let which = if certified.len() == 1 { "a certificate" } else { "certificates" };
            made.push(format!("{which} for {}: {}", certified.join(", "), folder.join("NAME").display()));
        }
        let files = TokenFiles::of(&folder);
        if fresh || files.is_missing() {
            files.create()?;
            made.push(format!("an admin's token: {}", files.secret.display()));
        }
        let admin = files.read(now)?;
        Ok((Self { folder, admin }, made))
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The bundle that clients verify the nodes by.
    pub(super) fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// The directory of a node's certificate.
    pub(super) fn of_node(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The token file of the nodes.
    pub(super) fn tokens(&self) -> PathBuf {
        TokenFiles::of(&self.folder).tokens
    }

    /// The file with the admin's secret.
    pub(super) fn secret(&self) -> PathBuf {
        TokenFiles::of(&self.folder).secret
    }

    /// The file with the admin's secret as a header.
    pub(super) fn header(&self) -> PathBuf {
        TokenFiles::of(&self.folder).header
    }

    /// The admin's token.
    pub(super) fn admin(&self) -> Token {
        self.admin.clone()
    }

    /// Access to the nodes, as an admin.
    pub(super) fn access(&self) -> Result<Access, CredentialError> {
        Ok(self.access_without_token()?.with_token(self.admin()))
    }

    /// Access to the nodes for the requests of others.
    pub(super) fn access_without_token(&self) -> Result<Access, CredentialError> {
        let path = self.ca();
        let bundle = CaBundle::read(&path).map_err(file)?;
        let connector = TlsConnector::new(&bundle, &path.display().to_string(), None).map_err(file)?;
        Ok(Access::over_tls(connector))
    }
}

/// The files of the admin's token.
struct TokenFiles {
    tokens: PathBuf,
    secret: PathBuf,
    header: PathBuf,
}

impl TokenFiles {
    fn of(folder: &Path) -> Self {
        let path = |name: &str| folder.join(name);
        Self {
            tokens: path("tokens.toml"),
            secret: path(&format!("{ADMIN}.secret")),
            header: path(&format!("{ADMIN}.header")),
        }
    }

    /// Whether there is neither a token file nor a secret. Where there is one of them it may be the caller's own.
    fn is_missing(&self) -> bool {
        [&self.tokens, &self.secret].iter().all(|path| path.symlink_metadata().is_err())
    }

    fn create(&self) -> Result<(), CredentialError> {
        let new = NewToken { name: ADMIN.to_owned(), admin: true, ..NewToken::default() };
        let (secret, table) = new.draw().map_err(file)?;
        let table =
            format!("# huskv token new prints more tokens; the nodes read this file again every 10 s.\n{table}");
        self.write(&[(&self.tokens, table), (&self.secret, line(secret.expose()))])
    }

    fn write(&self, files: &[(&PathBuf, String)]) -> Result<(), CredentialError> {
        let Some(folder) = self.tokens.parent() else { return Ok(()) };
        let files: Vec<_> = files.iter().map(|(path, text)| NewFile::secret((*path).clone(), text)).collect();
        new_files::write(folder, &files, true).map(drop).map_err(file)
    }

    /// Reads the secret, checks that it is an admin's, and writes its header where that is missing.
    fn read(&self, now: SystemTime) -> Result<Token, CredentialError> {
        let unusable = |path: &Path, reason: &dyn std::fmt::Display| CredentialError::UnusableToken {
            reason: format!("{}: {reason}", path.display()),
        };
        let store = TokenStore::open(&self.tokens, Logger::root(Discard, o!()))
            .map_err(|error| CredentialError::UnusableToken { reason: error.to_string() })?;
        let secret = read_file(&self.secret).map_err(|error| unusable(&self.secret, &error))?;
        let token = store.with_tokens(|tokens| tokens.authenticate(&secret, now));
        if !token.is_ok_and(|token| token.is_admin()) {
            let reason = format!("it is no secret of an admin in {}", self.tokens.display());
            return Err(unusable(&self.secret, &reason));
        }
        let header = format!("Authorization: Bearer {secret}");
        if !read_file(&self.header).is_ok_and(|text| text == header) {
            self.write(&[(&self.header, line(&header))])?;
        }
        Token::new(&secret).map_err(|error| unusable(&self.secret, &error))
    }
}

fn line(text: &str) -> String {
    format!("{text}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    const NAMES: [&str; 2] = ["node1", "node2"];

    fn made(home: &Path, fresh: bool) -> Vec<String> {
        let (credentials, made) = Credentials::prepare(home, &NAMES, fresh).unwrap();
        credentials.access().unwrap();
        made
    }

    fn text(home: &Path, name: &str) -> String {
        fs::read_to_string(home.join(FOLDER).join(name)).unwrap()
    }

    #[test]
    fn credentials_are_kept_and_what_is_missing_is_made() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path();
        check(home).unwrap();
        assert_eq!(made(home, false).len(), 3);
        let mode = |name: &str| fs::metadata(home.join(FOLDER).join(name)).unwrap().mode() & 0o777;
        for (name, expected) in
            [("", 0o700), ("admin.secret", 0o600), ("admin.header", 0o600), ("node1/node-key.pem", 0o600)]
        {
            assert_eq!(mode(name), expected, "{name}");
        }
        let secret = text(home, "admin.secret");
        assert_eq!(text(home, "admin.header"), format!("Authorization: Bearer {secret}"));
        assert!(!text(home, "tokens.toml").contains(secret.trim()));
        let before = ["ca.pem", "node1/node.pem", "admin.secret"].map(|name| text(home, name));
        assert!(made(home, false).is_empty());
        fs::remove_dir_all(home.join("certs/node2")).unwrap();
        fs::remove_file(home.join("certs/admin.header")).unwrap();
        let again = made(home, false);
        assert!(again.len() == 1 && again[0].starts_with("a certificate for node2: "), "{again:?}");
        assert!(home.join("certs/admin.header").exists());
        assert_eq!(before, ["ca.pem", "node1/node.pem", "admin.secret"].map(|name| text(home, name)));
        // A new CA takes new certificates with it, and the token stays.
        for name in ["ca.pem", "ca-key.pem"] {
            fs::remove_file(home.join(FOLDER).join(name)).unwrap();
        }
        assert_eq!(made(home, false).len(), 2);
        assert_eq!(text(home, "admin.secret"), secret);
        assert_eq!(made(home, true).len(), 3);
        assert_ne!(text(home, "admin.secret"), secret);
    }

    #[test]
    fn what_is_not_of_a_demo_or_was_edited_badly_is_left_as_it_is() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path();
        let fails = |fresh| Credentials::prepare(home, &NAMES, fresh).unwrap_err().to_string();
        authority::create(&home.join(FOLDER), &Label::parse("prod").unwrap(), false).unwrap();
        let ca = text(home, "ca-key.pem");
        for error in [check(home).unwrap_err().to_string(), fails(false), fails(true)] {
            assert!(error.contains("the cluster prod") && error.contains("another --dir"), "{error}");
        }
        fs::remove_file(home.join("certs/ca.pem")).unwrap();
        assert!(fails(true).contains("certs/ca.pem"));
        assert_eq!(text(home, "ca-key.pem"), ca);
        fs::remove_file(home.join("certs/ca-key.pem")).unwrap();
        made(home, false);
        let tokens = text(home, "tokens.toml");
        fs::write(home.join("certs/tokens.toml"), format!("{tokens}[[token]]\n")).unwrap();
        let error = fails(false);
        assert!(error.contains("certs/tokens.toml") && error.contains("--fresh"), "{error}");
        fs::write(home.join("certs/tokens.toml"), tokens).unwrap();
        fs::write(home.join("certs/admin.secret"), "hkv_other\n").unwrap();
        let error = fails(false);
        assert!(error.contains("admin.secret: it is no secret of an admin") && !error.contains("hkv_"), "{error}");
        assert_eq!(made(home, true).len(), 3);
    }
}
