//! The Unix socket as a file: made with its permissions, removed at the end, and never taken from
//! someone who answers.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// The socket's file; removed when dropped, if it is still ours.
pub struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

/// Makes the socket and listens.
pub fn listen(path: &Path, mode: u32) -> Result<(UnixListener, SocketFile)> {
    let shown = path.display();
    let parent = path.parent().unwrap_or(Path::new("/"));
    ensure!(
        parent.is_dir(),
        "socket {shown}: its directory {} does not exist; the sidecar does not make it",
        parent.display()
    );
    clear(path)?;
    // Made closed to everyone else, then opened: at no time wider than asked for.
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = bound.with_context(|| format!("socket {shown}: bind"))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .with_context(|| format!("socket {shown}: set mode {mode:04o}"))?;
    listener.set_nonblocking(true)?;
    let meta = std::fs::symlink_metadata(path)?;
    let file = SocketFile {
        path: path.to_path_buf(),
        identity: (meta.dev(), meta.ino()),
    };
    Ok((listener, file))
}

/// Removes what a predecessor left, if it is a socket and nobody answers on it.
fn clear(path: &Path) -> Result<()> {
    let shown = path.display();
    let meta = match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.with_context(|| format!("socket {shown}"))?,
    };
    ensure!(
        meta.file_type().is_socket(),
        "socket {shown}: there is something else of that name, which is left alone"
    );
    match UnixStream::connect(path) {
        Ok(_) => bail!("socket {shown}: another process answers on it"),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)
            .with_context(|| format!("socket {shown}: remove the leftover")),
        Err(e) => Err(e).with_context(|| format!("socket {shown}: ask whether someone answers")),
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|meta| (meta.dev(), meta.ino()) == self.identity);
        if ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the process of the test does.
    const CHILD: &str = "CODEXSTORE_TEST_SOCKET";

    #[test]
    fn a_leftover_is_replaced_and_a_file_or_an_answering_socket_is_not() {
        if std::env::var_os(CHILD).is_none() {
            // The umask is the whole process's: what tests beside this make meanwhile would have it too.
            let name = "serve::socket::tests::a_leftover_is_replaced_and_a_file_or_an_answering_socket_is_not";
            let done = std::process::Command::new(std::env::current_exe().unwrap())
                .args([name, "--exact"])
                .env(CHILD, "1")
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&done.stdout);
            assert!(
                done.status.success() && said.contains("1 passed"),
                "{said}{}",
                String::from_utf8_lossy(&done.stderr)
            );
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "std leaves the file");
        let (listener, file) = listen(&path, 0o660).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
        let error = listen(&path, 0o660).err().unwrap();
        assert!(
            format!("{error:#}").contains("another process answers"),
            "{error:#}"
        );
        drop((listener, file));
        assert!(!path.exists(), "removed at the end");

        std::fs::write(&path, "mine").unwrap();
        let error = listen(&path, 0o660).err().unwrap();
        assert!(format!("{error:#}").contains("something else"), "{error:#}");
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");

        let error = listen(&dir.path().join("none/s"), 0o660).err().unwrap();
        assert!(format!("{error:#}").contains("does not exist"), "{error:#}");
    }
}
