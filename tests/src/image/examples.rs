//! The images that the manifests in `examples/` name.

use anyhow::Result;

use super::{ImagePlan, build, busybox, nginx};
use crate::registry::Registry;

/// Repository below Docker Hub, tags, how to build it. The tidy suite compares
/// this with the manifests.
pub const IMAGES: [(&str, &[&str], Planner); 2] = [
    ("library/busybox", &["latest", "1.37"], busybox::plan),
    ("library/nginx", &["latest", "1.29"], nginx::plan),
];

/// Reads what an image is made of from this machine's packages.
pub type Planner = fn() -> Result<ImagePlan>;

/// Builds all of them and pushes them under all their tags.
///
/// # Errors
///
/// A package is missing, or the registry refused.
pub fn push_all(registry: &Registry) -> Result<()> {
    for (repository, tags, plan) in IMAGES {
        let built = build(&plan()?)?;
        for tag in tags {
            registry.push(&built, repository, tag)?;
        }
    }
    Ok(())
}
