//! What the stories of one run share: the cluster, the object store, the images.

use crate::cluster::Cluster;
use crate::images::Images;
use crate::s3::S3;
use crate::shell::{cache, lab, run};
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Names a kubeconfig of a cluster to use instead of the lab's.
const GIVEN: &str = "MILLRACE_E2E_KUBECONFIG";
/// Whether to run: see [`Wish`].
const WISH: &str = "MILLRACE_E2E";

/// What the caller wants, in `MILLRACE_E2E`.
#[derive(Debug, PartialEq, Eq)]
pub enum Wish {
    /// Run the stories (`1`).
    Run,
    /// Do not, and why: nobody asked, or (`auto`) this machine cannot.
    Skip(String),
    /// They were asked for and cannot be run, because of this.
    Impossible(String),
}

impl Wish {
    /// Of this process. Looks at the machine, changes nothing.
    pub fn of_caller() -> Self {
        let possible = || {
            if std::env::var_os(GIVEN).is_some() {
                return Ok(());
            }
            run(&mut lab("check.sh")).map(drop).map_err(|error| {
                let text = error.to_string();
                text.lines().skip(1).collect::<Vec<_>>().join(" ").replace("lab: ", "")
            })
        };
        Self::decide(std::env::var(WISH).ok().as_deref(), possible)
    }

    fn decide(wish: Option<&str>, possible: impl FnOnce() -> Result<(), String>) -> Self {
        match (wish, possible) {
            (None | Some("" | "0"), _) => {
                Self::Skip(format!("nobody asked for it: `make e2e`, or set {WISH}=1"))
            }
            (Some("auto"), possible) => possible().map_or_else(Self::Skip, |()| Self::Run),
            (Some("1"), possible) => possible().map_or_else(Self::Impossible, |()| Self::Run),
            (Some(other), _) => {
                Self::Impossible(format!("{WISH}={other} means nothing: write 0, 1 or auto"))
            }
        }
    }
}

/// The cluster and what was made for it; brought up when the first story asks.
#[derive(Debug)]
pub struct Stage {
    nodes: usize,
    results: PathBuf,
    images: Images,
    set: Mutex<Set>,
}

#[derive(Debug, Default)]
struct Set {
    // Dropped before the cluster whose network it is in.
    s3: Option<S3>,
    cluster: Option<Cluster>,
}

/// The stage while a story has it to itself.
#[derive(Debug)]
pub struct Held<'a> {
    set: MutexGuard<'a, Set>,
}

impl Stage {
    /// A stage with so many nodes; what failed stories leave goes to a folder each in
    /// `results`.
    pub fn new(nodes: usize, results: PathBuf) -> Self {
        Self { nodes, results, images: Images::default(), set: Mutex::default() }
    }

    /// Where failed stories leave their folders.
    pub fn results(&self) -> &Path {
        &self.results
    }

    /// The images that stories run.
    pub fn images(&self) -> &Images {
        &self.images
    }

    /// Takes the stage for one story; brings the cluster up if there is none.
    pub fn hold(&self) -> Result<Held<'_>> {
        // A story that panicked is over, and the cluster is as good as before.
        let mut set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        if set.cluster.is_none() {
            set.cluster = Some(match std::env::var_os(GIVEN) {
                Some(path) => Cluster::given(path.into())?,
                None => {
                    let name = format!("lab/run-{}", std::process::id());
                    Cluster::up(self.nodes, cache().join(name))?
                }
            });
        }
        Ok(Held { set })
    }

    /// Takes everything down.
    pub fn clear(&self) {
        let mut set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        set.s3 = None;
        set.cluster = None;
    }
}

impl Held<'_> {
    /// The cluster.
    pub fn cluster(&self) -> Result<&Cluster> {
        self.set.cluster.as_ref().ok_or_else(|| anyhow::anyhow!("the cluster is gone"))
    }

    /// The object store, started when the first story asks.
    pub fn s3(&mut self) -> Result<&S3> {
        if self.set.s3.is_none() {
            self.set.s3 = Some(S3::up(self.cluster()?.dir()?)?);
        }
        self.set.s3.as_ref().ok_or_else(|| anyhow::anyhow!("the object store is gone"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wish_decides() {
        let can = || Ok(());
        let cannot = || Err("no root".to_owned());
        let skip = |wish: Option<&str>| matches!(Wish::decide(wish, can), Wish::Skip(_));
        assert!(skip(None) && skip(Some("")) && skip(Some("0")));
        assert_eq!(Wish::decide(Some("1"), can), Wish::Run);
        assert_eq!(Wish::decide(Some("auto"), can), Wish::Run);
        assert_eq!(Wish::decide(Some("auto"), cannot), Wish::Skip("no root".to_owned()));
        assert_eq!(Wish::decide(Some("1"), cannot), Wish::Impossible("no root".to_owned()));
        assert!(matches!(Wish::decide(Some("yes"), can), Wish::Impossible(_)));
    }
}
