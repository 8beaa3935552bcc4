//! What the stories of one run share: the cluster, the object store, the images.

use crate::cluster::Cluster;
use crate::images::Images;
use crate::s3::S3;
use crate::shell::{cache, lab, run};
use anyhow::Result;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Names a kubeconfig of a cluster to use instead of the lab's.
const GIVEN: &str = "MILLRACE_E2E_KUBECONFIG";
/// The same for `kubectl`; used only where that was asked for, for in a shell it may name
/// anything.
const KUBECONFIG: &str = "KUBECONFIG";
/// Whether to run: see [`Wish`].
const WISH: &str = "MILLRACE_E2E";

/// What the caller wants, in `MILLRACE_E2E`.
#[derive(Debug, PartialEq, Eq)]
pub enum Wish {
    /// Run the stories (`1`; `given`: on the cluster of `KUBECONFIG`).
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
            if given().is_some() {
                return Ok(());
            }
            run(&mut lab("check.sh")).map(drop).map_err(|error| {
                let text = error.to_string();
                text.lines().skip(1).collect::<Vec<_>>().join(" ").replace("lab: ", "")
            })
        };
        Self::decide(std::env::var(WISH).ok().as_deref(), given().is_some(), possible)
    }

    fn decide(
        wish: Option<&str>,
        given: bool,
        possible: impl FnOnce() -> Result<(), String>,
    ) -> Self {
        match (wish, possible) {
            (None | Some("" | "0"), _) => {
                Self::Skip(format!("nobody asked for it: `make e2e`, or set {WISH}=1"))
            }
            (Some("auto"), possible) => possible().map_or_else(Self::Skip, |()| Self::Run),
            (Some("1"), possible) => possible().map_or_else(Self::Impossible, |()| Self::Run),
            (Some("given"), _) if !given => Self::Impossible(format!(
                "{WISH}=given plays on the cluster that {KUBECONFIG} names, and it names none"
            )),
            (Some("given"), _) => Self::Run,
            (Some(other), _) => {
                Self::Impossible(format!("{WISH}={other} means nothing: write 0, 1, auto or given"))
            }
        }
    }
}

/// The kubeconfig of a cluster to use instead of the lab's, if the caller gave one.
pub fn given() -> Option<OsString> {
    let of = |name: &str| std::env::var_os(name);
    given_of(of(WISH), of(GIVEN), of(KUBECONFIG))
}

/// That `KUBECONFIG` is set says nothing by itself: it is for `kubectl`, and may name a
/// cluster that is no playground.
fn given_of(
    wish: Option<OsString>,
    ours: Option<OsString>,
    kubeconfig: Option<OsString>,
) -> Option<OsString> {
    let asked = wish.is_some_and(|wish| wish == "given");
    let named = |path: &OsString| !path.is_empty();
    ours.filter(named).or(kubeconfig.filter(|path| asked && named(path)))
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
            set.cluster = Some(match given() {
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
        let skip = |wish: Option<&str>| matches!(Wish::decide(wish, true, can), Wish::Skip(_));
        assert!(skip(None) && skip(Some("")) && skip(Some("0")));
        let lab = |wish: &str| Wish::decide(Some(wish), false, can);
        assert_eq!((lab("1"), lab("auto")), (Wish::Run, Wish::Run));
        assert!(matches!(lab("yes"), Wish::Impossible(_)));
        let none = |wish: &str| Wish::decide(Some(wish), false, cannot);
        assert_eq!(none("auto"), Wish::Skip("no root".to_owned()));
        assert_eq!(none("1"), Wish::Impossible("no root".to_owned()));
        // A given cluster asks nothing of this machine.
        assert!(matches!(none("given"), Wish::Impossible(why) if why.contains("KUBECONFIG")));
        assert_eq!(Wish::decide(Some("given"), true, cannot), Wish::Run);
    }

    #[test]
    fn the_cluster_of_a_shell_is_touched_only_where_that_was_asked_for() {
        let of = |wish: &str, ours: &str, kubeconfig: &str| {
            let some = |text: &str| (text != "-").then(|| OsString::from(text));
            given_of(some(wish), some(ours), some(kubeconfig))
        };
        for wish in ["-", "", "0", "1", "auto"] {
            assert_eq!(of(wish, "-", "/home/me/prod"), None, "{wish}");
            assert_eq!(of(wish, "/mine", "/home/me/prod"), Some("/mine".into()), "{wish}");
        }
        assert_eq!(of("given", "-", "/home/me/play"), Some("/home/me/play".into()));
        assert_eq!(of("given", "/mine", "/home/me/play"), Some("/mine".into()));
        assert_eq!((of("given", "-", "-"), of("given", "", "")), (None, None));
    }
}
