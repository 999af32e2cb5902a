//! Generates the stubs from `proto/`, with a compiler written in Rust: no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let protos = protox::compile(["luna/registry/v1/registry.proto"], ["../../proto"])?;
    println!("cargo::rerun-if-changed=../../proto");
    tonic_prost_build::configure().build_server(false).compile_fds(protos)?;
    Ok(())
}
