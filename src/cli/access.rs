//! Access of a subcommand to its endpoints: the variables for TLS and for the token.
//!
//! Why: a shell that works with one cluster names its CA, its certificate and its token once, as it does its endpoints; a
//! flag would show a secret to every user of the machine.
//!
//! Invariants: with `https://` there is always a CA to verify by, which is never the system's. A token is read only for
//! endpoints that may get it, and is in no message. Everything is refused before any request.
//!
//! See also: [`crate::client::Access`], which sends the token.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::endpoints::EndpointList;
use crate::client::{Access, Token, is_loopback};
use crate::config::{CA_VARIABLE, CERT_VARIABLE, KEY_VARIABLE, TOKEN_FILE_VARIABLE, TOKEN_VARIABLE};
use crate::trust::connector::TlsConnector;
use crate::trust::credentials::CredentialFiles;
use crate::trust::pem_files::{CaBundle, KeyPair};

/// The variables in the help of a subcommand.
pub(super) const HELP: &str = "Variables: with https:// endpoints HUSKV_CA (the file of the CA that issued the nodes' certificates), HUSKV_CERT and \
     HUSKV_KEY (a client certificate); HUSKV_TOKEN or HUSKV_TOKEN_FILE (a token).";

/// The bundle in the directory of a secure node.
const CA_FILE: &str = "ca.pem";
/// The largest token file.
const MAX_TOKEN_FILE_BYTES: u64 = 8192;

/// A lookup of an environment variable.
pub(super) type Variables<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The access to `list` that the variables give. `tls_dir` is the directory of the certificates of a node beside.
pub(super) fn read(list: &EndpointList, tls_dir: Option<&Path>, variables: Variables) -> Result<Access, String> {
    let access = if list.https { Access::over_tls(connector(tls_dir, variables)?) } else { Access::default() };
    let Some(source) = token_source(variables)? else { return Ok(access) };
    if let (false, Some(address)) = (list.https, list.addresses.iter().find(|address| !is_local(address))) {
        return Err(format!(
            "{} goes only over TLS or to this machine, and {address} is plain HTTP elsewhere; give https://{address} with \
             {CA_VARIABLE}, or unset {0}",
            source.variable()
        ));
    }
    Ok(access.with_token(source.token()?))
}

/// The value of a variable; an empty one is refused.
fn value(name: &str, variables: Variables) -> Result<Option<OsString>, String> {
    match variables(name) {
        Some(value) if value.is_empty() => Err(format!("the variable {name} is empty; unset it or give it a value")),
        value => Ok(value),
    }
}

fn connector(tls_dir: Option<&Path>, variables: Variables) -> Result<TlsConnector, String> {
    let path = |name| Ok::<_, String>(value(name, variables)?.map(PathBuf::from));
    let ca = path(CA_VARIABLE)?.or_else(|| tls_dir.map(|dir| dir.join(CA_FILE))).ok_or_else(|| {
        format!(
            "https:// needs the CA that issued the nodes' certificates, and the system's are not used; give its file in \
             {CA_VARIABLE}"
        )
    })?;
    let bundle = CaBundle::read(&ca).map_err(|error| format!("the CA {error}"))?;
    TlsConnector::new(&bundle, &ca.display().to_string(), pair(path(CERT_VARIABLE)?, path(KEY_VARIABLE)?)?)
}

/// The client certificate, where there is one.
fn pair(certificate: Option<PathBuf>, key: Option<PathBuf>) -> Result<Option<KeyPair>, String> {
    let (certificate, key) = match (certificate, key) {
        (Some(certificate), Some(key)) => (certificate, key),
        (None, None) => return Ok(None),
        (Some(_), None) => return Err(half(CERT_VARIABLE, KEY_VARIABLE)),
        (None, Some(_)) => return Err(half(KEY_VARIABLE, CERT_VARIABLE)),
    };
    let files = CredentialFiles { certificate, key, ca: None };
    let read = files.read(SystemTime::now()).map_err(|error| format!("the client certificate {error}"))?;
    Ok(Some(read.pair))
}

fn half(given: &str, missing: &str) -> String {
    format!("{given} is set and {missing} is not; a client certificate needs both")
}

/// Whether a `host:port` is on this machine.
fn is_local(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, _)| is_loopback(host))
}

/// Where the token is from.
enum TokenSource {
    Text(OsString),
    File(PathBuf),
}

fn token_source(variables: Variables) -> Result<Option<TokenSource>, String> {
    match (value(TOKEN_VARIABLE, variables)?, value(TOKEN_FILE_VARIABLE, variables)?) {
        (Some(_), Some(_)) => {
            Err(format!("{TOKEN_VARIABLE} and {TOKEN_FILE_VARIABLE} are both set; unset one of them"))
        }
        (Some(text), None) => Ok(Some(TokenSource::Text(text))),
        (None, Some(path)) => Ok(Some(TokenSource::File(path.into()))),
        (None, None) => Ok(None),
    }
}

impl TokenSource {
    fn variable(&self) -> &'static str {
        match self {
            Self::Text(_) => TOKEN_VARIABLE,
            Self::File(_) => TOKEN_FILE_VARIABLE,
        }
    }

    fn token(&self) -> Result<Token, String> {
        let (place, text) = match self {
            Self::Text(text) => (TOKEN_VARIABLE.to_owned(), text.to_str().unwrap_or_default().to_owned()),
            Self::File(path) => {
                let place = format!("{TOKEN_FILE_VARIABLE}: {}", path.display());
                let text = read_file(path).map_err(|error| format!("{place}: {error}"))?;
                (place, text)
            }
        };
        Token::new(&text).map_err(|error| format!("{place}: it holds no token: {error}"))
    }
}

/// Reads a bounded regular file, without the end of its last line. What is not UTF-8 is no token, so it reads as empty.
pub(super) fn read_file(path: &Path) -> io::Result<String> {
    // A named pipe without a writer would block the open.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    // As with a private key. Its group may read it: that is what Kubernetes makes of a secret with `fsGroup`.
    let mode = metadata.mode();
    let who = match mode {
        _ if mode & 0o004 != 0 => "other users may read it",
        _ if mode & 0o022 != 0 => "others than its owner may write it",
        _ => "",
    };
    if !who.is_empty() {
        return Err(io::Error::other(format!("{who} (mode {:04o}), and it is a secret; chmod 600 it", mode & 0o7777)));
    }
    let mut bytes = Vec::new();
    file.take(MAX_TOKEN_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_TOKEN_FILE_BYTES {
        return Err(io::Error::other(format!("it is larger than {MAX_TOKEN_FILE_BYTES} bytes, so it is no token")));
    }
    let text = String::from_utf8(bytes).unwrap_or_default();
    let line = text.strip_suffix('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    Ok(line.unwrap_or(&text).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::test_ca::TestCa;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    const SECRET: &str = "hkv_secret";

    fn list(https: bool, addresses: &[&str]) -> EndpointList {
        EndpointList { https, addresses: addresses.iter().map(|address| (*address).to_owned()).collect() }
    }

    fn access(list: &EndpointList, tls_dir: Option<&Path>, given: &[(&str, &str)]) -> Result<Access, String> {
        let find = |name: &str| given.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into());
        let access = read(list, tls_dir, &find);
        assert!(!format!("{access:?}").contains(SECRET), "{access:?}");
        access
    }

    #[test]
    fn a_token_goes_over_tls_or_to_this_machine() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.pem"), TestCa::new("ca").certificate()).unwrap();
        let file = folder.path().join("token").display().to_string();
        let token = |text: &str| {
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        };
        let (local, remote) =
            (list(false, &["localhost:1", "[::1]:2", "127.0.0.1:3"]), list(false, &["[::1]:1", "kv1:2"]));
        let secure = list(true, &["kv1:2"]);
        token(&format!("{SECRET}\n"));
        for given in [(TOKEN_VARIABLE, SECRET), (TOKEN_FILE_VARIABLE, file.as_str())] {
            for (list, tls_dir) in [(&local, None), (&secure, Some(folder.path()))] {
                let access = access(list, tls_dir, &[given]).unwrap();
                assert!(format!("{access:?}").contains("Token(..)"), "{access:?}");
            }
            let error = access(&remote, None, &[given]).unwrap_err();
            for word in [given.0, "kv1:2 is plain HTTP", "https://kv1:2 with HUSKV_CA", "or unset"] {
                assert!(error.contains(word), "{error}");
            }
        }
        let both = access(&local, None, &[(TOKEN_VARIABLE, SECRET), (TOKEN_FILE_VARIABLE, &file)]).unwrap_err();
        assert!(both.contains("HUSKV_TOKEN and HUSKV_TOKEN_FILE are both set"), "{both}");
        for text in [SECRET.to_owned(), format!("{SECRET}\r\n")] {
            token(&text);
            assert!(access(&local, None, &[(TOKEN_FILE_VARIABLE, &file)]).is_ok(), "{text:?}");
        }
        for (text, words) in [
            (String::new(), "no token"),
            ("\n".into(), "no token"),
            (format!("{SECRET}\n\n"), "no token"),
            (format!("{SECRET} x"), "no token"),
            (format!("{SECRET}\u{e9}"), "no token"),
            (SECRET.repeat(1000), "larger than 8192 bytes"),
        ] {
            token(&text);
            let error = access(&local, None, &[(TOKEN_FILE_VARIABLE, &file)]).unwrap_err();
            assert!(error.contains(words) && error.contains(&file), "{text:?}: {error}");
        }
        token(SECRET);
        for (mode, refused) in [
            (0o600, None),
            (0o400, None),
            (0o440, None),
            (0o640, None),
            (0o644, Some("other users may read it (mode 0644), and it is a secret; chmod 600 it")),
            (0o660, Some("others than its owner may write it (mode 0660)")),
        ] {
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            let result = access(&local, None, &[(TOKEN_FILE_VARIABLE, &file)]);
            match refused {
                None => assert!(result.is_ok(), "{mode:o}"),
                Some(words) => assert!(result.unwrap_err().contains(words), "{mode:o}"),
            }
        }
        assert!(
            access(&local, None, &[(TOKEN_VARIABLE, "hkv_secret two")]).unwrap_err().contains("HUSKV_TOKEN: it holds")
        );
        assert!(access(&local, None, &[(TOKEN_VARIABLE, "")]).unwrap_err().contains("HUSKV_TOKEN is empty"));
        for (path, words) in [("/dev/zero", "no regular file"), ("/nowhere/token", "No such file")] {
            let error = access(&local, None, &[(TOKEN_FILE_VARIABLE, path)]).unwrap_err();
            assert!(error.contains(words) && error.contains(path), "{error}");
        }
    }

    #[test]
    fn https_needs_a_ca_and_whole_pairs() {
        let folder = tempfile::tempdir().unwrap();
        TestCa::new("ca").client("billing").write(folder.path());
        let path = |name: &str| folder.path().join(name).display().to_string();
        let (ca, cert, key) = (path("ca.pem"), path("node.pem"), path("node-key.pem"));
        let secure = list(true, &["kv1:2"]);
        let needs = access(&secure, None, &[]).unwrap_err();
        assert!(needs.contains("give its file in HUSKV_CA"), "{needs}");
        assert!(access(&secure, None, &[(CA_VARIABLE, &ca)]).is_ok());
        assert!(access(&secure, Some(folder.path()), &[]).is_ok());
        assert!(access(&secure, None, &[(CA_VARIABLE, &ca), (CERT_VARIABLE, &cert), (KEY_VARIABLE, &key)]).is_ok());
        for (given, words) in [
            (&[(CA_VARIABLE, "/nowhere/ca.pem")][..], "the CA /nowhere/ca.pem: No such file"),
            (&[(CA_VARIABLE, &key)], "no certificate"),
            (&[(CA_VARIABLE, "")], "HUSKV_CA is empty"),
            (&[(CA_VARIABLE, &ca), (CERT_VARIABLE, &cert)], "HUSKV_CERT is set and HUSKV_KEY is not"),
            (&[(CA_VARIABLE, &ca), (KEY_VARIABLE, &key)], "HUSKV_KEY is set and HUSKV_CERT is not"),
            (&[(CA_VARIABLE, &ca), (CERT_VARIABLE, &ca), (KEY_VARIABLE, &key)], "does not belong"),
        ] {
            let error = access(&secure, None, given).unwrap_err();
            assert!(error.contains(words), "{given:?}: {error}");
        }
        // With plain HTTP the files are not looked at.
        assert!(access(&list(false, &["kv1:2"]), None, &[(CA_VARIABLE, "/nowhere"), (CERT_VARIABLE, "/x")]).is_ok());
    }
}
