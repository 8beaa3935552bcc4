//! An S3 server for tests, on a free port of loopback, with its data in a temporary
//! directory.
//!
//! It ends with the process that started it, however that ends: a small shell between the
//! two waits for the end of its standard input.

use crate::Bucket;
use crate::fault::Refusal;
use millrace_protocol::config::S3Storage;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const ACCESS_KEY: &str = "testtest";
const SECRET_KEY: &str = "testtest123";
/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(120);
/// Runs its arguments until its input ends.
const UNTIL_INPUT_ENDS: &str = r#""$@" & child=$!; read -r _; kill -9 "$child""#;

static SHARED: OnceLock<Server> = OnceLock::new();

/// A server that runs.
#[derive(Debug)]
pub struct Server {
    child: Child,
    port: u16,
    directory: TempDir,
    next: AtomicU64,
}

impl Server {
    /// The versitygw of this test process; started by who asks first.
    pub fn shared() -> &'static Self {
        SHARED.get_or_init(|| Self::start("versitygw"))
    }

    /// Starts `versitygw` or `minio`; builds it if need be, which takes minutes.
    pub fn start(kind: &str) -> Self {
        let program = program(kind);
        // Another process may take the port before the server does: then with another.
        for _ in 0..20 {
            let directory = tempfile::tempdir().unwrap();
            for name in ["data", "credentials"] {
                fs::create_dir(directory.path().join(name)).unwrap();
            }
            let credentials = directory.path().join("credentials");
            fs::write(credentials.join("accessKeyId"), ACCESS_KEY).unwrap();
            fs::write(credentials.join("secretAccessKey"), SECRET_KEY).unwrap();
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let child = spawn(kind, &program, port, directory.path());
            let mut server = Self { child, port, directory, next: AtomicU64::new(0) };
            if server.comes_up() {
                return server;
            }
        }
        panic!("{} does not start", program.display());
    }

    /// Whether it answers, and is the one that was started.
    fn comes_up(&mut self) -> bool {
        let begun = Instant::now();
        let storage = self.settings(&format!("up-{:016x}", fastrand::u64(..)));
        loop {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if create(&storage).is_ok() {
                return self.directory.path().join("data").join(&storage.bucket).is_dir();
            }
            let log = fs::read_to_string(self.log()).unwrap_or_default();
            assert!(begun.elapsed() < PATIENCE, "the S3 server does not answer: {log}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    fn settings(&self, bucket: &str) -> S3Storage {
        S3Storage {
            bucket: bucket.to_owned(),
            endpoint: Some(self.endpoint()),
            credentials_dir: Some(self.directory.path().join("credentials").display().to_string()),
            ..S3Storage::default()
        }
    }

    /// Its URL.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A new, empty bucket.
    pub fn bucket(&self) -> S3Storage {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let storage = self.settings(&format!("bucket-{n}"));
        create(&storage).unwrap_or_else(|error| panic!("{error:?}"));
        storage
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The end of its input ends the shell, and the server with it.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// What the script builds.
fn program(kind: &str) -> PathBuf {
    // Within the program: the checkout that it was built in need not be there any more.
    let script = include_str!("../../lab/server.sh");
    let made = Command::new("bash")
        .args(["-c", script, "server.sh", kind])
        .stderr(Stdio::inherit())
        .output();
    let made = made.unwrap_or_else(|error| panic!("cannot run bash: {error}"));
    assert!(made.status.success(), "lab/server.sh {kind} failed: see above");
    PathBuf::from(String::from_utf8(made.stdout).unwrap().trim())
}

fn spawn(kind: &str, program: &Path, port: u16, directory: &Path) -> Child {
    let (address, data) = (format!("127.0.0.1:{port}"), directory.join("data"));
    let mut command = Command::new("sh");
    command.args(["-c", UNTIL_INPUT_ENDS, "s3-server"]).arg(program);
    match kind {
        "versitygw" => {
            command.args(["--access", ACCESS_KEY, "--secret", SECRET_KEY, "--port", &address]);
            command.arg("posix").arg(data);
        }
        _ => {
            command.args(["server", "--quiet", "--address", &address]).arg(data);
            command.env("MINIO_ROOT_USER", ACCESS_KEY).env("MINIO_ROOT_PASSWORD", SECRET_KEY);
            command.env("MINIO_BROWSER", "off").env("MINIO_UPDATE", "off").env("MINIO_CI_CD", "1");
        }
    }
    let log = fs::File::create(directory.join("log")).unwrap();
    command.stdin(Stdio::piped()).stdout(log.try_clone().unwrap()).stderr(log);
    command.spawn().unwrap()
}

fn create(storage: &S3Storage) -> Result<(), Refusal> {
    let bucket = Bucket::open(storage).unwrap();
    let create = bucket.shared.client.create_bucket().bucket(&storage.bucket);
    bucket.call(async move { create.send().await.map(drop).map_err(Refusal::from) })
}
