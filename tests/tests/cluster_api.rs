//! The API as real clients meet it: over a socket, by hand and by kubectl.
//!
//! kubectl is built by `./x test` into `target/kubelet`.

#![allow(
    clippy::unwrap_used,
    reason = "a suite's own functions may panic as its tests may"
)]

#[path = "cluster_api/bodies.rs"]
mod bodies;
#[path = "cluster_api/history.rs"]
mod history;
#[path = "cluster_api/kubectl.rs"]
mod kubectl;
#[path = "cluster_api/requests.rs"]
mod requests;
#[path = "cluster_api/streams.rs"]
mod streams;
#[path = "cluster_api/watchers.rs"]
mod watchers;
#[path = "cluster_api/wire.rs"]
mod wire;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
};

use axum::Extension;
use berth_scheduler::{
    api::{Api, ApiConfig, Identity, http::router, local},
    store::embedded::EmbeddedStore,
};
use tokio::runtime::Runtime;

/// An API on a port of the loopback; everybody who connects is an administrator.
struct Server {
    runtime: Runtime,
    address: SocketAddr,
    client: kube::Client,
    directory: tempfile::TempDir,
}

impl Server {
    fn start() -> Server {
        Server::start_with(ApiConfig::default())
    }

    fn start_with(config: ApiConfig) -> Server {
        let runtime = Runtime::new().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&directory.path().join("store.redb")).unwrap();
        let (address, client) = runtime.block_on(async {
            let api = Api::open(Arc::new(store), config).await.unwrap();
            let client = local::client(api.clone(), Identity::master("local"));
            let routes = router(api).layer(Extension(Identity::master("test")));
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(async move { axum::serve(listener, routes).await });
            (address, client)
        });
        Server {
            runtime,
            address,
            client,
            directory,
        }
    }

    /// Runs kubectl and waits for its end.
    fn kubectl(&self, words: &[&str]) -> Output {
        self.kubectl_command(words).output().unwrap()
    }

    fn kubectl_command(&self, words: &[&str]) -> Command {
        // Whatever goes wrong, a test ends.
        let mut command = Command::new("timeout");
        command.arg("60").arg(kubectl_program());
        command
            .arg("--server")
            .arg(format!("http://{}", self.address));
        command
            .args(words)
            .env_remove("KUBECONFIG")
            .env("HOME", self.directory.path());
        command.current_dir(self.directory.path());
        command
    }

    /// What kubectl prints, which must succeed.
    fn prints(&self, words: &[&str]) -> String {
        let output = self.kubectl(words);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "kubectl {words:?}: {}\n{text}\n{errors}",
            output.status
        );
        text
    }

    /// What kubectl complains of, which must fail.
    fn complains(&self, words: &[&str]) -> String {
        let output = self.kubectl(words);
        assert!(!output.status.success(), "kubectl {words:?} succeeded");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Writes a file that kubectl can name.
    fn file(&self, name: &str, content: &str) -> String {
        std::fs::write(self.directory.path().join(name), content).unwrap();
        name.to_owned()
    }
}

fn kubectl_program() -> PathBuf {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/kubelet/kubectl");
    assert!(
        program.exists(),
        "{} is not there: `./x test` builds it",
        program.display()
    );
    program
}
