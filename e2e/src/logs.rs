//! The logs of all pods of a scenario, also of those that were deleted meanwhile.
//!
//! The kubelet deletes a pod's logs with the pod. So while a scenario runs on a lab
//! cluster a thread gives each log file a second name (a hard link) in the scenario's
//! folder: whatever is written to it stays, at no cost.

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two looks for new files; a pod's logs are there for longer than that.
const NAP: Duration = Duration::from_millis(100);

/// Collects logs until it is stopped.
#[derive(Debug)]
pub struct Collector {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// The lab's folder of the cluster.
    cluster: PathBuf,
    /// Where the links go.
    folder: PathBuf,
    namespaces: Mutex<Vec<String>>,
    over: AtomicBool,
}

impl Collector {
    /// Collects the logs of a lab cluster's namespaces into `folder`, which is in the
    /// same file system.
    pub fn start(cluster: &Path, folder: PathBuf, namespaces: Vec<String>) -> Result<Self> {
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let shared = Arc::new(Shared {
            cluster: cluster.to_owned(),
            folder,
            namespaces: Mutex::new(namespaces),
            over: AtomicBool::new(false),
        });
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            loop {
                // The last look comes after the end, for what was written until then.
                let over = of_thread.over.load(Ordering::Acquire);
                of_thread.look();
                if over {
                    break;
                }
                std::thread::sleep(NAP);
            }
        });
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Collects the logs of another namespace too.
    pub fn also(&self, namespace: &str) {
        let mut namespaces = self.shared.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        namespaces.push(namespace.to_owned());
    }

    /// Stops; everything written so far is in the folder.
    pub fn stop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    /// Links what is new. Files come and go while it looks: what cannot be read is left.
    fn look(&self) {
        let namespaces = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for node in entries(&self.cluster) {
            for pod in entries(&node.join("log/pods")) {
                // NAMESPACE_POD_UID, whose parts hold no underscore.
                let name = name(&pod);
                let Some((namespace, rest)) = name.split_once('_') else { continue };
                if !namespaces.iter().any(|n| n == namespace) {
                    continue;
                }
                let (pod_name, uid) = rest.split_once('_').unwrap_or((rest, ""));
                let uid: String = uid.chars().take(8).collect();
                for container in entries(&pod) {
                    for log in entries(&container) {
                        let start = name_without_suffix(&log);
                        let container = self::name(&container);
                        let to = format!("{namespace}_{pod_name}_{uid}_{container}_{start}.log");
                        let _ = fs::hard_link(&log, self.folder.join(to));
                    }
                }
            }
        }
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path()).collect()
}

fn name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

fn name_without_suffix(path: &Path) -> String {
    path.file_stem().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

/// What no program of ours may write.
const TROUBLE: [&str; 7] = [
    "panicked at",
    "fatal runtime error",
    "stack overflow",
    "memory allocation of",
    "\"level\":\"ERROR\"",
    "\"level\":\"error\"",
    " ERROR ",
];

/// Lines of all logs in a folder that tell of trouble and hold none of the tolerated
/// texts, each with its file's name.
pub fn trouble(folder: &Path, tolerated: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    let mut files = entries(folder);
    files.sort();
    for file in files {
        let Ok(bytes) = fs::read(&file) else { continue };
        for line in String::from_utf8_lossy(&bytes).lines() {
            if is_trouble(line) && !tolerated.iter().any(|text| line.contains(text)) {
                found.push(format!("{}: {line}", name(&file)));
            }
        }
    }
    found
}

fn is_trouble(line: &str) -> bool {
    TROUBLE.iter().any(|text| line.contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_found_and_tolerated() {
        let dir = std::env::temp_dir().join(format!("millrace-e2e-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let log = "2026-01-01T00:00:00Z stdout F {\"level\":\"INFO\",\"message\":\"no ERRORs\"}\n\
                   2026-01-01T00:00:00Z stderr F thread 'slot 0' panicked at src/a.rs:1:1:\n\
                   2026-01-01T00:00:00Z stdout F {\"level\":\"ERROR\",\"message\":\"store gone\"}\n";
        fs::write(dir.join("a.log"), log).unwrap();
        assert_eq!(trouble(&dir, &[]).len(), 2);
        let found = trouble(&dir, &["store gone".to_owned()]);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("a.log: ") && found[0].contains("panicked"), "{found:?}");
        fs::remove_dir_all(&dir).unwrap();
    }
}
