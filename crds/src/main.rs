//! Writes the custom resource definitions: into the chart's folder if one is named, else
//! to the standard output.

use millrace_crds::crd;
use std::io::Write;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1);
    let mut out = std::io::stdout().lock();
    for (stem, definition) in crd::definitions()? {
        match &folder {
            Some(folder) => {
                std::fs::create_dir_all(folder)?;
                std::fs::write(format!("{folder}/{stem}.yaml"), crd::template(&definition)?)?;
            }
            None => write!(out, "---\n{}", crd::yaml(&definition)?)?,
        }
    }
    Ok(())
}
