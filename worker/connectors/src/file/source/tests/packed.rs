//! Packed files whose bytes are not what they were, or cannot be had just now.

use super::*;
use crate::file::place::{Contents, Files, Found};
use std::io::{Read, Seek, SeekFrom};
use std::sync::atomic::{AtomicI64, Ordering};

const ROWS: u32 = 300;

/// A file of each kind, by its name.
fn packed() -> Vec<(&'static str, Vec<u8>)> {
    let text = csv_text(0..ROWS).into_bytes();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&text).unwrap();
    let testdata = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("testdata");
    let zip = |name: &str| fs::read(testdata.join(name)).unwrap();
    let mut files = vec![("rows.csv.gz", gzip.finish().unwrap())];
    #[cfg(feature = "zip")]
    for name in ["deflated.zip", "stored.zip", "streamed.zip"] {
        files.push((name, zip(name)));
    }
    #[cfg(feature = "zstd")]
    {
        let mut zstd = zstd::Encoder::new(Vec::new(), 3).unwrap();
        zstd.include_checksum(true).unwrap();
        zstd.write_all(&text).unwrap();
        files.push(("rows.csv.zst", zstd.finish().unwrap()));
    }
    files
}

fn read_file(path: &Path) -> Res<Vec<u32>> {
    let mut source = FileSource::new(path, Csv::new().positional());
    let splits = source.discover(&[])?;
    read(&source, splits, &Arc::default())
}

/// Cut off or changed, anywhere: the same rows, or the user's error that names the file and
/// says what to do. Trying again would meet the same bytes.
#[test]
fn damage_is_the_users_error() {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in packed() {
        let path = dir.path().join(name);
        fs::write(&path, &bytes).unwrap();
        let whole = read_file(&path).unwrap();
        let mut told = 0;
        let mut damaged = |what: String, bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            match read_file(&path) {
                Ok(rows) => assert_eq!(rows, whole, "{name}, {what}"),
                Err(e) => {
                    assert!(e.is::<UserError>(), "{name}, {what}: not the user's: {e}");
                    let text = e.to_string();
                    assert!(text.contains(name), "{name}, {what}: {text}");
                    told += usize::from(text.contains("put a sound copy in its place"));
                }
            }
        };
        for at in (0..bytes.len()).step_by(1 + bytes.len() / 400) {
            damaged(format!("cut off at {at}"), &bytes[..at]);
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            damaged(format!("byte {at} changed"), &changed);
        }
        damaged("followed by something".to_owned(), &[&bytes[..], b"not packed"].concat());
        assert!(told > 100, "{name}: {told}");
    }
}

/// Files of this machine, of which the n-th read fails.
struct Failing(Arc<dyn Files>, Arc<AtomicI64>);

struct FailingFile(Box<dyn Contents>, Arc<AtomicI64>);

/// What Linux answers for a disk that does not.
const EIO: i32 = 5;

impl Files for Failing {
    fn look(&self, root: &Path) -> Result<Vec<Found>, Error> {
        self.0.look(root)
    }

    fn open(&self, path: &Path) -> Result<Box<dyn Contents>, Error> {
        Ok(Box::new(FailingFile(self.0.open(path)?, Arc::clone(&self.1))))
    }
}

impl Read for FailingFile {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.1.fetch_sub(1, Ordering::SeqCst) == 0 {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        // A few bytes each time.
        let few = into.len().min(100);
        self.0.read(&mut into[..few])
    }
}

impl Seek for FailingFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

/// Whatever was being read: the attempt fails, not the job, for the next one may have more luck.
#[test]
fn what_cannot_be_read_just_now_is_not_damage() {
    let dir = tempfile::tempdir().unwrap();
    let plain = ("rows.csv", csv_text(0..ROWS).into_bytes());
    for (name, bytes) in packed().into_iter().chain([plain]) {
        let path = dir.path().join(name);
        fs::write(&path, &bytes).unwrap();
        let whole = read_file(&path).unwrap();
        let mut failed = 0;
        for nth in 0.. {
            let mut source = FileSource::new(&path, Csv::new().positional());
            let countdown = Arc::new(AtomicI64::new(nth));
            let files: Arc<dyn Files> =
                Arc::new(Failing(place::files(&path).unwrap(), Arc::clone(&countdown)));
            assert!(source.files.set(files).is_ok());
            let rows =
                source.discover(&[]).and_then(|splits| read(&source, splits, &Arc::default()));
            match rows {
                Err(e) => {
                    assert!(!e.is::<UserError>(), "{name}, read {nth}: the user's: {e}");
                    let text = e.to_string();
                    assert!(text.contains(name) && text.contains("os error 5"), "{text}");
                    failed += 1;
                }
                Ok(rows) => {
                    assert_eq!(rows, whole, "{name}, read {nth}");
                    assert!(countdown.load(Ordering::SeqCst) >= 0, "{name}: passed over");
                    break;
                }
            }
        }
        assert!(failed > 5, "{name}: {failed} reads failed");
    }
}
