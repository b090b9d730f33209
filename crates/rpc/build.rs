//! Compiles the contracts in `api/proto`. It needs no `protoc`.

use std::{env, error::Error, fs, path::PathBuf};

/// The contracts, as the `import` of another would name them.
const CONTRACTS: [&str; 2] = ["gozon/orders/v1/orders.proto", "gozon/payments/v1/payments.proto"];
/// The folder of the contracts, seen from this crate.
const FOLDER: &str = "../../api/proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={FOLDER}");
    let mut compiler = protox::Compiler::new([FOLDER])?;
    compiler.include_source_info(true).include_imports(true).open_files(CONTRACTS)?;
    let descriptors = PathBuf::from(env::var("OUT_DIR")?).join("contracts.binpb");
    fs::write(descriptors, compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .codec_path("crate::codec::SmallBuffers")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
