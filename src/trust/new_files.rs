//! Files of certificates, keys and secrets as they are created: with their final mode, all or none.
//!
//! Why: a key that is readable for a moment is read in it, and a key that is overwritten by mistake is gone.
//!
//! Invariants: a file is created with its mode and never exists with another. Nothing is replaced unless asked for, which is
//! checked before anything is written; then each new file is complete beside the old one before the first is replaced.
//!
//! See also: [`super::pem_files`], which reads them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::TrustError;

/// The mode of a certificate, which is public.
const PUBLIC: u32 = 0o644;
/// The mode of a key.
const SECRET: u32 = 0o600;
/// The bit by which users other than owner and group may write.
const OTHERS_WRITE: u32 = 0o002;
/// The mode of a folder.
const FOLDER: u32 = 0o700;

/// A file to be written.
#[derive(Debug)]
pub struct NewFile<'a> {
    path: PathBuf,
    text: &'a str,
    mode: u32,
}

impl<'a> NewFile<'a> {
    /// A file that all users may read.
    #[must_use]
    pub fn public(path: PathBuf, text: &'a str) -> Self {
        Self { path, text, mode: PUBLIC }
    }

    /// A file that its owner alone may read.
    #[must_use]
    pub fn secret(path: PathBuf, text: &'a str) -> Self {
        Self { path, text, mode: SECRET }
    }

    fn create(&self, path: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(self.mode).open(path)?;
        file.write_all(self.text.as_bytes())?;
        file.sync_all()
    }

    /// Where the text is written before it replaces the file.
    fn beside(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".new");
        name.into()
    }
}

/// Removes what was created, unless all of it was.
#[derive(Default)]
struct Undo(Vec<PathBuf>);

impl Drop for Undo {
    fn drop(&mut self) {
        for path in &self.0 {
            fs::remove_file(path).ok();
        }
    }
}

/// Writes `files` into `folder`, which is created where it does not exist, and returns their paths.
///
/// # Errors
/// [`TrustError`] of the first file that exists (unless `replace`) or that cannot be written. No file has been written or
/// replaced then, unless a rename failed after others.
pub fn write(folder: &Path, files: &[NewFile<'_>], replace: bool) -> Result<Vec<PathBuf>, TrustError> {
    for file in files {
        refuse_existing(&file.path, replace)?;
    }
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| TrustError::Io { path, source }
    };
    DirBuilder::new().recursive(true).mode(FOLDER).create(folder).map_err(io(folder))?;
    let mut undo = Undo::default();
    for file in files {
        let path = if replace { file.beside() } else { file.path.clone() };
        if replace {
            // What an attempt that was killed has left.
            fs::remove_file(&path).or_else(is_absent).map_err(io(&path))?;
        }
        // Another process may have created the file since: that one is not to be removed.
        match file.create(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(io(&path)(error)),
            created => {
                undo.0.push(path.clone());
                created.map_err(io(&path))?;
            }
        }
    }
    for file in files.iter().filter(|_| replace) {
        fs::rename(file.beside(), &file.path).map_err(io(&file.path))?;
    }
    undo.0.clear();
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io(folder))?;
    Ok(files.iter().map(|file| file.path.clone()).collect())
}

/// Those of `folders` that users other than owner and group may write, with their modes: they can put other files into them.
pub(super) fn open_to_others(folders: &[&Path]) -> Vec<(PathBuf, u32)> {
    let modes = folders.iter().filter_map(|folder| Some((*folder, fs::metadata(folder).ok()?.mode() & 0o7777)));
    modes.filter(|(_, mode)| mode & OTHERS_WRITE != 0).map(|(folder, mode)| (folder.to_owned(), mode)).collect()
}

fn is_absent(error: io::Error) -> io::Result<()> {
    if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn refuse_existing(path: &Path, replace: bool) -> Result<(), TrustError> {
    let invalid = |reason: &str| TrustError::Invalid { path: path.to_owned(), reason: reason.to_owned() };
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => Err(invalid("it is a folder; nothing was written")),
        Ok(_) if !replace => Err(invalid("it exists, and nothing was written; --force replaces it")),
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(TrustError::Io { path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn files<'a>(folder: &Path, text: &'a str) -> [NewFile<'a>; 2] {
        [NewFile::public(folder.join("a"), text), NewFile::secret(folder.join("b"), text)]
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_created_with_their_modes_and_replaced_only_where_asked() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("x/y");
        write(&folder, &files(&folder, "1"), false).unwrap();
        assert_eq!((mode(&folder), mode(&home.path().join("x"))), (0o700, 0o700));
        assert_eq!(mode(&folder.join("b")), 0o600);
        assert_eq!(mode(&folder.join("a")) & 0o600, 0o600);
        let error = write(&folder, &files(&folder, "2"), false).unwrap_err().to_string();
        assert!(error.contains("/a: it exists") && error.contains("--force"), "{error}");
        assert_eq!(fs::read_to_string(folder.join("b")).unwrap(), "1");
        // The left-over of a killed attempt, and a link, which is replaced and not followed.
        fs::write(folder.join("a.new"), "half").unwrap();
        fs::rename(folder.join("b"), home.path().join("elsewhere")).unwrap();
        symlink(home.path().join("elsewhere"), folder.join("b")).unwrap();
        write(&folder, &files(&folder, "3"), true).unwrap();
        assert_eq!(names(&folder), ["a", "b"]);
        assert_eq!(fs::read_to_string(folder.join("b")).unwrap(), "3");
        assert_eq!(fs::read_to_string(home.path().join("elsewhere")).unwrap(), "1");
        assert!(fs::symlink_metadata(folder.join("b")).unwrap().is_file());
    }

    #[test]
    fn folders_that_others_may_write_are_told() {
        let home = tempfile::tempdir().unwrap();
        for (mode, is_open) in [(0o700, false), (0o770, false), (0o755, false), (0o777, true), (0o1777, true)] {
            fs::set_permissions(home.path(), fs::Permissions::from_mode(mode)).unwrap();
            let expected = if is_open { vec![(home.path().to_owned(), mode)] } else { Vec::new() };
            assert_eq!(open_to_others(&[home.path(), &home.path().join("none")]), expected, "{mode:o}");
        }
    }

    #[test]
    fn nothing_is_written_where_one_file_cannot_be() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("x");
        fs::create_dir_all(folder.join("b")).unwrap();
        for replace in [false, true] {
            let error = write(&folder, &files(&folder, "1"), replace).unwrap_err().to_string();
            assert!(error.contains("/b: it is a folder"), "{error}");
            assert_eq!(names(&folder), ["b"]);
        }
        // A second file that cannot be created takes the first with it; a dangling link counts as a file.
        fs::remove_dir(folder.join("b")).unwrap();
        let mut two = files(&folder, "1");
        two[1].path = folder.join("missing/b");
        assert!(matches!(write(&folder, &two, false), Err(TrustError::Io { path, .. }) if path == two[1].path));
        assert!(names(&folder).is_empty());
        symlink("nowhere", folder.join("b")).unwrap();
        assert!(write(&folder, &files(&folder, "1"), false).is_err());
        assert_eq!(names(&folder), ["b"]);
    }
}
