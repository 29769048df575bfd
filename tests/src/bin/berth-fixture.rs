//! `berth-fixture serve-example DIRECTORY`: a registry for the README's first command.
//!
//! Where the public registry cannot be reached, `./x run` starts this. It builds
//! the images that the examples name from what Debian ships, serves them by a
//! registry on loopback, and writes `DIRECTORY/registries.toml`, which makes
//! that registry the mirror of the public one. The manifests stay as they are.
//! It ends when its standard input does, which takes the registry with it.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use berth_tests::image::{self, busybox, nginx};
use berth_tests::registry::{Access, Registry};

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        ["serve-example", directory] => serve_example(Path::new(directory)),
        _ => bail!("usage: berth-fixture serve-example DIRECTORY"),
    }
}

fn serve_example(directory: &Path) -> Result<()> {
    let registry = Registry::start(Access::Open)?;
    for (repository, plan) in [
        ("library/busybox", busybox::plan()?),
        ("library/nginx", nginx::plan()?),
    ] {
        let built = image::build(&plan)?;
        for tag in ["latest", "stable"] {
            registry.push(&built, repository, tag)?;
        }
        println!("pushed {}", registry.reference(repository, "stable"));
    }
    // Written last: who waits for this file may pull at once.
    let file = directory.join("registries.toml");
    let part = directory.join("registries.toml.part");
    std::fs::write(&part, registry.mirror_configuration())
        .and_then(|()| std::fs::rename(&part, &file))
        .with_context(|| format!("write {}", file.display()))?;
    println!(
        "registry http://{} configuration {}",
        registry.address(),
        file.display()
    );
    let mut nothing = Vec::new();
    std::io::stdin().read_to_end(&mut nothing)?;
    Ok(())
}
