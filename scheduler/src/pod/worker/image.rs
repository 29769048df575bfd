//! A container's image: is it there, and if not, may it be pulled.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use berth_cri::v1;
use k8s_openapi::ByteString;
use tonic::{Code, Status};

use super::life::Life;
use crate::pod::plan::{
    container::{ContainerPlan, PullPolicy},
    security::ImageUser,
};

/// An image that is on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundImage {
    /// The node's own id of it.
    pub id: String,
    /// Its name with a digest, for the status.
    pub digest: String,
    /// Whom it runs as.
    pub user: ImageUser,
}

/// Why a container has no image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoImage {
    /// The kubelet's word for it.
    pub reason: &'static str,
    /// One sentence.
    pub message: String,
}

/// Pulls that are under way: one at a time for each image.
#[derive(Debug, Default)]
pub struct Pulls {
    images: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Pulls {
    fn of(&self, image: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        images.entry(image.to_owned()).or_default().clone()
    }
}

/// Finds or pulls the image of a container, as its policy says.
///
/// # Errors
///
/// Why it is not there, for the container's status; events were told.
pub async fn ensure_image(life: &Life, container: &ContainerPlan) -> Result<FoundImage, NoImage> {
    let name = Some(container.name());
    let image = &container.image;
    let found = acquire(life, container).await;
    match &found {
        Ok(Acquired::Present(_)) => life.board.normal(
            name,
            "Pulled",
            format!("Container image {image:?} already present on machine"),
        ),
        Ok(Acquired::Pulled(_, seconds)) => life.board.normal(
            name,
            "Pulled",
            format!("Successfully pulled image {image:?} in {seconds:.1}s"),
        ),
        Err(failure) => {
            if failure.reason == "ErrImagePull" {
                let text = format!("Failed to pull image {image:?}: {}", failure.message);
                life.board.warning(name, "Failed", text);
            }
            life.board
                .warning(name, "Failed", format!("Error: {}", failure.reason));
        }
    }
    match found? {
        Acquired::Present(found) | Acquired::Pulled(found, _) => Ok(found),
    }
}

/// How an image came to be on the node.
enum Acquired {
    Present(FoundImage),
    Pulled(FoundImage, f64),
}

async fn acquire(life: &Life, container: &ContainerPlan) -> Result<Acquired, NoImage> {
    let image = &container.image;
    let gate = life.config.pulls.of(image);
    let _alone = gate.lock().await;
    if container.pull_policy != PullPolicy::Always
        && let Some(found) = find(life, image).await.map_err(inspect_failed)?
    {
        return Ok(Acquired::Present(found));
    }
    if container.pull_policy == PullPolicy::Never {
        return Err(NoImage {
            reason: "ErrImageNeverPull",
            message: format!("Container image {image:?} is not present with pull policy of Never"),
        });
    }
    life.board.normal(
        Some(container.name()),
        "Pulling",
        format!("Pulling image {image:?}"),
    );
    let began = Instant::now();
    let pulled = pull(life, image).await?;
    let found = find(life, image).await.map_err(inspect_failed)?;
    let found = match found {
        Some(found) => Some(found),
        None => find(life, &pulled).await.map_err(inspect_failed)?,
    };
    found
        .map(|found| Acquired::Pulled(found, began.elapsed().as_secs_f64()))
        .ok_or_else(|| NoImage {
            reason: "ImageInspectError",
            message: format!("image {image:?} was pulled and is not there"),
        })
}

/// Pulls with each matching credential, and without any when none matches.
async fn pull(life: &Life, image: &str) -> Result<String, NoImage> {
    let mut attempts: Vec<Option<v1::AuthConfig>> = find_credentials(life, image)
        .into_iter()
        .map(Some)
        .collect();
    if attempts.is_empty() {
        attempts.push(None);
    }
    let mut last = None;
    for auth in attempts {
        let request = v1::PullImageRequest {
            image: Some(spec_of(life, image)),
            auth,
            sandbox_config: Some(life.plan.sandbox.clone()),
        };
        match life.service.pull_image(request).await {
            Ok(reply) => return Ok(reply.image_ref),
            Err(status) => last = Some(status),
        }
    }
    Err(last.map_or_else(
        || NoImage {
            reason: "ErrImagePull",
            message: "there was nothing to try".to_owned(),
        },
        |status| NoImage {
            reason: match status.code() {
                Code::InvalidArgument => "InvalidImageName",
                _ => "ErrImagePull",
            },
            message: status.message().to_owned(),
        },
    ))
}

async fn find(life: &Life, image: &str) -> Result<Option<FoundImage>, Status> {
    let request = v1::ImageStatusRequest {
        image: Some(spec_of(life, image)),
        verbose: false,
    };
    let reply = life.service.image_status(request).await?;
    Ok(reply.image.map(|image| FoundImage {
        digest: image
            .repo_digests
            .first()
            .cloned()
            .unwrap_or(image.id.clone()),
        user: ImageUser {
            uid: image.uid.map(|uid| uid.value),
            name: image.username,
        },
        id: image.id,
    }))
}

fn spec_of(life: &Life, image: &str) -> v1::ImageSpec {
    v1::ImageSpec {
        image: image.to_owned(),
        user_specified_image: image.to_owned(),
        runtime_handler: life
            .objects()
            .find_handler(&life.plan.runtime_class)
            .unwrap_or_default()
            .to_owned(),
        ..Default::default()
    }
}

fn inspect_failed(status: Status) -> NoImage {
    NoImage {
        reason: match status.code() {
            Code::InvalidArgument => "InvalidImageName",
            _ => "ImageInspectError",
        },
        message: status.message().to_owned(),
    }
}

/// Credentials of the pod's `imagePullSecrets` for the image's registry.
fn find_credentials(life: &Life, image: &str) -> Vec<v1::AuthConfig> {
    let registry = registry_of(image);
    let objects = life.objects();
    let secrets = life.plan.spec.image_pull_secrets.iter().flatten();
    secrets
        .filter_map(|reference| {
            let namespace = &life.plan.identity.namespace;
            objects.find_secret(namespace, &reference.name)
        })
        .filter_map(|secret| secret.data.as_ref())
        .flat_map(|data| [data.get(".dockerconfigjson"), data.get(".dockercfg")])
        .flatten()
        .flat_map(|ByteString(text)| read_credentials(text, &registry))
        .collect()
}

/// The host in front of an image's name; Docker's when there is none.
fn registry_of(image: &str) -> String {
    let host = image.split_once('/').map(|(first, _)| first);
    host.filter(|host| host.contains(['.', ':']) || *host == "localhost")
        .unwrap_or("docker.io")
        .to_owned()
}

/// The entries of a Docker configuration that are for this registry; in the older form
/// of such a file they stand at its top.
fn read_credentials(text: &[u8], registry: &str) -> Vec<v1::AuthConfig> {
    let Ok(config) = serde_json::from_slice::<serde_json::Value>(text) else {
        return Vec::new();
    };
    let Some(entries) = config.get("auths").unwrap_or(&config).as_object() else {
        return Vec::new();
    };
    let field = |entry: &serde_json::Value, name: &str| -> String {
        let text = entry.get(name).and_then(|value| value.as_str());
        text.unwrap_or_default().to_owned()
    };
    entries
        .iter()
        .filter(|(server, _)| {
            let server = server.strip_prefix("https://").unwrap_or(server);
            let server = server.strip_prefix("http://").unwrap_or(server);
            let host = server.split('/').next().unwrap_or_default();
            // Docker's own registry goes by its index' old name in such files.
            let host = match host {
                "index.docker.io" | "registry-1.docker.io" => "docker.io",
                host => host,
            };
            host == registry
        })
        .map(|(server, entry)| v1::AuthConfig {
            username: field(entry, "username"),
            password: field(entry, "password"),
            auth: field(entry, "auth"),
            identity_token: field(entry, "identitytoken"),
            server_address: server.clone(),
            ..Default::default()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{read_credentials, registry_of};

    #[test]
    fn the_registry_stands_before_the_first_slash() {
        let table = [
            ("nginx", "docker.io"),
            ("library/nginx", "docker.io"),
            ("quay.io/a/b:1", "quay.io"),
            ("localhost/a", "localhost"),
            ("127.0.0.1:5000/a@sha256:1", "127.0.0.1:5000"),
        ];
        for (image, registry) in table {
            assert_eq!(registry_of(image), registry, "{image}");
        }
    }

    #[test]
    fn credentials_are_those_of_the_registry() {
        let text = br#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "YTpi"},
            "quay.io": {"username": "u", "password": "p"}}}"#;
        let docker = read_credentials(text, "docker.io");
        assert_eq!((docker.len(), docker[0].auth.as_str()), (1, "YTpi"));
        assert_eq!(read_credentials(text, "quay.io")[0].username, "u");
        assert!(read_credentials(text, "example.org").is_empty());
        let older = br#"{"http://quay.io/v1/": {"auth": "YTpi"}}"#;
        assert_eq!(read_credentials(older, "quay.io")[0].auth, "YTpi");
        assert!(read_credentials(b"no json", "quay.io").is_empty());
    }
}
