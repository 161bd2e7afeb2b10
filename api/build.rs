//! Generates the gRPC interface from its proto, without any tool that would have to be installed.

#[cfg(feature = "grpc")]
use std::error::Error;

#[cfg(not(feature = "grpc"))]
fn main() {}

#[cfg(feature = "grpc")]
fn main() -> Result<(), Box<dyn Error>> {
    use prost::Message;

    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["codexstore/v1/kv.proto"], ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("codexstore.v1.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}
