//! Compiles the files of `proto` with protox, so that no `protoc` is needed.

use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let admin = protox::compile(["proto/admin.proto"], ["proto"])?;
    tonic_prost_build::configure().compile_fds(admin)?;
    let descriptors = protox::compile(["proto/cri.proto"], ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    // Kept for gRPC reflection, which serves the descriptors themselves.
    std::fs::write(out.join("cri.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        .compile_fds(descriptors)?;
    Ok(())
}
