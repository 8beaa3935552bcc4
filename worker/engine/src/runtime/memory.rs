//! How much memory this process may use: the limit of its cgroup, of version 2 or 1, or
//! what the machine has; and how much of it is resident. Reads files.

use crate::state::budget::Budget;
use std::fs::read_to_string;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How often it is looked how much is resident.
const LOOK: Duration = Duration::from_millis(20);

/// How much there is, and who says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// Bytes.
    pub bytes: u64,
    /// Where that is from, for the log.
    pub of: &'static str,
}

/// The limit of this process, if anything says one.
#[must_use]
pub fn limit() -> Option<Limit> {
    limit_below(Path::new("/"))
}

/// Bytes of this process that are in memory, where the system says so.
#[must_use]
pub fn resident() -> Option<u64> {
    let status = read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Lets tables hold less the nearer the process comes to `total` bytes, as long as anyone
/// has the budget. Where the system does not say what is resident, only what is counted
/// keeps them back.
pub fn hold(budget: &Arc<Budget>, total: u64) -> std::io::Result<()> {
    let budget = Arc::downgrade(budget);
    let look = move || {
        while let (Some(budget), Some(resident)) = (budget.upgrade(), resident()) {
            budget.resident(resident, total);
            drop(budget);
            std::thread::sleep(LOOK);
        }
    };
    let thread = std::thread::Builder::new().name("millrace-memory".to_owned());
    thread.stack_size(128 << 10).spawn(look).map(drop)
}

/// As [`limit`], with the files below `root`.
fn limit_below(root: &Path) -> Option<Limit> {
    let groups = read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut least: Option<Limit> = None;
    let mut consider = |bytes: Option<u64>, of| {
        if let Some(bytes) = bytes
            && least.as_ref().is_none_or(|l| bytes < l.bytes)
        {
            least = Some(Limit { bytes, of });
        }
    };
    for line in groups.lines() {
        // hierarchy:controllers:path
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let (mount, file, of) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max", "cgroup"),
            c if c.split(',').any(|c| c == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "cgroup v1")
            }
            _ => continue,
        };
        // A limit further up holds too. In a container the path may be one that only the
        // host sees, and the group's own files are those of the mount itself.
        let mount = root.join(mount);
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            consider(number(&mount.join(group).join(file)), of);
        }
    }
    let machine = || {
        let info = read_to_string(root.join("proc/meminfo")).ok()?;
        let line = info.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    };
    consider(machine(), "machine");
    least
}

/// The number in a file; `max` is none.
fn number(file: &Path) -> Option<u64> {
    read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    fn found(files: &[(&str, &str)]) -> Option<(u64, &'static str)> {
        limit_below(root(files).path()).map(|l| (l.bytes, l.of))
    }

    const MACHINE: (&str, &str) = ("proc/meminfo", "MemFree: 1 kB\nMemTotal:  1000 kB\n");

    #[test]
    fn the_lowest_limit_holds() {
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[MACHINE]), Some((1_024_000, "machine")));
        let v2 = ("proc/self/cgroup", "0::/pods/mine\n");
        let own = ("sys/fs/cgroup/pods/mine/memory.max", "max\n");
        let above = ("sys/fs/cgroup/pods/memory.max", "5000\n");
        assert_eq!(found(&[MACHINE, v2, own]), Some((1_024_000, "machine")));
        assert_eq!(found(&[MACHINE, v2, own, above]), Some((5000, "cgroup")));
        // In a container's own mount.
        let here = ("sys/fs/cgroup/memory.max", "4096\n");
        assert_eq!(found(&[MACHINE, v2, here]), Some((4096, "cgroup")));
        let v1 = ("proc/self/cgroup", "4:cpu,memory:/a\n0::/\n");
        let unlimited = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        let limited = ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "7000\n");
        assert_eq!(found(&[MACHINE, v1, unlimited]), Some((1_024_000, "machine")));
        assert_eq!(found(&[MACHINE, v1, unlimited, limited]), Some((7000, "cgroup v1")));
    }

    #[test]
    fn this_machine_says_something() {
        assert!(limit().is_some_and(|l| l.bytes > 1 << 20));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_budget_is_held_to_what_is_resident_until_it_is_gone() {
        assert!(resident().is_some_and(|bytes| bytes > 1 << 20));
        let budget = Budget::new(1000);
        hold(&budget, 1 << 20).unwrap();
        while budget.limit() > 250 {
            std::thread::sleep(LOOK);
        }
        let gone = Arc::downgrade(&budget);
        drop(budget);
        while gone.strong_count() > 0 {
            std::thread::sleep(LOOK);
        }
    }
}
