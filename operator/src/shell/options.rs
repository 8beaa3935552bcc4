//! The command line.

use clap::ArgAction::Set;
use clap::{Parser, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;

/// The controller of Millrace: StreamJob and Savepoint objects into running jobs.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Options {
    /// A namespace to watch; may be repeated. None: the whole cluster.
    #[arg(long = "namespace", env = "MILLRACE_NAMESPACES", value_delimiter = ',')]
    pub namespaces: Vec<String>,
    /// The controller's own namespace: its lease is there.
    #[arg(long, env = "MILLRACE_OWN_NAMESPACE", default_value = "default")]
    pub own_namespace: String,
    /// The controller's name, unique in its namespace.
    #[arg(long, env = "MILLRACE_NAME", default_value = "millrace")]
    pub name: String,
    /// This process, among those that could lead.
    #[arg(long, env = "MILLRACE_IDENTITY", default_value = "")]
    pub identity: String,
    /// A file with the key from which the tokens of jobs are made.
    #[arg(long, env = "MILLRACE_MASTER_KEY_FILE", default_value = "/etc/millrace/master/key")]
    pub master_key_file: PathBuf,
    /// The Secret of the controller's own namespace that is made with such a key where the
    /// file is missing. None: the file must be there.
    #[arg(long, env = "MILLRACE_MASTER_KEY_SECRET")]
    pub master_key_secret: Option<String>,
    /// Where metrics, health and readiness are served.
    #[arg(long, env = "MILLRACE_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// Look at nodes, to free pods of lost ones sooner.
    #[arg(long, env = "MILLRACE_WATCH_NODES")]
    pub watch_nodes: bool,
    /// Write a job's status anew every five minutes, if only to show its newest checkpoint.
    /// false: with other changes only, so that jobs at rest cost no writes.
    #[arg(long, env = "MILLRACE_REFRESH_STATUS", default_value_t = true, action = Set)]
    pub refresh_status: bool,
    /// How logs are written.
    #[arg(long, env = "MILLRACE_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// Where traces go: http://HOST:PORT, the gRPC port of an OpenTelemetry collector. None:
    /// nowhere.
    #[arg(long, env = "MILLRACE_TRACES")]
    pub traces: Option<String>,
    /// Something else than to control.
    #[command(subcommand)]
    pub command: Option<Command>,
}

impl Options {
    /// A name of this process, made up if it was given none.
    pub fn identity(&self) -> String {
        if self.identity.is_empty() {
            return format!("{}-{:08x}", self.name, fastrand::u32(..));
        }
        self.identity.clone()
    }
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Something else than to control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Take finalizers and our name off all objects, so that nothing waits for us.
    Release,
    /// Succeed if a controller of our name leads and the API server knows our resources.
    Probe,
    /// Print the table of reasons.
    Reasons,
}
