//! How `berth` is linked for use: with its relocations packed.
//!
//! A program that may lie at any address has a table of all pointers in its data, which the
//! loader reads at each start: 24 bytes for each of 83,000. As `DT_RELR` the same table has
//! 24 KB, and every process of a node has two megabytes less that are resident.
//!
//! Only where this machine's glibc reads such a table, which is from 2.36 on, and where the
//! linker is the LLD that comes with the compiler, which it is by default on this target:
//! another one may not know the word. Read more: <https://maskray.me/blog/2021-10-31-relative-relocations-and-relr>

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    let for_this_machine =
        is("TARGET", "x86_64-unknown-linux-gnu") && is("HOST", "x86_64-unknown-linux-gnu");
    let has_lld = for_this_machine && env::var_os("RUSTC_LINKER").is_none();
    if is("PROFILE", "release") && has_lld && glibc().is_some_and(|glibc| glibc >= (2, 36)) {
        println!("cargo::rustc-link-arg-bin=berth=-Wl,-z,pack-relative-relocs");
    }
}

/// This machine's glibc; none if it does not tell.
fn glibc() -> Option<(u32, u32)> {
    let output = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
    let said = String::from_utf8(output.ok()?.stdout).ok()?;
    let (major, minor) = said.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
