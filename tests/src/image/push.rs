//! A push by the distribution protocol: blobs first, the manifest last.
//!
//! The manifest comes last because a registry refuses one whose blobs it lacks,
//! and because nobody can then see half an image (distribution-spec, "Push").

use anyhow::{Context, Result, bail, ensure};

use super::{Blob, Image};
use crate::http::{self, Request, Response};
use crate::registry::Registry;

/// Pushes an image as `REPOSITORY:TAG`, for example `library/nginx` and `latest`.
///
/// # Errors
///
/// The registry refused; the message holds its answer.
pub fn push(registry: &Registry, image: &Image, repository: &str, tag: &str) -> Result<()> {
    for blob in image.layers.iter().chain([&image.config]) {
        push_blob(registry, repository, blob)
            .with_context(|| format!("push {} to {repository}", blob.digest))?;
    }
    push_manifest(registry, repository, tag, &image.manifest)
}

/// Pushes a manifest or an index under a tag.
///
/// # Errors
///
/// The registry refused, for example because a blob is missing.
pub fn push_manifest(
    registry: &Registry,
    repository: &str,
    tag: &str,
    manifest: &Blob,
) -> Result<()> {
    let response = send(
        registry,
        &Request {
            method: "PUT",
            target: &format!("/v2/{repository}/manifests/{tag}"),
            headers: vec![("Content-Type", manifest.media_type.to_owned())],
            body: &manifest.bytes,
        },
    )?;
    ensure!(
        response.status == 201,
        "push {repository}:{tag}: {}",
        describe(&response)
    );
    Ok(())
}

/// Pushes a blob unless the repository has it.
///
/// # Errors
///
/// The registry refused.
pub fn push_blob(registry: &Registry, repository: &str, blob: &Blob) -> Result<()> {
    let target = format!("/v2/{repository}/blobs/{}", blob.digest);
    let known = send(
        registry,
        &Request {
            method: "HEAD",
            target: &target,
            ..Request::default()
        },
    )?;
    if known.status == 200 {
        return Ok(());
    }
    let target = format!("/v2/{repository}/blobs/uploads/");
    let begun = send(
        registry,
        &Request {
            method: "POST",
            target: &target,
            ..Request::default()
        },
    )?;
    let Some(location) = begun.header("location").filter(|_| begun.status == 202) else {
        bail!("begin the upload: {}", describe(&begun));
    };
    // The location is a URL or a path; the host part is the registry itself.
    let path = match location.split_once("://") {
        Some((_, rest)) => &rest[rest.find('/').context("a location without a path")?..],
        None => location,
    };
    let separator = if path.contains('?') { '&' } else { '?' };
    let stored = send(
        registry,
        &Request {
            method: "PUT",
            target: &format!("{path}{separator}digest={}", blob.digest),
            headers: vec![("Content-Type", "application/octet-stream".to_owned())],
            body: &blob.bytes,
        },
    )?;
    ensure!(
        stored.status == 201,
        "end the upload: {}",
        describe(&stored)
    );
    Ok(())
}

fn send(registry: &Registry, request: &Request) -> Result<Response> {
    let mut request = request.clone();
    if let Some(authorization) = registry.authorization() {
        request.headers.push(("Authorization", authorization));
    }
    http::exchange(registry.connect()?, &request)
}

fn describe(response: &Response) -> String {
    format!(
        "the registry answered {} {}",
        response.status,
        response.text().trim()
    )
}
