use super::*;
use millrace_engine::connector::{DeadLetters, Lane, Next, Reader, SourceBuffer};
use millrace_protocol::ids::{Subtask, Uid};
use std::fs;
use std::io::Write;
use std::sync::{Arc, Mutex};

mod packed;

type Letters = Mutex<Vec<(String, u64, String, String)>>;

#[derive(Default)]
struct Kept(Letters);

impl DeadLetters for Kept {
    fn put(&self, _: &Uid, origin: &str, offset: u64, reason: &str, raw: &[u8]) {
        let raw = String::from_utf8_lossy(raw).into_owned();
        self.0.lock().unwrap().push((origin.into(), offset, reason.into(), raw));
    }
}

fn cx(letters: Arc<Kept>) -> SourceCx {
    SourceCx {
        uid: "files".into(),
        subtask: Subtask(0),
        parallelism: 1,
        waker: Arc::new(|| ()),
        dead_letters: letters,
    }
}

/// Reads splits to their ends.
fn read<F: Decode<(u32, String)>>(
    source: &FileSource<(u32, String), F>,
    splits: Vec<FileSplit>,
    letters: &Arc<Kept>,
) -> Res<Vec<u32>> {
    let mut reader = source.reader(cx(letters.clone()))?;
    for (i, split) in splits.into_iter().enumerate() {
        reader.assign(Lane(i as u32), split)?;
    }
    let mut buffer = SourceBuffer::default();
    let mut rows = Vec::new();
    while reader.poll(&mut buffer.out(7))? == Next::More {
        rows.extend(buffer.values.drain(..).map(|(n, _)| n));
        buffer.clear();
    }
    rows.extend(buffer.values.drain(..).map(|(n, _)| n));
    Ok(rows)
}

fn csv_text(rows: std::ops::Range<u32>) -> String {
    let lines = rows.map(|n| format!("{n},{}\n", "x".repeat(n as usize % 13)));
    "n,text\n".to_owned() + &lines.collect::<String>()
}

#[test]
fn every_row_belongs_to_one_split_wherever_the_file_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.csv");
    for text in [csv_text(0..100), csv_text(0..100).trim_end().to_owned(), String::new()] {
        fs::write(&path, &text).unwrap();
        let expected: Vec<u32> = if text.is_empty() { vec![] } else { (0..100).collect() };
        for bytes in (1..40).chain([100, 1000]) {
            let csv = Csv::new().positional().splittable(true);
            let mut source = FileSource::new(&path, csv).split_bytes(bytes);
            let splits = source.discover(&[]).unwrap();
            assert!(splits.len() <= text.len().max(1));
            assert_eq!(read(&source, splits, &Arc::default()).unwrap(), expected, "{bytes}");
        }
    }
}

#[test]
fn packed_files_are_told_by_their_first_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (csv_text(0..50), csv_text(50..90));
    let gzip = |text: &str| {
        let mut w = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        w.write_all(text.as_bytes()).unwrap();
        w.finish().unwrap()
    };
    // Several members in a row are one file.
    let packed = [gzip(&one), gzip(two.split_once('\n').unwrap().1)].concat();
    fs::write(dir.path().join("rows.csv.gz"), &packed).unwrap();
    let mut source = FileSource::new(dir.path(), Csv::new().positional());
    let splits = source.discover(&[]).unwrap();
    assert_eq!(splits.len(), 1);
    assert_eq!(read(&source, splits, &Arc::default()).unwrap(), (0..90).collect::<Vec<_>>());

    // A position in a packed file is found again.
    let split = FileSplit {
        path: dir.path().join("rows.csv.gz").to_str().unwrap().into(),
        start: 0,
        end: None,
        offset: one.len() as u64,
        rows: 50,
    };
    assert_eq!(read(&source, vec![split], &Arc::default()).unwrap(), (50..90).collect::<Vec<_>>());

    fs::write(dir.path().join("rows.csv.gz"), &one).unwrap();
    let e = source.discover(&[]).unwrap_err();
    assert!(e.to_string().contains("named as gzip and holds something else"), "{e}");
}

/// As other programs write them: made by Python's `zipfile`, with a directory and
/// the forks of a Mac beside the file (stored and deflated), and by `zip -` (sizes
/// behind the data, Zip64).
#[cfg(feature = "zip")]
#[test]
fn zip_archives_of_a_single_file() {
    let expected: Vec<u32> = (0..50).collect();
    for name in ["deflated.zip", "stored.zip", "streamed.zip"] {
        let path =
            Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("testdata").join(name);
        let mut source = FileSource::new(&path, Csv::new().positional());
        let splits = source.discover(&[]).unwrap();
        assert_eq!(read(&source, splits, &Arc::default()).unwrap(), expected, "{name}");
    }
    let two = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("testdata/two.zip");
    let mut source = FileSource::new(&two, Csv::new().positional());
    let splits = source.discover(&[]).unwrap();
    let e = read(&source, splits, &Arc::default()).unwrap_err();
    assert!(e.is::<UserError>() && e.to_string().contains("several files"), "{e}");
}

#[test]
fn bad_rows_are_dead_letters_with_their_place_or_fail() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.csv");
    let long = "y".repeat(700_000);
    fs::write(&path, format!("n,text\n1,a\n2\n3,b\nx,c\n{long}\n4,\"d\n5,e\n")).unwrap();
    let splits = FileSource::<(u32, String), _>::csv(&path).discover(&[]).unwrap();
    let letters = Arc::new(Kept::default());
    let rows = read(
        &FileSource::new(&path, Csv::new().positional()).max_row_bytes(300_000),
        splits.clone(),
        &letters,
    );
    assert_eq!(rows.unwrap(), [1, 3, 5]);
    let letters = letters.0.lock().unwrap();
    let short: Vec<_> = letters.iter().map(|l| (l.1, &*l.2, l.3.len())).collect();
    assert_eq!(
        short,
        [
            (11, "1 fields where 2 are expected", 1),
            (17, "field 1, value `x`: invalid digit found in string", 3),
            (21, "the row is longer than 300000 bytes", MAX_RAW),
            (700_022, "a quote is opened and never closed", 4),
        ]
    );
    let e = read(
        &FileSource::new(&path, Csv::new().positional()).on_error(OnError::Fail),
        splits,
        &Arc::default(),
    )
    .unwrap_err();
    assert!(e.is::<UserError>());
    assert!(
        e.to_string().ends_with("rows.csv`, offset 11: bad row: 1 fields where 2 are expected: 2")
    );
}

const MAX_RAW: usize = 64 << 10;

#[test]
fn what_the_user_must_mend_is_said_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut source = FileSource::<(u32, String), _>::csv(dir.path().join("none.csv"));
    let e = source.discover(&[]).unwrap_err();
    assert!(e.is::<UserError>() && e.to_string().ends_with("none.csv` does not exist"), "{e}");
}

#[test]
fn a_watched_directory_gives_files_once_they_have_settled() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let mut source = FileSource::<u32, _>::csv(dir.path()).watch(Duration::from_secs(1));
    fs::write(at("a.csv"), "n\n1\n").unwrap();
    fs::write(at(".hidden.csv"), "n\n1\n").unwrap();
    assert_eq!(source.discover(&[]).unwrap(), []);
    let first = source.discover(&[]).unwrap();
    assert_eq!(first.len(), 1);
    fs::create_dir(at("sub")).unwrap();
    fs::write(at("sub/b.csv"), "n\n").unwrap();
    assert_eq!(source.discover(&first).unwrap(), []);
    fs::write(at("sub/b.csv"), "n\n2\n").unwrap();
    assert_eq!(source.discover(&first).unwrap(), []);
    let second = source.discover(&first).unwrap();
    assert!(second.len() == 1 && second[0].path.ends_with("sub/b.csv"));

    fs::write(at(".c"), "n\n3\n").unwrap();
    let mut source = FileSource::<u32, _>::csv(dir.path())
        .watch(Duration::from_secs(1))
        .arrival(Arrival::Renamed);
    assert_eq!(source.discover(&[]).unwrap().len(), 2);
    fs::rename(at(".c"), at("c.csv")).unwrap();
    assert_eq!(source.discover(&[first, second].concat()).unwrap().len(), 1);
}
