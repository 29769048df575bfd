//! Images, in the CRI's words.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use berth_runtime::clock::now_nanoseconds;

use crate::engine::Engine;
use crate::engine::container::image_error;
use crate::engine::error::{Error, ErrorKind};
use crate::engine::monitor_link::blocking;
use crate::images::registries::Credentials;
use crate::images::{Image, PullRequest, Usage};
use crate::v1;

pub(super) fn list(
    engine: &Engine,
    request: v1::ListImagesRequest,
) -> Result<v1::ListImagesResponse, Error> {
    let images = engine.images();
    let wanted = request
        .filter
        .and_then(|filter| filter.image)
        .map(|image| image.image)
        .filter(|name| !name.is_empty());
    // Known from before, but for what was pulled since: not worth another thread.
    let found: Vec<Image> = match wanted {
        Some(name) => images.find(&name).map(|found| found.into_iter().collect()),
        None => images.list(),
    }
    .map_err(image_error)?;
    Ok(v1::ListImagesResponse {
        images: found.iter().map(message).collect(),
    })
}

pub(super) fn status(
    engine: &Engine,
    request: v1::ImageStatusRequest,
) -> Result<v1::ImageStatusResponse, Error> {
    let name = name_of(request.image)?;
    let found = engine.images().find(&name).map_err(image_error)?;
    Ok(v1::ImageStatusResponse {
        image: found.as_ref().map(message),
        ..Default::default()
    })
}

pub(super) async fn pull(
    engine: &Engine,
    request: v1::PullImageRequest,
) -> Result<v1::PullImageResponse, Error> {
    let name = name_of(request.image)?;
    let pull = PullRequest {
        credentials: request.auth.map(credentials).transpose()?.flatten(),
        ..PullRequest::default()
    };
    let image = engine
        .images()
        .pull(&name, pull)
        .await
        .map_err(image_error)?;
    Ok(v1::PullImageResponse {
        image_ref: image.id,
    })
}

/// Idempotent: an absent image is removed. One that a container uses loses its
/// name; its layers stay as long as the container.
pub(super) async fn remove(
    engine: &Engine,
    request: v1::RemoveImageRequest,
) -> Result<v1::RemoveImageResponse, Error> {
    let name = name_of(request.image)?;
    let images = engine.images().clone();
    blocking(move || match images.remove(&name) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == crate::images::error::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(image_error(error)),
    })
    .await?;
    Ok(v1::RemoveImageResponse {})
}

pub(super) async fn file_systems(engine: &Engine) -> Result<v1::ImageFsInfoResponse, Error> {
    let engine = engine.clone();
    blocking(move || {
        let data_dir = &engine.config().data_dir;
        let of_images = engine.images().usage().map_err(image_error)?;
        let mut of_containers = Usage::default();
        for pod in engine.records().pod_ids()? {
            for id in engine.records().container_ids(&pod)? {
                // One that is being made or removed has none.
                if let Ok(usage) = engine.images().snapshot_usage(&id) {
                    of_containers.bytes += usage.bytes;
                    of_containers.inodes += usage.inodes;
                }
            }
        }
        let report = |folder: &str, usage: Usage| v1::FilesystemUsage {
            timestamp: now_nanoseconds(),
            fs_id: Some(v1::FilesystemIdentifier {
                mountpoint: data_dir.join(folder).display().to_string(),
            }),
            used_bytes: Some(v1::UInt64Value { value: usage.bytes }),
            inodes_used: Some(v1::UInt64Value {
                value: usage.inodes,
            }),
        };
        Ok(v1::ImageFsInfoResponse {
            image_filesystems: vec![report("images", of_images)],
            container_filesystems: vec![report("snapshots", of_containers)],
        })
    })
    .await
}

fn name_of(image: Option<v1::ImageSpec>) -> Result<String, Error> {
    image
        .map(|image| image.image)
        .filter(|name| !name.is_empty())
        .ok_or_else(|| Error::invalid("image.image: must not be empty"))
}

fn message(image: &Image) -> v1::Image {
    let user = image
        .config
        .config()
        .as_ref()
        .and_then(|config| config.user().clone())
        .unwrap_or_default();
    let name = user.split(':').next().unwrap_or_default().to_owned();
    let uid = name.parse().ok().map(|value| v1::Int64Value { value });
    v1::Image {
        id: image.id.clone(),
        repo_tags: image.references.clone(),
        repo_digests: image.digests.clone(),
        size: image.size_bytes,
        username: match uid {
            Some(_) => String::new(),
            None => name,
        },
        uid,
        ..Default::default()
    }
}

/// A kubelet sends a name and password, both in one base64 text, or a token.
fn credentials(auth: v1::AuthConfig) -> Result<Option<Credentials>, Error> {
    if !auth.registry_token.is_empty() {
        return Ok(Some(Credentials::RegistryToken(auth.registry_token)));
    }
    if !auth.identity_token.is_empty() {
        return Ok(Some(Credentials::IdentityToken(auth.identity_token)));
    }
    if !auth.username.is_empty() {
        return Ok(Some(Credentials::Password {
            username: auth.username,
            password: auth.password,
        }));
    }
    if auth.auth.is_empty() {
        return Ok(None);
    }
    let wrong = || {
        // The text itself is a secret and stays out of the error.
        Error::new(
            ErrorKind::Invalid,
            "auth.auth: expected the base64 of NAME:PASSWORD",
        )
    };
    let bytes = BASE64_STANDARD
        .decode(auth.auth.trim())
        .map_err(|_| wrong())?;
    let text = String::from_utf8(bytes).map_err(|_| wrong())?;
    let (username, password) = text
        .trim_end_matches('\0')
        .split_once(':')
        .ok_or_else(wrong)?;
    Ok(Some(Credentials::Password {
        username: username.to_owned(),
        password: password.to_owned(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_come_in_four_ways() {
        let password = |name: &str, secret: &str| {
            Some(Credentials::Password {
                username: name.to_owned(),
                password: secret.to_owned(),
            })
        };
        let read = |auth: v1::AuthConfig| credentials(auth).unwrap();
        assert_eq!(read(v1::AuthConfig::default()), None);
        assert_eq!(
            read(v1::AuthConfig {
                username: "me".to_owned(),
                password: "s".to_owned(),
                ..Default::default()
            }),
            password("me", "s")
        );
        assert_eq!(
            read(v1::AuthConfig {
                auth: BASE64_STANDARD.encode("me:s:t"),
                ..Default::default()
            }),
            password("me", "s:t")
        );
        assert_eq!(
            read(v1::AuthConfig {
                identity_token: "t".to_owned(),
                ..Default::default()
            }),
            Some(Credentials::IdentityToken("t".to_owned()))
        );
        let error = credentials(v1::AuthConfig {
            auth: BASE64_STANDARD.encode("secret"),
            ..Default::default()
        })
        .unwrap_err();
        assert!(!error.chain().contains("secret"), "{}", error.chain());
    }
}
