//! Compiles the XDP program, where the feature `xdp` asks for it: with clang, and with the headers of libbpf and the kernel.

#![allow(clippy::print_stderr, clippy::print_stdout, reason = "that is how a build script speaks")]

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/xdp");
    if std::env::var_os("CARGO_FEATURE_XDP").is_none() {
        return;
    }
    let object = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default()).join("relay.bpf.o");
    let machine = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let mut clang = Command::new("clang");
    clang.args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror"]);
    // Where Debian keeps the part of the kernel's headers that depends on the machine.
    clang.arg(format!("-I/usr/include/{machine}-linux-gnu"));
    let status = clang.args(["-c", SOURCE, "-o"]).arg(&object).status();
    if !status.as_ref().is_ok_and(std::process::ExitStatus::success) {
        let why = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        eprintln!(
            "the feature xdp needs clang and the headers of libbpf (Debian: clang libbpf-dev); clang: {why}"
        );
        std::process::exit(1);
    }
}

const SOURCE: &str = "src/xdp/relay.bpf.c";
