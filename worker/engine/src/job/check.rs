//! Whether the files that an attempt was to start from are sound. Asked when it could
//! not be started: what is damaged is not mended by another try.

use crate::data::{Fail, Res};
use crate::runtime::flight;
use crate::state::reader::{DeltaReader, FileError, RangeRead};
use crate::store::ObjectStore;
use crate::store::opener::join;
use millrace_protocol::manifest::{FileRef, Manifest};
use millrace_protocol::objects::ObjectKey;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

const CURE: &str = "put it back from a copy, or start from another checkpoint or savepoint";

/// What is wrong with the first damaged file of a manifest; `None` if none is, or if
/// the store does not answer. Reads all of them. `root` is where they are, for people.
pub fn damage(manifest: &Manifest, store: &Arc<dyn ObjectStore>, root: &str) -> Option<String> {
    let mut seen = BTreeSet::new();
    let mut files = manifest.files.iter().filter(|file| seen.insert(&file.key));
    files.find_map(|file| check(file, manifest, store, root).err())
}

fn check(
    file: &FileRef,
    manifest: &Manifest,
    store: &Arc<dyn ObjectStore>,
    root: &str,
) -> Result<(), String> {
    let name = join(root, file.key.as_str());
    match store.size(&file.key) {
        Ok(Some(len)) if len == file.len => {}
        Ok(Some(len)) => {
            let wanted = file.len;
            return Err(format!(
                "{name} is damaged ({len} bytes, where the checkpoint says {wanted}): {CURE}"
            ));
        }
        Ok(None) => return Err(format!("{name} is missing: {CURE}")),
        Err(_) => return Ok(()),
    }
    let object = Object { store: Arc::clone(store), key: file.key.clone(), len: file.len };
    read(&name, object, file, manifest).or_else(|error| match error.downcast_ref::<FileError>() {
        // The store's failure says nothing about the file: another try may read it.
        Some(FileError::Io { .. }) => Ok(()),
        _ => Err(error.to_string()),
    })
}

/// Reads all of a file.
fn read(name: &str, object: Object, file: &FileRef, manifest: &Manifest) -> Res {
    if file.sections.is_empty() {
        // The store's failure says nothing about the file.
        let Ok(bytes) = object.read(0..file.len) else { return Ok(()) };
        return flight::check(&bytes, file.crc32)
            .map_err(|why| Fail::from(format!("{name} is damaged ({why}): {CURE}")));
    }
    let reader = DeltaReader::open(name, Box::new(object))?;
    reader.check_groups(manifest.max_parallelism)?;
    reader.check_footer(file.crc32)?;
    for (index, section) in (0..).zip(&reader.footer().sections) {
        reader.blocks((index, section), |_| true, |_, _| Ok(()))?;
    }
    Ok(())
}

struct Object {
    store: Arc<dyn ObjectStore>,
    key: ObjectKey,
    len: u64,
}

impl RangeRead for Object {
    fn len(&self) -> Res<u64> {
        Ok(self.len)
    }

    fn read(&self, range: Range<u64>) -> Res<Vec<u8>> {
        let len = usize::try_from(range.end - range.start)?;
        Ok(self.store.get_range(&self.key, range.start, len)?)
    }
}
