//! Tells the linker where `berth-oci` begins (`src/sys/first.rs`) and which of its
//! functions lie side by side (`text-order.ld`).

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=text-order.ld");
    let of = |name: &str| std::env::var(name).unwrap_or_default();
    if of("CARGO_CFG_TARGET_ARCH") == "x86_64" && of("CARGO_CFG_TARGET_OS") == "linux" {
        println!("cargo:rustc-link-arg-bin=berth-oci=-Wl,--entry=berth_first");
        let order = format!("{}/text-order.ld", of("CARGO_MANIFEST_DIR"));
        println!("cargo:rustc-link-arg-bin=berth-oci=-Wl,-T,{order}");
    }
}
