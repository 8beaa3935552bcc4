//! Where a running job is asked things: a Unix socket that belongs to its storage
//! directory, one JSON line there and one back.
//!
//! `<storage>/.control/socket` or, where that is too long for a socket's name, one in
//! the temporary directory; `<storage>/.control/path` says which. The directory is
//! the user's alone (0700), the socket too (0600).

use crate::cli::trouble::Trouble;
use crate::cli::view::View;
use millrace_protocol::manifest::sha256_hex;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A socket's name has 108 bytes, a terminating zero among them.
const LONGEST: usize = 100;

/// No request is longer.
const MAX_REQUEST: u64 = 64 * 1024;

/// What a running job is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase")]
pub enum Request {
    /// A savepoint `target/id`.
    Savepoint {
        /// Its name.
        id: String,
        /// The directory it is made in; absolute.
        target: String,
    },
    /// How it is doing.
    Status,
    /// To stop with a last checkpoint; answered when it has.
    Stop {
        /// Fire all windows, as at the end of the input.
        drain: bool,
    },
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Response {
    /// The savepoint's directory.
    Savepoint(String),
    /// How it is doing.
    Status(Box<View>),
    /// How it ended.
    Stopped(String),
    /// It could not do it.
    Failed(String),
    /// The user must change something.
    Refused(String),
}

fn control_directory(storage: &Path) -> PathBuf {
    storage.join(".control")
}

/// Where the socket of a storage directory is made.
fn place(storage: &Path) -> PathBuf {
    let near = control_directory(storage).join("socket");
    if near.as_os_str().len() <= LONGEST {
        return near;
    }
    let digest = sha256_hex(storage.as_os_str().as_encoded_bytes());
    let name = format!("millrace-{}", digest.get(..16).unwrap_or_default());
    std::env::temp_dir().join(name).join("socket")
}

/// Makes a directory that is this user's alone.
fn private_directory(directory: &Path, owner: u32) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => return other,
    }
    let found = fs::symlink_metadata(directory)?;
    if !found.is_dir() || found.uid() != owner {
        let why = format!("{} belongs to somebody else", directory.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))
}

/// The socket of a storage directory that this process owns; removed when dropped.
pub struct Socket {
    path: PathBuf,
    directory: PathBuf,
}

impl Socket {
    /// Makes it, instead of what a dead process left. The caller holds the owner lock.
    pub fn bind(storage: &Path) -> io::Result<(Self, UnixListener)> {
        let storage = storage.canonicalize()?;
        // What this process makes is its user's.
        let owner = fs::metadata("/proc/self").or_else(|_| fs::metadata(&storage))?.uid();
        let directory = control_directory(&storage);
        private_directory(&directory, owner)?;
        let path = place(&storage);
        if let Some(parent) = path.parent().filter(|parent| **parent != *directory) {
            private_directory(parent, owner)?;
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        fs::write(directory.join("path"), path.as_os_str().as_encoded_bytes())?;
        Ok((Self { path, directory }, listener))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // What is left is replaced by the next owner.
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_dir_all(&self.directory);
        if let Some(parent) = self.path.parent() {
            let _ = fs::remove_dir(parent);
        }
    }
}

/// Connects to the job that runs on a storage directory; `None`: nothing answers.
pub fn connect(storage: &Path) -> Option<UnixStream> {
    let storage = storage.canonicalize().ok()?;
    let said = fs::read_to_string(control_directory(&storage).join("path")).ok();
    let said = said.map(PathBuf::from).into_iter();
    [place(&storage)].into_iter().chain(said).find_map(|path| UnixStream::connect(path).ok())
}

/// Asks, and waits for the answer.
pub fn ask(stream: UnixStream, request: &Request) -> Result<Response, Trouble> {
    let asked = || -> io::Result<String> {
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        (&stream).write_all(line.as_bytes())?;
        let mut answer = String::new();
        BufReader::new(&stream).read_line(&mut answer)?;
        Ok(answer)
    };
    let answer = asked().map_err(|e| Trouble::failed(format!("cannot ask the job: {e}")))?;
    if answer.is_empty() {
        let why = "the job's process ended before it answered: see its log, then ask again";
        return Err(Trouble::failed(why));
    }
    serde_json::from_str(&answer).map_err(|e| {
        let why = "the job's process speaks another version: use the program that it runs";
        Trouble::failed(format!("{why} ({e})"))
    })
}

/// Reads the request of a connection; `None` if there is none.
pub fn read_request(stream: &UnixStream) -> io::Result<Option<Request>> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_REQUEST)).read_line(&mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    serde_json::from_str(&line).map(Some).map_err(io::Error::from)
}

/// Writes an answer.
pub fn answer(mut stream: &UnixStream, response: &Response) -> io::Result<()> {
    let mut line = serde_json::to_string(response)?;
    line.push('\n');
    stream.write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_found_however_long_the_storage_is_called() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["short", &"long".repeat(50)] {
            let storage = directory.path().join(name);
            fs::create_dir(&storage).unwrap();
            assert!(connect(&storage).is_none());
            let (stale, listener) = Socket::bind(&storage).unwrap();
            drop(listener);
            assert!(connect(&storage).is_none(), "nobody listens");
            let (socket, listener) = Socket::bind(&storage).unwrap();
            let mode = fs::metadata(&socket.path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            std::mem::forget(stale);
            let server = std::thread::spawn(move || {
                let (stream, _) = listener.accept().unwrap();
                assert_eq!(read_request(&stream).unwrap(), Some(Request::Stop { drain: true }));
                answer(&stream, &Response::Stopped("suspended".to_owned())).unwrap();
            });
            let answer = ask(connect(&storage).unwrap(), &Request::Stop { drain: true }).unwrap();
            assert_eq!(answer, Response::Stopped("suspended".to_owned()));
            server.join().unwrap();
            let path = socket.path.clone();
            drop(socket);
            assert!(!path.exists() && !control_directory(&storage).exists());
        }
    }
}
