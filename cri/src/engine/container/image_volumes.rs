//! Image volumes: the content of an image, mounted read-only into a container.
//!
//! ```text
//! bundle/image-volumes/0   overlay of the image, made like a root of its own
//!         └ SUB/PATH ──bind, ro──▶ Mount.container_path
//! ```
//!
//! The overlay is a snapshot of the store, named after the container and the
//! volume's number, so that the image's layers stay while it is used. The
//! numbers are contiguous, made upwards and removed downwards: what is left
//! after a kill at any moment can be found by counting.
//!
//! Read on: KEP-4639 and KEP-5365.

use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use super::image_error;
use crate::engine::error::{Error, ErrorKind};
use crate::images::id_map::IdMap;
use crate::images::{Image, ImageStore};
use crate::v1;

/// The folder in a container's bundle.
const FOLDER: &str = "image-volumes";

/// The images that are asked for, in the mounts' order, each mount's answer
/// (`ImageSpec.image_ref`) filled in.
///
/// # Errors
///
/// `Invalid` with the field's name, `NotFound` for an image that is absent.
pub(super) fn plan(mounts: &mut [v1::Mount], images: &ImageStore) -> Result<Vec<Image>, Error> {
    let mut wanted = Vec::new();
    for mount in mounts {
        check(mount)?;
        let Some(spec) = &mut mount.image else {
            continue;
        };
        let found = images.find(&spec.image).map_err(image_error)?;
        let image = found.ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!(
                    "mounts.image: {} is not present; it has to be pulled first",
                    spec.image
                ),
            )
        })?;
        spec.image_ref.clone_from(&image.id);
        wanted.push(image);
    }
    Ok(wanted)
}

/// The CRI's own rules. Pure.
fn check(mount: &v1::Mount) -> Result<(), Error> {
    let at = &mount.container_path;
    let invalid = |text: &str| Err(Error::invalid(format!("mounts: {at}: {text}")));
    // A kubelet states the sub-path of every volume here, and has looked it up
    // itself for those that are no images.
    let Some(image) = &mount.image else {
        return Ok(());
    };
    if image.image.is_empty() {
        return invalid("image.image: must not be empty");
    }
    if !mount.host_path.is_empty() {
        return invalid("host_path: must be empty for an image volume");
    }
    if !mount.readonly {
        return invalid("readonly: an image volume must be read-only");
    }
    let below = Path::new(&mount.image_sub_path);
    let climbs = |part| !matches!(part, std::path::Component::Normal(_));
    if below.components().any(climbs) {
        return invalid("image_sub_path: must be relative, without \"..\"");
    }
    Ok(())
}

/// Whose volumes are mounted, and how their owners are seen.
pub(super) struct Target<'a> {
    /// The container's bundle.
    pub bundle: &'a Path,
    /// The container.
    pub container_id: &'a str,
    /// The ids of the pod's user namespace.
    pub ids: Option<&'a IdMap>,
}

/// Mounts the images and writes their places into the mounts' host paths.
///
/// # Errors
///
/// `Image` when one cannot be mounted, `Invalid` for a sub-path that is not in it.
pub(super) fn mount(
    images: &ImageStore,
    of: &Target<'_>,
    volumes: &[Image],
    mounts: &mut [v1::Mount],
) -> Result<(), Error> {
    let asked = mounts.iter_mut().filter(|mount| mount.image.is_some());
    for (number, (image, mount)) in volumes.iter().zip(asked).enumerate() {
        let target = target(of.bundle, number);
        images
            .mount_snapshot(&name(of.container_id, number), image, &target, of.ids)
            .map_err(image_error)?;
        mount.host_path = below(&target, &mount.image_sub_path)
            .map_err(|error| {
                let text = format!(
                    "mounts.image_sub_path: {:?} of {}",
                    mount.image_sub_path, mount.container_path
                );
                Error::caused(ErrorKind::Invalid, text, error)
            })?
            .display()
            .to_string();
    }
    Ok(())
}

/// Unmounts all of a container's volumes and lets their layers go. Idempotent.
///
/// # Errors
///
/// `Image` for one that stays mounted.
pub(super) fn remove(images: &ImageStore, bundle: &Path, container_id: &str) -> Result<(), Error> {
    let exists = |number: &usize| {
        images.has_snapshot(&name(container_id, *number)) || target(bundle, *number).exists()
    };
    let count = (0..).take_while(exists).count();
    for number in (0..count).rev() {
        images
            .unmount_snapshot(&name(container_id, number), &target(bundle, number))
            .map_err(image_error)?;
        // Without it the count of another try would begin anew here.
        let _ = std::fs::remove_dir(target(bundle, number));
    }
    Ok(())
}

fn name(container_id: &str, number: usize) -> String {
    format!("{container_id}.image-{number}")
}

fn target(bundle: &Path, number: usize) -> PathBuf {
    bundle.join(FOLDER).join(number.to_string())
}

/// The sub-path as the kernel finds it with the volume as its root: a link of
/// the image that leads out of it would name a file of the host.
fn below(volume: &Path, sub_path: &str) -> std::io::Result<PathBuf> {
    if sub_path.is_empty() {
        return Ok(volume.to_owned());
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, volume, flags | OFlags::DIRECTORY, Mode::empty())?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = rustix::fs::openat2(&root, sub_path, flags, Mode::empty(), resolve)?;
    // Nothing is renamed in an image meanwhile, so the path stays the file's.
    use std::os::fd::AsRawFd;
    std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(sub_path: &str) -> v1::Mount {
        v1::Mount {
            container_path: "/data".to_owned(),
            readonly: true,
            image: Some(v1::ImageSpec {
                image: "i".to_owned(),
                ..Default::default()
            }),
            image_sub_path: sub_path.to_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn the_rules_name_their_field() {
        assert!(check(&volume("a/b")).is_ok());
        let mut writable = volume("");
        writable.readonly = false;
        let mut from_host = volume("");
        from_host.host_path = "/etc".to_owned();
        let of_kubelet = v1::Mount {
            host_path: "/volumes/x/a".to_owned(),
            image_sub_path: "a".to_owned(),
            ..Default::default()
        };
        assert!(check(&of_kubelet).is_ok());
        for (mount, field) in [
            (writable, "readonly"),
            (from_host, "host_path"),
            (volume("/etc"), "image_sub_path"),
            (volume("../etc"), "image_sub_path"),
        ] {
            let error = check(&mount).unwrap_err();
            assert!(error.chain().contains(field), "{}", error.chain());
        }
    }

    #[test]
    fn a_link_of_the_image_stays_in_the_image() {
        let volume = tempfile::tempdir().unwrap();
        let root = volume.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("etc/real")).unwrap();
        std::os::unix::fs::symlink("/etc/real", root.join("link")).unwrap();
        std::os::unix::fs::symlink("../../../..", root.join("up")).unwrap();
        assert_eq!(below(&root, "link").unwrap(), root.join("etc/real"));
        assert_eq!(below(&root, "up").unwrap(), root);
        assert!(below(&root, "nowhere").is_err());
    }
}
