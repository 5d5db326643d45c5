//! Directories that belong to the app's user, made without ever following a link that this user may have put there.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::lchown;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, fchmod, mkdirat};
use nix::unistd::{Gid, Uid, fchown};

use super::{LinkError, Ownership};
use crate::durable::DurableError;

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// Makes `shared/<name>` where it is missing; one that is there, also as an operator's link to another volume, is left as it is.
pub(super) fn ensure_shared_dir(shared: &Path, name: &str, ownership: Ownership) -> Result<(), LinkError> {
    if fs::metadata(shared.join(name)).is_ok_and(|m| m.is_dir()) {
        return Ok(());
    }
    let mut path = shared.to_owned();
    let mut dir = open(shared, DIRECTORY, Mode::empty()).map_err(io::Error::from).map_err(DurableError::on("open", shared))?;
    for component in name.split('/') {
        path.push(component);
        dir = ensure_below(&dir, component, &path, ownership)?;
    }
    Ok(())
}

fn ensure_below(above: &OwnedFd, name: &str, path: &Path, ownership: Ownership) -> Result<OwnedFd, LinkError> {
    let failed = |what, e: Errno| match e {
        Errno::ELOOP | Errno::ENOTDIR => LinkError::NotADirectory { path: path.to_owned() },
        e => DurableError::on(what, path)(e.into()).into(),
    };
    let made = match mkdirat(above, name, Mode::S_IRWXU) {
        Ok(()) => true,
        Err(Errno::EEXIST) => false,
        Err(e) => return Err(failed("create", e)),
    };
    let dir = openat(above, name, DIRECTORY | OFlag::O_NOFOLLOW, Mode::empty()).map_err(|e| failed("open", e))?;
    if made {
        set_owner(&dir, ownership).map_err(|e| failed("set owner and mode of", e))?;
    }
    Ok(dir)
}

fn set_owner(dir: &OwnedFd, ownership: Ownership) -> nix::Result<()> {
    fchown(dir, ownership.uid.map(Uid::from_raw), ownership.gid.map(Gid::from_raw))?;
    // After the owner: chown may clear the set-group-id bit.
    fchmod(dir, Mode::from_bits_truncate(ownership.shared_mode))
}

/// Gives a directory of the unpacked release, with all that is in it, to the app's user. Nobody else can enter the tree yet.
pub(super) fn give(path: &Path, ownership: Ownership) -> Result<(), DurableError> {
    for entry in fs::read_dir(path).map_err(DurableError::on("list", path))? {
        let entry = entry.map_err(DurableError::on("list", path))?;
        let below = entry.path();
        if entry.file_type().map_err(DurableError::on("look at", &below))?.is_dir() {
            give(&below, ownership)?;
        } else {
            lchown(&below, ownership.uid, ownership.gid).map_err(DurableError::on("set the owner of", &below))?;
        }
    }
    let dir = open(path, DIRECTORY | OFlag::O_NOFOLLOW, Mode::empty());
    dir.and_then(|d| set_owner(&d, ownership)).map_err(io::Error::from).map_err(DurableError::on("set owner and mode of", path))
}
