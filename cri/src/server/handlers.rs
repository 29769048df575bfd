//! What each configured OCI runtime can do.
//!
//! A kubelet reads it from `Status` and refuses a pod that asks for more. The
//! runtimes themselves are asked, by `features` (runtime-spec, features.md);
//! one that does not know the command can do nothing special.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use crate::engine::config::EngineConfig;
use crate::v1;

const PATIENCE: Duration = Duration::from_secs(10);

/// The handlers, the default one first.
#[derive(Debug)]
pub(super) struct Handlers {
    list: Vec<v1::RuntimeHandler>,
}

impl Handlers {
    /// Asks every runtime once.
    pub(super) async fn observe(config: &EngineConfig) -> Handlers {
        let mut list = vec![observe("", &config.oci_runtime).await];
        for (name, program) in &config.runtimes {
            list.push(observe(name, program).await);
        }
        Handlers { list }
    }

    /// As `Status` tells them.
    pub(super) fn list(&self) -> Vec<v1::RuntimeHandler> {
        self.list.clone()
    }
}

async fn observe(name: &str, program: &Path) -> v1::RuntimeHandler {
    let features = ask(program).await.unwrap_or_else(|| {
        tracing::warn!(
            "{}: does not answer `features`; it is taken to have none",
            program.display()
        );
        Value::Null
    });
    v1::RuntimeHandler {
        name: name.to_owned(),
        features: Some(read(&features)),
    }
}

async fn ask(program: &Path) -> Option<Value> {
    let answer = Command::new(program)
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
