//! The example in several processes, of which any is killed at random moments, and between
//! which connections break, stand still and become slow.

use super::relay::{HOST, Relays, Trouble, children};
use super::{OUTPUTS, Run, lines, long_input, same, sorted, tell_faults};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Patience with which no row is late: only then two outputs must be the same. Which rows are
/// late depends on when the subtasks of a source that have nothing to read say so, which after
/// a restart they do anew.
pub const NONE_LATE: [&str; 2] = ["--out-of-orderness", "48h"];

/// How long a job may take to do the next thing that it must.
const PATIENCE: Duration = Duration::from_secs(240);

/// Where a job reads, writes, and keeps its state: paths or URLs.
pub struct Places {
    pub input: PathBuf,
    pub output: PathBuf,
    pub storage: PathBuf,
}

impl Places {
    /// Below a directory, but for the input.
    pub fn local(dir: &Path, input: &Path) -> Self {
        Self { input: input.to_owned(), output: dir.join("out"), storage: dir.join("storage") }
    }
}

/// Silence after which a process of a job is given up.
const HEARTBEAT: Duration = Duration::from_secs(4);
/// A little longer.
const SILENCE: Duration = Duration::from_millis(4500);

/// A job that runs.
pub struct Job {
    places: Places,
    /// The caches of its user, where a job with storage elsewhere has its socket.
    home: PathBuf,
    /// What its processes say: a pipe that nobody reads would stop them.
    log: PathBuf,
    child: Child,
    /// What connections between its processes go through.
    relays: Option<Relays>,
}

impl Job {
    /// What it needs besides is made in `dir`.
    pub fn start(dir: &Path, places: Places, workers: u16, parallelism: u16) -> Self {
        Self::start_with(dir, places, workers, parallelism, &NONE_LATE)
    }

    /// The same with these options.
    pub fn start_with(
        dir: &Path,
        places: Places,
        workers: u16,
        parallelism: u16,
        options: &[&str],
    ) -> Self {
        Self::begin(dir, places, workers, parallelism, options, false)
    }

    fn begin(
        dir: &Path,
        places: Places,
        workers: u16,
        parallelism: u16,
        options: &[&str],
        relayed: bool,
    ) -> Self {
        let (home, log) = (dir.join("home"), dir.join("log"));
        fs::create_dir_all(dir).unwrap();
        let (workers, heartbeat) = (workers.to_string(), format!("{}ms", HEARTBEAT.as_millis()));
        let more: [&[&str]; 5] = [
            &["--workers", &workers],
            &["--slots-per-worker", "2"],
            &["--restart", "backoff:10ms:200ms"],
            &["--heartbeat-timeout", &heartbeat],
            options,
        ];
        let more = more.concat();
        let Places { input, output, storage } = &places;
        let run = Run { input, output, storage, parallelism, interval: "50ms", more: &more };
        let mut command = run.command();
        command.env("XDG_CACHE_HOME", &home).stderr(File::create(&log).unwrap());
        if relayed {
            command.env("MILLRACE_POD_IP", HOST);
        }
        let child = command.spawn().unwrap();
        let relays = relayed.then(|| Relays::between_children(child.id()));
        Self { places, home, log, child, relays }
    }

    /// Its processes: ordinal and process id.
    fn processes(&self) -> Vec<(u16, u32)> {
        let ordinal = |pid: u32| -> Option<(u16, u32)> {
            let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let mut words = line.split(|b| *b == 0);
            words.find(|word| *word == b"--index")?;
            Some((std::str::from_utf8(words.next()?).ok()?.parse().ok()?, pid))
        };
        children(self.child.id()).into_iter().filter_map(ordinal).collect()
    }

    fn is_over(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Asks the program about it.
    fn ask(&self, words: &[&str]) -> std::process::Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flight-delays"));
        command.args(words).arg("--storage").arg(&self.places.storage);
        command.env("XDG_CACHE_HOME", &self.home).output().unwrap()
    }

    fn status(&self) -> Option<String> {
        let output = self.ask(&["status", "--json"]);
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Waits until its tasks run; false if it has ended.
    fn runs(&mut self) -> bool {
        let begun = Instant::now();
        while !self.is_over() {
            let running = "\"state\": \"running\"";
            let status = self.status();
            if status.as_ref().is_some_and(|status| status.contains(running)) {
                return true;
            }
            if begun.elapsed() > PATIENCE {
                self.give_up(&format!("it does not run: {status:?}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    /// It did what it was asked for, unless it has ended meanwhile.
    fn answered(&mut self, answer: &std::process::Output, seed: u64) {
        let told = String::from_utf8_lossy(&answer.stderr).into_owned();
        let over = self.is_over() || told.contains("the job ended");
        assert!(answer.status.success() || over, "seed {seed}: {told}");
    }

    /// Waits for its end, as long as it takes checkpoints.
    pub fn finish(mut self) -> Places {
        let (mut seen, mut since) = (None, Instant::now());
        while !self.is_over() {
            std::thread::sleep(Duration::from_millis(200));
            let status = self.status();
            let checkpoint = status.as_deref().and_then(checkpoint_of);
            if checkpoint != seen {
                (seen, since) = (checkpoint, Instant::now());
            }
            if since.elapsed() > PATIENCE {
                self.give_up(&format!("it does not go on: {status:?}"));
            }
        }
        let (code, log) = (self.child.wait().unwrap().code(), fs::read_to_string(&self.log));
        let log = log.unwrap();
        assert_eq!(code, Some(0), "{log}");
        assert!(!log.contains("panicked"), "{log}");
        self.places
    }

    /// Waits until it logs something, and ends it.
    pub fn says(&mut self, text: &str) {
        let begun = Instant::now();
        while !fs::read_to_string(&self.log).unwrap().contains(text) {
            if begun.elapsed() > PATIENCE || self.is_over() {
                self.give_up(&format!("it does not say {text}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it, and says what it logged.
    fn give_up(&mut self, why: &str) -> ! {
        self.child.kill().unwrap();
        panic!("{why}\n{}", fs::read_to_string(&self.log).unwrap());
    }
}

/// The number of the latest checkpoint in a status.
fn checkpoint_of(status: &str) -> Option<u64> {
    let (_, rest) = status.split_once("\"checkpoint\": {")?;
    let (_, rest) = rest.split_once("\"id\": ")?;
    rest.split_once(',')?.0.parse().ok()
}

fn signal(pid: u32, signal: &str) {
    // One that has just ended is no error.
    let mut kill = Command::new("kill");
    kill.args([signal, &pid.to_string()]).stderr(Stdio::null()).status().unwrap();
}

fn pause(pid: u32, time: Duration) {
    signal(pid, "-STOP");
    std::thread::sleep(time);
    signal(pid, "-CONT");
}

/// Runs it in one process that nothing disturbs.
pub fn calm(dir: &Path, input: &Path) -> PathBuf {
    let (output, storage) = (dir.join("out"), dir.join("storage"));
    let more = &NONE_LATE;
    Run { input, output: &output, storage: &storage, parallelism: 2, interval: "1s", more }
        .finish();
    output
}

/// Compares two outputs.
pub fn compare(expected: &Path, found: &Path, seed: u64) {
    for (name, _) in OUTPUTS {
        let expected = sorted(lines(&expected.join(name)));
        assert_eq!(expected.is_empty(), name == "late", "{name} in the undisturbed run");
        same(&expected, &sorted(lines(&found.join(name))), name, seed);
    }
}

/// Each row of the input, a directory, is in one window, or late, and each window is there
/// once.
pub fn accounts(input: &Path, found: &Path, seed: u64) {
    let rows = lines(input).len();
    let late = lines(&found.join("late")).len();
    let mut windows = BTreeSet::new();
    let mut counted = 0;
    for line in lines(&found.join("delays")) {
        let fields: Vec<&str> = line.split(',').collect();
        assert!(windows.insert((fields[0].to_owned(), fields[1].to_owned())), "twice: {line}");
        counted += fields[3].parse::<usize>().unwrap();
    }
    assert!(late > 0, "nothing is late");
    assert_eq!(counted + late, rows, "seed {seed}: {counted} rows in windows, {late} late");
}

/// What is done to a job.
pub struct Disturbance<'a> {
    pub seed: u64,
    /// How many faults it must bear.
    pub faults: usize,
    /// How much there is to read in a round: with what fits in before its end, that many
    /// faults may take several.
    pub months: usize,
    /// Whether it is rescaled meanwhile.
    pub rescales: bool,
    /// Whether rows are late: then the output is not compared with another, but each row has
    /// to be accounted for.
    pub late: bool,
    /// Its places, given a directory and the input, a file.
    pub places: &'a dyn Fn(&Path, &Path) -> Places,
    /// Copies its output to a directory, if need be.
    pub fetch: &'a dyn Fn(&Path, &Places) -> PathBuf,
}

/// What was done to a job, and how often.
type Done = BTreeMap<&'static str, usize>;

/// What a job is asked for, and is no fault.
const ASKED: [&str; 2] = ["rescales", "savepoints"];

fn faults(done: &Done) -> usize {
    done.iter().filter(|(kind, _)| !ASKED.contains(kind)).map(|(_, count)| count).sum()
}

/// Kills workers, the leader, or pauses one, troubles connections between them; rescales in
/// between. The output must be that of a run which nothing disturbed. How many faults come
/// before a job has read all of its input depends on the machine: there is another job, until
/// there were enough.
pub fn disturbed(how: &Disturbance) {
    let mut rng = fastrand::Rng::with_seed(how.seed);
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("input");
    fs::create_dir(&source).unwrap();
    let input = long_input(&source, how.months);
    let mut expected = None;
    let mut done = Done::new();
    let (mut round, mut spared) = (0, 0);
    while faults(&done) < how.faults {
        let before = faults(&done);
        let wild = dir.path().join(format!("wild-{round}"));
        let found = disturbed_once(how, &wild, &input, &mut done, &mut rng);
        match how.late {
            true => accounts(&source, &found, how.seed),
            false => {
                let calm = || calm(&dir.path().join("calm"), &input);
                compare(expected.get_or_insert_with(calm), &found, how.seed);
            }
        }
        // A rescale alone may take a job to its end.
        spared = if faults(&done) > before { 0 } else { spared + 1 };
        assert!(spared < 5, "seed {}: five jobs ended before a fault came", how.seed);
        round += 1;
    }
    let kinds: Vec<String> = done.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    tell_faults(faults(&done), &format!("{}; {round} jobs", kinds.join(", ")));
}

/// One job, to its end; its output, in a directory.
fn disturbed_once(
    how: &Disturbance,
    wild: &Path,
    input: &Path,
    done: &mut Done,
    rng: &mut fastrand::Rng,
) -> PathBuf {
    let mut options = if how.late { Vec::new() } else { NONE_LATE.to_vec() };
    if rng.bool() {
        options.extend(["--unaligned-after", "0"]);
    }
    let mut job = Job::begin(wild, (how.places)(wild, input), 3, 4, &options, true);
    while faults(done) < how.faults && job.runs() {
        std::thread::sleep(Duration::from_millis(rng.u64(..200)));
        if let Some(kind) = job.suffer(how, wild, rng) {
            *done.entry(kind).or_default() += 1;
        }
    }
    (how.fetch)(wild, &job.finish())
}

impl Job {
    /// One fault, or another thing that a job must bear; which it was.
    fn suffer(
        &mut self,
        how: &Disturbance,
        wild: &Path,
        rng: &mut fastrand::Rng,
    ) -> Option<&'static str> {
        let processes = self.processes();
        if processes.is_empty() {
            return None;
        }
        let (ordinal, pid) = processes[rng.usize(..processes.len())];
        let trouble = |trouble, rng: &mut _| {
            let relays = self.relays.as_ref();
            relays.is_some_and(|relays| relays.disturb(rng, trouble))
        };
        let some = Duration::from_millis(rng.u64(100..2000));
        Some(match rng.u8(..30) {
            0..4 if how.rescales => {
                let workers = rng.u16(2..5);
                let parallelism = rng.u16(1..=workers * 2).to_string();
                let workers = workers.to_string();
                let asked =
                    self.ask(&["rescale", "--workers", &workers, "--parallelism", &parallelism]);
                self.answered(&asked, how.seed);
                "rescales"
            }
            0..2 => {
                let target = wild.join("savepoints");
                let asked = self.ask(&["savepoint", target.to_str().unwrap()]);
                self.answered(&asked, how.seed);
                "savepoints"
            }
            4..6 => {
                for (_, pid) in processes {
                    signal(pid, "-KILL");
                }
                "kills of all"
            }
            6..8 => {
                pause(pid, Duration::from_millis(rng.u64(..300)));
                "pauses"
            }
            // Longer than others wait for it: it is given up, and comes back as a zombie.
            8 => {
                pause(pid, SILENCE);
                "long pauses"
            }
            9..11 => {
                // The leader, and another one with it.
                let with = processes.iter().filter(|(other, _)| *other == 0 || *other == ordinal);
                with.for_each(|(_, pid)| signal(*pid, "-KILL"));
                "kills of the leader"
            }
            11..16 => trouble(Trouble::Cut, rng).then_some("cuts")?,
            16..18 => trouble(Trouble::Stall(some), rng).then_some("stalls")?,
            // Meanwhile other things happen.
            18 => trouble(Trouble::Stall(SILENCE), rng).then_some("long stalls")?,
            19..22 => {
                let rate = rng.u32(2_000..200_000);
                trouble(Trouble::Slow(some, rate), rng).then_some("slow connections")?
            }
            _ => {
                signal(pid, "-KILL");
                "kills"
            }
        })
    }
}
