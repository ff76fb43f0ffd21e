//! Places the loader where QEMU shall put it: only the loader itself, and only on bare metal.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=link.ld");
    // The host's `boot` binary is an empty program with the host's own layout.
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "none") {
        let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo::rustc-link-arg-bins=-T{here}/link.ld");
        // The 32-bit entry code knows its own addresses.
        println!("cargo::rustc-link-arg-bins=--no-pie");
    }
}
