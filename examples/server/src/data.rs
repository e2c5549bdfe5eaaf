//! The data folder: the database, and the key of the development login.

use std::{
    fs::{File, OpenOptions, Permissions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use crate::{Secret, StartError};

/// How many random bytes the key has.
const KEY_BYTES: usize = 32;

/// A data folder that can be written to.
#[derive(Debug)]
pub(crate) struct Data(PathBuf);

impl Data {
    /// Takes the folder, which is made if it is not there.
    pub(crate) fn open(path: &Path) -> Result<Self, StartError> {
        let data = Self(path.to_owned());
        data.make().map_err(|source| data.cannot("write to the data folder", path, source))?;
        Ok(data)
    }

    /// Only its owner may look into a folder that is made here: it holds what people say to each other.
    fn make(&self) -> io::Result<()> {
        let mut builder = std::fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(&self.0)?;
        // Whatever the folder's permissions say: a file system may be mounted read-only.
        let probe = self.0.join(".writable");
        File::create(&probe)?;
        std::fs::remove_file(&probe)
    }

    /// The database's file.
    pub(crate) fn database(&self) -> PathBuf {
        self.0.join("chat.db")
    }

    /// The key of the development login: random, made at the first start, kept so that tokens survive the next.
    pub(crate) fn dev_key(&self) -> Result<Secret, StartError> {
        let path = self.0.join("dev-login.key");
        read_or_make(&path).map_err(|source| self.cannot("use the key", &path, source))
    }

    fn cannot(&self, what: &'static str, path: &Path, source: io::Error) -> StartError {
        StartError::File { what, path: path.to_owned(), source }
    }
}

fn read_or_make(path: &Path) -> io::Result<Secret> {
    match File::open(path) {
        Ok(file) => read(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(path),
        Err(error) => Err(error),
    }
}

fn read(mut file: File) -> io::Result<Secret> {
    close_to_others(&file)?;
    let mut bytes = Vec::new();
    Read::take(&mut file, KEY_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() != KEY_BYTES {
        return Err(io::Error::other(format!("it has not {KEY_BYTES} bytes; delete it to get a new one")));
    }
    Ok(Secret::new(bytes))
}

/// Written beside its place and then moved: a crash leaves a whole key or none.
fn make(path: &Path) -> io::Result<Secret> {
    let bytes: [u8; KEY_BYTES] = rand::random();
    let beside = path.with_extension("new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&beside)?;
    close_to_others(&file)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    Ok(Secret::new(bytes))
}

/// Copying a folder may open the key to others. Where a file system knows no permissions nothing can be done.
#[cfg(unix)]
fn close_to_others(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(())
}

#[cfg(not(unix))]
fn close_to_others(_: &File) -> io::Result<()> {
    Ok(())
}
