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

/// The handlers, the default one first.
#[derive(Debug)]
pub(super) struct Handlers {
    list: Vec<v1::RuntimeHandler>,
}

impl Handlers {
    /// Asks every runtime once.
    pub(super) async fn observe(engine: &Engine) -> Handlers {
        let runtimes = engine.runtimes();
        let mut list = Vec::new();
        // The default one has a name only if an operator gave it one.
        if let Ok(default) = runtimes.choose("", &engine.config().oci_runtime) {
            list.push(observe("", &default.runtime).await);
        }
        for (name, runtime) in &runtimes.named {
            list.push(observe(name, runtime).await);
        }
        Handlers { list }
    }

    /// As `Status` tells them.
    pub(super) fn list(&self) -> Vec<v1::RuntimeHandler> {
        self.list.clone()
    }
}

async fn observe(name: &str, runtime: &OciRuntime) -> v1::RuntimeHandler {
    let features = ask(runtime).await.unwrap_or_else(|| {
        tracing::warn!(
            "{}: does not answer `features`; it is taken to have none",
            runtime.program.display()
        );
        Value::Null
    });
    v1::RuntimeHandler {
        name: name.to_owned(),
        features: Some(read(&features)),
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
fn read(features: &Value) -> v1::RuntimeHandlerFeatures {
    let holds = |list: &Value, word: &str| {
        let words = list.as_array();
        words.is_some_and(|words| words.iter().any(|one| one == word))
    };
    v1::RuntimeHandlerFeatures {
        recursive_read_only_mounts: holds(&features["mountOptions"], "rro"),
        // Whatever the runtime can do: the engine makes a pod's namespaces and
        // roots for the host's users, and refuses a pod that wants its own.
        user_namespaces: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn features_are_read_as_the_spec_writes_them() {
        let full = read(&json!({"mountOptions": ["ro", "rro"]}));
        assert!(full.recursive_read_only_mounts && !full.user_namespaces);
        assert!(!read(&json!({"mountOptions": ["ro"]})).recursive_read_only_mounts);
        assert!(!read(&Value::Null).recursive_read_only_mounts);
    }
}
