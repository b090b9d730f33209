//! The file of a SQLite database: checked when it is opened, and watched afterwards. A program that
//! has a deleted file open can write to it, and all of that is lost when it closes it.

use std::{
    fs::{self, File, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Access, AtFlags, CWD, accessat},
    io::Errno,
};

use crate::url::{InvalidUrl, invalid};

/// The file as it was when it was opened.
pub(crate) struct SqliteFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SqliteFile {
    /// Makes the folder and the file if they are missing, and checks that SQLite can use them.
    pub(crate) fn open(path: PathBuf) -> Result<Self, InvalidUrl> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder {
            fs::create_dir_all(folder).map_err(|error| {
                invalid(format!("can't make the folder {}: {error}", folder.display()))
            })?;
        }
        if path.is_dir() {
            return Err(invalid(format!("{} is a folder, not a file", path.display())));
        }
        // SQLite keeps files of its own beside the database's.
        let folder = folder.unwrap_or(Path::new("."));
        let probe = folder.join(format!(".gozon-probe-{}", std::process::id()));
        match File::create_new(&probe) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                let folder = folder.display();
                return Err(invalid(format!("can't write to the folder {folder}: {error}")));
            }
            _ => drop(fs::remove_file(&probe)),
        }
        // A file that is there is not opened: to close it would release the locks of SQLite's
        // connections in this process.
        match File::create_new(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(invalid(format!("can't make {}: {error}", path.display())));
            }
            _ => {}
        }
        let found = fs::metadata(&path)
            .map_err(|error| invalid(format!("can't use {}: {error}", path.display())))?;
        if !found.is_file() {
            return Err(invalid(format!("{} is not a file", path.display())));
        }
        let file = Self { path, identity: identity(&found) };
        file.check_access().map_err(|why| invalid(why.to_string()))?;
        Ok(file)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Checks that the path still leads to the file that was opened.
    pub(crate) fn check(&self) -> sqlx::Result<()> {
        if fs::metadata(&self.path).is_ok_and(|found| identity(&found) == self.identity) {
            return self.check_access().map_err(sqlx::Error::Io);
        }
        let path = self.path.display();
        let why = format!("{path} was deleted or replaced; put it back, or start again");
        Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::NotFound, why)))
    }

    /// Whether this process may write to the file, and to those that SQLite keeps beside it.
    fn check_access(&self) -> io::Result<()> {
        for suffix in ["", "-wal", "-shm"] {
            let mut path = self.path.clone().into_os_string();
            path.push(suffix);
            let wanted = Access::READ_OK | Access::WRITE_OK;
            match accessat(CWD, &path, wanted, AtFlags::EACCESS) {
                Ok(()) => {}
                Err(Errno::NOENT) if !suffix.is_empty() => {}
                Err(error) => {
                    let path = Path::new(&path).display();
                    let why = format!("this user may not write to {path}: {error}");
                    return Err(io::Error::new(io::Error::from(error).kind(), why));
                }
            }
        }
        Ok(())
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}
