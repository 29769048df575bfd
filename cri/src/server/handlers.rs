//! What each configured OCI runtime can do.
//!
//! A kubelet reads it from `Status` and refuses a pod that asks for more. The
//! runtimes themselves are asked, by `features` (runtime-spec, features.md);
//! one that does not know the command can do nothing special.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use crate::engine::Engine;
use crate::engine::runtimes::OciRuntime;
use crate::v1;

const PATIENCE: Duration = Duration::from_secs(10);

/// Whose owners the files of images can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ImageIds {
    /// Those of a pod's user namespace.
    Mapped,
    /// The host's only: this machine's kernel cannot map them.
    Host,
}

/// The handlers, the default one first.
#[derive(Debug)]
pub(super) struct Handlers {
    list: Vec<v1::RuntimeHandler>,
}

impl Handlers {
    /// Asks every runtime once.
    pub(super) async fn observe(engine: &Engine) -> Handlers {
        // It mounts to find out.
        let images = engine.images().clone();
        let look = move || images.maps_ids().map_err(|error| error.chain());
        let found = tokio::task::spawn_blocking(look).await;
        let images = match found.unwrap_or_else(|panic| Err(panic.to_string())) {
            Ok(()) => ImageIds::Mapped,
            Err(reason) => {
                tracing::warn!("no user namespaces for pods: {reason}");
                ImageIds::Host
            }
        };
        let runtimes = engine.runtimes();
        let mut list = Vec::new();
        // The default one has a name only if an operator gave it one.
        if let Ok(default) = runtimes.choose("", &engine.config().oci_runtime) {
            list.push(observe("", &default.runtime, images).await);
        }
        for (name, runtime) in &runtimes.named {
            list.push(observe(name, runtime, images).await);
        }
        Handlers { list }
    }

    /// As `Status` tells them.
    pub(super) fn list(&self) -> Vec<v1::RuntimeHandler> {
        self.list.clone()
    }
}

async fn observe(name: &str, runtime: &OciRuntime, images: ImageIds) -> v1::RuntimeHandler {
    let features = ask(runtime).await.unwrap_or_else(|| {
        tracing::warn!(
            "{}: does not answer `features`; it is taken to have none",
            runtime.program.display()
        );
        Value::Null
    });
    v1::RuntimeHandler {
        name: name.to_owned(),
        features: Some(read(&features, images)),
    }
}

async fn ask(runtime: &OciRuntime) -> Option<Value> {
    let answer = Command::new(&runtime.program)
        .args(&runtime.arguments)
        .arg("features")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let answer = tokio::time::timeout(PATIENCE, answer).await.ok()?.ok()?;
    serde_json::from_slice(&answer.stdout).ok()
}

/// What a kubelet wants to know. Pure.
fn read(features: &Value, images: ImageIds) -> v1::RuntimeHandlerFeatures {
    let holds = |list: &Value, word: &str| {
        let words = list.as_array();
        words.is_some_and(|words| words.iter().any(|one| one == word))
    };
    v1::RuntimeHandlerFeatures {
        recursive_read_only_mounts: holds(&features["mountOptions"], "rro"),
        // The engine makes the namespace and the root; the runtime joins the one
        // and maps the owners of volumes.
        user_namespaces: images == ImageIds::Mapped
            && holds(&features["linux"]["namespaces"], "user")
            && features["linux"]["mountExtensions"]["idmap"]["enabled"] == true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn features_are_read_as_the_spec_writes_them() {
        let full = json!({
            "mountOptions": ["ro", "rro"],
            "linux": {
                "namespaces": ["mount", "user"],
                "mountExtensions": {"idmap": {"enabled": true}},
            },
        });
        let all = read(&full, ImageIds::Mapped);
        assert!(all.recursive_read_only_mounts && all.user_namespaces);
        assert!(!read(&full, ImageIds::Host).user_namespaces);
        let few = read(
            &json!({"mountOptions": ["ro"], "linux": {"namespaces": ["user"]}}),
            ImageIds::Mapped,
        );
        assert!(!few.recursive_read_only_mounts && !few.user_namespaces);
        let none = read(&Value::Null, ImageIds::Mapped);
        assert!(!none.recursive_read_only_mounts && !none.user_namespaces);
    }
}
