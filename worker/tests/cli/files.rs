//! Files that are read: rows and files that cannot be, and a directory that files come to.

use crate::common::{Dirs, ended, example, refused, signal, tree, until, wait};
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

/// What is read and what is bad in it: offset, reason, raw row.
struct Input {
    name: &'static str,
    options: &'static [&'static str],
    text: &'static str,
    rows: &'static [u64],
    bad: &'static [(u64, &'static str, &'static str)],
}

const CSV: Input = Input {
    name: "rows.csv",
    options: &[],
    text: "n,text\n1,a\n2\n3,b\nx,\"c\"\n5,e\n",
    rows: &[1, 3, 5],
    bad: &[(11, "1 fields where 2 are expected", "2"), (17, "invalid digit", "x,\"c\"")],
};

const JSON: Input = Input {
    name: "rows.jsonl",
    options: &["--json"],
    text: "{\"n\":1,\"text\":\"a\"}\n{\"n\":2\n{\"n\":\"x\",\"text\":\"b\"}\n{\"n\":4,\"text\":\"d\"}\n",
    rows: &[1, 4],
    bad: &[(19, "EOF", "{\"n\":2"), (26, "invalid type: string", "{\"n\":\"x\",\"text\":\"b\"}")],
};

#[test]
fn bad_rows_go_to_the_dead_letters_with_file_offset_reason_and_row() {
    for input in [CSV, JSON] {
        let dirs = Dirs::new();
        fs::write(dirs.path(input.name), input.text).unwrap();
        let (code, _, err) = ended(dirs.copy(input.name, input.options).output().unwrap());
        assert_eq!(code, 0, "{err}");
        assert_eq!(dirs.copied(), input.rows);
        let letters = dirs.path("state/dead-letters/lines.jsonl");
        let said = format!("2 bad rows: see {}", letters.display());
        assert!(err.contains(&said), "{err}");
        let letters = fs::read_to_string(letters).unwrap();
        let letters: Vec<serde_json::Value> =
            letters.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(letters.len(), input.bad.len(), "{letters:?}");
        for (letter, (offset, reason, raw)) in letters.iter().zip(input.bad) {
            assert_eq!(letter["source"], "rows");
            assert_eq!(letter["origin"], dirs.text(input.name));
            assert_eq!((&letter["offset"], &letter["raw"]), (&(*offset).into(), &(*raw).into()));
            assert!(letter["reason"].as_str().unwrap().contains(reason), "{letter}");
        }
    }
}

/// With `fail` the first one ends the job, by its place; mended, the job goes on.
#[test]
fn a_bad_row_is_the_users_where_it_is_to_fail() {
    for input in [CSV, JSON] {
        let dirs = Dirs::new();
        let file = dirs.path(input.name);
        fs::write(&file, input.text).unwrap();
        let (offset, reason, raw) = input.bad[0];
        let place = format!("{}`, offset {offset}: bad row", file.display());
        let options = [input.options, &["--fail"]].concat();
        refused(&mut dirs.copy(input.name, &options), &[&place, reason, raw]);
        assert_eq!(dirs.copied(), [0; 0]);
        let letters = tree(&dirs.path("state/dead-letters"));
        assert!(letters.values().all(Vec::is_empty), "{letters:?}");
        let sound: String = (input.text.lines())
            .filter(|line| !input.bad.iter().any(|(_, _, raw)| raw == line))
            .map(|line| format!("{line}\n"))
            .collect();
        fs::write(&file, sound).unwrap();
        let (code, _, err) = ended(dirs.copy(input.name, &options).output().unwrap());
        assert_eq!(code, 0, "{err}");
        assert_eq!(dirs.copied(), input.rows);
    }
}

#[test]
fn input_that_is_missing_or_unlike_its_name_is_the_users() {
    let dirs = Dirs::new();
    refused(&mut dirs.copy("in.csv", &[]), &["in.csv` does not exist"]);
    refused(&mut dirs.copy("in.csv", &["--watch", "50"]), &["in.csv` does not exist"]);
    fs::write(dirs.path("rows.csv.gz"), CSV.text).unwrap();
    refused(&mut dirs.copy("rows.csv.gz", &[]), &["rows.csv.gz` is named as gzip"]);
    fs::write(dirs.path("in.csv"), "n,words\n1,a\n").unwrap();
    refused(&mut dirs.copy("in.csv", &[]), &["in.csv`", "text"]);
    // Nothing is in the way once it is there.
    fs::write(dirs.path("in.csv"), "n,text\n1,a\n").unwrap();
    let (code, _, err) = ended(dirs.copy("in.csv", &[]).output().unwrap());
    assert_eq!(code, 0, "{err}");
    assert_eq!(dirs.copied(), [1]);
}

#[test]
fn output_that_cannot_be_written_is_the_users() {
    let dirs = Dirs::new();
    fs::write(dirs.path("in.csv"), "n,text\n1,a\n").unwrap();
    // Root may write to any directory, so there is a file instead.
    fs::write(dirs.path("file"), "not a directory").unwrap();
    for output in [dirs.text("file"), dirs.text("file/out"), "/proc/millrace".to_owned()] {
        let run = dirs.copy("in.csv", &[]);
        let out = OsString::from(dirs.text("out"));
        let mut elsewhere = example("lines");
        elsewhere.args(run.get_args().map(|arg| if arg == out { output.as_ref() } else { arg }));
        refused(&mut elsewhere, &["output directory", &output]);
        assert_eq!(fs::read(dirs.path("file")).unwrap(), b"not a directory");
    }
    let (code, _, err) = ended(dirs.copy("in.csv", &[]).output().unwrap());
    assert_eq!(code, 0, "{err}");
    assert_eq!(dirs.copied(), [1]);
}

/// The default restart policy would try it for ever.
#[test]
fn damaged_input_is_the_users_and_goes_on_where_it_was_when_it_is_sound() {
    let dirs = Dirs::new();
    let text: String = (0..20_000).map(|n| format!("{n},{}\n", n * 7919 % 10_007)).collect();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(format!("n,text\n{text}").as_bytes()).unwrap();
    let sound = gzip.finish().unwrap();
    let file = dirs.path("rows.csv.gz");
    fs::write(&file, &sound[..sound.len() / 2]).unwrap();
    let name = file.display().to_string();
    let says = [name.as_str(), "put a sound copy in its place"];
    refused(&mut dirs.copy("rows.csv.gz", &[]), &says);
    fs::write(&file, &sound).unwrap();
    let (code, _, err) = ended(dirs.copy("rows.csv.gz", &[]).output().unwrap());
    assert_eq!(code, 0, "{err}");
    assert!(dirs.copied().into_iter().eq(0..20_000));
}

/// Brings the next file of a hundred rows.
fn bring(dir: &Path, files: &mut u64) {
    let rows = *files * 100..(*files + 1) * 100;
    let text: String = rows.map(|n| format!("{n},x\n")).collect();
    // Not in the order of names.
    let name = format!("{:02}.csv", (*files * 7) % 11);
    let part = dir.join(".part");
    fs::write(&part, format!("n,text\n{text}")).unwrap();
    fs::rename(part, dir.join(name)).unwrap();
    *files += 1;
}

fn kill(child: Child) {
    signal(&child, "-KILL");
    assert_eq!(wait(child).0, -1, "it had ended before");
}

#[test]
fn each_row_of_a_watched_directory_comes_once_however_often_the_job_is_killed() {
    let given = std::env::var("MILLRACE_SEED").ok().and_then(|s| s.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    println!("MILLRACE_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let dirs = Dirs::new();
    let input = dirs.path("in");
    fs::create_dir(&input).unwrap();
    let mut files = 0;
    bring(&input, &mut files);
    let start = || dirs.copy("in", &["--watch", "30"]).spawn().unwrap();
    let mut child = start();
    for round in 0..4 {
        // While it runs: seen, before it is killed, or not.
        bring(&input, &mut files);
        match round {
            0 => until("rows of new files", || dirs.copied().len() == 200),
            _ => std::thread::sleep(Duration::from_millis(rng.u64(..400))),
        }
        kill(child);
        // While it is down.
        bring(&input, &mut files);
        child = start();
    }
    bring(&input, &mut files);
    until("all rows", || dirs.copied().len() as u64 >= files * 100);
    signal(&child, "-TERM");
    let (code, _, err) = wait(child);
    assert_eq!(code, 0, "{err}");
    assert!(dirs.copied().into_iter().eq(0..files * 100), "seed {seed}: {:?}", dirs.copied());
}
