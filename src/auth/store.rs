//! The tokens of a running node, which follow their file.
//!
//! Why: a secret that has leaked must be taken back without a restart of any node.
//!
//! Invariants: a reload takes all of a file or nothing of it. The content is compared and not the time of the file: Kubernetes swaps
//! links, and an editor may keep the time. Each attempt that changes anything is one line in the log. A file that others than its owner
//! may write is wrong: it decides what each client may do.
//!
//! See also: SIGHUP (`node::reload`).

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use sha2::{Digest, Sha256};
use slog::{Logger, info, warn};
use tokio::sync::watch;

use super::token_file::{MAX_FILE_BYTES, TokenFileError, parse};
use super::token_set::TokenSet;

/// The permission bit that lets every account of the machine read a file.
const READ_BY_OTHERS: u32 = 0o004;
/// The bits that let others than the owner write it.
const WRITTEN_BY_OTHERS: u32 = 0o022;

/// The tokens and what the file looked like.
pub struct Loaded {
    tokens: TokenSet,
    sha256: String,
}

impl Loaded {
    /// The SHA-256 of the file, in hex.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.sha256
    }
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded").field("sha256", &self.sha256).finish_non_exhaustive()
    }
}

/// The latest reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastReload {
    /// When it was.
    pub at: SystemTime,
    /// What was wrong; None where it succeeded.
    pub problem: Option<String>,
}

/// The tokens of a node.
pub struct TokenStore {
    path: PathBuf,
    log: Logger,
    loaded: ArcSwap<Loaded>,
    /// Locked for a whole reload, so that there is one at a time.
    last: Mutex<LastReload>,
    /// The number of reloads that have changed the tokens.
    generation: watch::Sender<u64>,
}

impl fmt::Debug for TokenStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenStore").field("path", &self.path).finish_non_exhaustive()
    }
}

impl TokenStore {
    /// Reads the file.
    ///
    /// # Errors
    /// [`TokenFileError`], with the path, where it cannot be read or is wrong.
    pub fn open(path: &Path, log: Logger) -> Result<Arc<Self>, TokenFileError> {
        let content = read(path)?;
        let tokens = parse(&content).map_err(|error| in_file(path, &error.0))?;
        warn_if_public(path, &log);
        let sha256 = sha256_hex(&content);
        info!(log, "tokens are required"; "file" => path.display().to_string(), "tokens" => tokens.len(), "sha256" => &sha256);
        Ok(Arc::new(Self {
            path: path.to_owned(),
            log,
            loaded: ArcSwap::from_pointee(Loaded { tokens, sha256 }),
            last: Mutex::new(LastReload { at: SystemTime::now(), problem: None }),
            generation: watch::Sender::new(0),
        }))
    }

    /// The present tokens.
    #[must_use]
    pub fn tokens(&self) -> TokenSet {
        self.loaded.load().tokens.clone()
    }

    /// Applies `look` to the present tokens, without a copy.
    pub fn with_tokens<T>(&self, look: impl FnOnce(&TokenSet) -> T) -> T {
        look(&self.loaded.load().tokens)
    }

    /// The SHA-256 of the file that the present tokens are from, in hex.
    #[must_use]
    pub fn sha256(&self) -> String {
        self.loaded.load().sha256.clone()
    }

    /// The latest reload; at first the start.
    #[must_use]
    pub fn last_reload(&self) -> LastReload {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The number of changes since the start.
    #[must_use]
    pub fn generation(&self) -> u64 {
        *self.generation.borrow()
    }

    /// Returns a receiver that sees each change.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Reads the file without using what it holds; None where it holds the present tokens. It blocks for as long as the disk does.
    ///
    /// # Errors
    /// [`TokenFileError`] where the file is wrong.
    pub fn check(&self) -> Result<Option<Loaded>, TokenFileError> {
        let content = read(&self.path)?;
        let sha256 = sha256_hex(&content);
        if sha256 == self.loaded.load().sha256 {
            return Ok(None);
        }
        let tokens = parse(&content).map_err(|error| in_file(&self.path, &error.0))?;
        Ok(Some(Loaded { tokens, sha256 }))
    }

    /// Uses what [`TokenStore::check`] has read.
    pub fn replace(&self, loaded: Option<Loaded>) {
        self.replace_in(&mut self.last.lock().unwrap_or_else(PoisonError::into_inner), loaded);
    }

    fn replace_in(&self, last: &mut LastReload, loaded: Option<Loaded>) {
        *last = LastReload { at: SystemTime::now(), problem: None };
        let Some(loaded) = loaded else { return };
        warn_if_public(&self.path, &self.log);
        info!(self.log, "the tokens were reloaded"; "file" => self.path.display().to_string(),
            "tokens" => loaded.tokens.len(), "sha256" => &loaded.sha256);
        self.loaded.store(Arc::new(loaded));
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// Reads the file again, and uses what it holds. It blocks for as long as the disk does.
    ///
    /// # Errors
    /// [`TokenFileError`] where the file is wrong; the tokens are as they were.
    pub fn reload(&self) -> Result<(), TokenFileError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match self.check() {
            // The usual look: nothing was attempted, so the latest reload stays what it was.
            Ok(None) if last.problem.is_none() => {}
            Ok(loaded) => self.replace_in(&mut last, loaded),
            Err(error) => {
                // A file that stays wrong is one line, not one every 10 s.
                if last.problem.as_ref() != Some(&error.0) {
                    warn!(self.log, "the token file is wrong, so the tokens stay as they were"; "reason" => &error.0);
                    *last = LastReload { at: SystemTime::now(), problem: Some(error.0.clone()) };
                }
                return Err(error);
            }
        }
        Ok(())
    }
}

fn in_file(path: &Path, problem: &str) -> TokenFileError {
    TokenFileError(format!("auth.tokens: {}: {problem}", path.display()))
}

/// Reads a regular file of at most [`MAX_FILE_BYTES`].
fn read(path: &Path) -> Result<Vec<u8>, TokenFileError> {
    let wrong = |problem: std::io::Error| in_file(path, &problem.to_string());
    // Opening a pipe would wait for its writer.
    if !std::fs::metadata(path).map_err(wrong)?.is_file() {
        return Err(in_file(path, "it is no regular file"));
    }
    let file = File::open(path).map_err(wrong)?;
    // Of the file behind links, whose own modes mean nothing.
    let mode = file.metadata().map_err(wrong)?.permissions().mode();
    if mode & WRITTEN_BY_OTHERS != 0 {
        let who = if mode & 0o002 == 0 { "its group" } else { "every account of this machine" };
        return Err(in_file(
            path,
            &format!("{who} may write it (mode {:04o}), and so add a token; chmod go-w it", mode & 0o7777),
        ));
    }
    let mut content = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut content).map_err(wrong)?;
    if content.len() as u64 > MAX_FILE_BYTES {
        return Err(in_file(path, &format!("it has more than {MAX_FILE_BYTES} bytes")));
    }
    Ok(content)
}

/// Warns of a file that every account of the machine may read. It has hashes of 256 random bits only, so it is no error.
fn warn_if_public(path: &Path, log: &Logger) {
    let mode = std::fs::metadata(path).map(|metadata| metadata.permissions().mode()).unwrap_or_default();
    if mode & READ_BY_OTHERS != 0 {
        warn!(log, "every account of this machine may read the token file; chmod o-r hides names and grants";
            "file" => path.display().to_string());
    }
}

fn sha256_hex(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_of(names: &[&str]) -> String {
        names.iter().map(|name| format!("[[token]]\nname = \"{name}\"\ncert = \"CN={name}\"\nadmin = true\n")).collect()
    }

    fn open(path: &Path) -> Result<Arc<TokenStore>, TokenFileError> {
        TokenStore::open(path, Logger::root(slog::Discard, slog::o!()))
    }

    #[test]
    fn a_reload_takes_all_of_a_file_or_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.toml");
        std::fs::write(&path, file_of(&["a"])).unwrap();
        let store = open(&path).unwrap();
        let before = store.sha256();
        let changes = store.changes();
        assert!(store.reload().is_ok() && store.check().unwrap().is_none());
        assert_eq!((store.generation(), store.tokens().len()), (0, 1));

        std::fs::write(&path, format!("{}[[token]]\nname = \"b\"\n", file_of(&["a"]))).unwrap();
        let error = store.reload().unwrap_err().to_string();
        assert!(error.contains("tokens.toml: token \"b\": ") && error.starts_with("auth.tokens: "), "{error}");
        assert_eq!((store.generation(), store.tokens().len(), store.sha256()), (0, 1, before.clone()));
        let failed = store.last_reload();
        assert_eq!(failed.problem, Some(error));
        assert!(store.reload().is_err());
        assert_eq!(store.last_reload(), failed, "the same content is not tried and logged again");

        std::fs::write(&path, file_of(&["a"])).unwrap();
        assert!(store.reload().is_ok());
        assert_eq!((store.last_reload().problem, store.generation()), (None, 0), "the file is as it was");

        std::fs::write(&path, file_of(&["a", "b"])).unwrap();
        assert!(store.reload().is_ok());
        assert_eq!((store.generation(), store.tokens().len(), store.last_reload().problem), (1, 2, None));
        assert!(changes.has_changed().unwrap() && store.sha256() != before);
    }

    #[test]
    fn a_file_that_others_may_write_is_refused_at_the_start_and_at_a_reload() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("tokens.toml"), folder.path().join("link"));
        std::fs::write(&path, file_of(&["a"])).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let chmod = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        for (mode, who) in
            [(0o620, "its group"), (0o602, "every account"), (0o666, "every account"), (0o660, "its group")]
        {
            chmod(mode);
            let error = open(&link).unwrap_err().to_string();
            let words = format!("link: {who}");
            assert!(error.contains(&words) && error.contains(&format!("(mode {mode:04o})")), "{error}");
            assert!(error.ends_with("chmod go-w it"), "{error}");
        }
        for mode in [0o600, 0o640, 0o440, 0o644] {
            chmod(mode);
            assert!(open(&link).is_ok(), "{mode:o}");
        }
        let store = open(&link).unwrap();
        std::fs::write(&path, file_of(&["a", "b"])).unwrap();
        chmod(0o646);
        assert!(store.reload().unwrap_err().to_string().contains("every account"));
        assert_eq!((store.generation(), store.tokens().len()), (0, 1));
        assert!(store.last_reload().problem.is_some());
        chmod(0o600);
        assert!(store.reload().is_ok());
        assert_eq!((store.generation(), store.tokens().len()), (1, 2));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = open(&folder.path().join("none.toml")).unwrap_err().to_string();
        assert!(missing.contains("none.toml: No such file"), "{missing}");
        assert!(open(folder.path()).unwrap_err().to_string().contains("no regular file"));
        let long = folder.path().join("long.toml");
        std::fs::write(&long, "#".repeat(1 + (1 << 20))).unwrap();
        assert!(open(&long).unwrap_err().to_string().contains("more than 1048576 bytes"));
    }
}
