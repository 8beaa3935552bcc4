//! Generates the control API's code; no `protoc` needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    #[cfg(feature = "control")]
    {
        use prost::Message;
        let files = protox::compile(["proto/control.proto"], ["proto"])?;
        let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
        std::fs::write(out.join("control.bin"), files.encode_to_vec())?;
        tonic_prost_build::configure().compile_fds(files)?;
    }
    Ok(())
}
