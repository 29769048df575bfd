//! The images that critest asks for, under their names.
//!
//! critest of cri-tools names images at four public registries. Where those
//! cannot be reached, one registry on loopback stands for all of them: what
//! tells two images apart is then the repository, and a `registries.toml` that
//! names it as the mirror of the four leaves critest as it is.
//!
//! What each image must hold is what the specs do with it; it is made from
//! Debian's packages and from a few lines of C. One image cannot be made: a
//! spec pulls by a digest that is written down in critest, and no other bytes
//! have it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::layer::Entry;
use super::{ImagePlan, LayerPlan, build, busybox, host_file, nginx};
use crate::registry::Registry;

/// The registries that are stood for.
pub const REGISTRIES: [&str; 4] = ["registry.k8s.io", "k8s.gcr.io", "gcr.io", "public.ecr.aws"];

/// Where the host-network server of the streaming specs listens.
const HOST_NETWORK_PORT: u16 = 12003;
/// Where critest's own images are.
const STAGING: &str = "k8s-staging-cri-tools";

/// What a program that gained rights by its setuid bit may call itself.
const EFFECTIVE_UID: &str = r#"
#include <stdio.h>
#include <unistd.h>

int main(void)
{
	printf("Effective uid: %d\n", (int)geteuid());
	return 0;
}
"#;

/// Sleeps until a signal ends it, and reaps what is left to it.
const PAUSE: &str = r#"
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void leave(int signal) { (void)signal; _exit(0); }
static void reap(int signal) { (void)signal; while (waitpid(-1, 0, WNOHANG) > 0) {} }

int main(void)
{
	signal(SIGINT, leave);
	signal(SIGTERM, leave);
	signal(SIGCHLD, reap);
	for (;;)
		pause();
}
"#;

/// A `registries.toml` that has all of the four pulled from here.
pub fn mirror_configuration(registry: &Registry) -> String {
    let address = registry.address();
    let mut text = format!("[registry.\"{address}\"]\ninsecure = true\n");
    for host in REGISTRIES {
        text += &format!("\n[registry.\"{host}\"]\nmirrors = [\"http://{address}\"]\n");
    }
    text
}

/// Builds all of them and pushes them under all their names.
///
/// # Errors
///
/// A package or a C compiler is missing, or the registry refused.
pub fn push_all(registry: &Registry) -> Result<()> {
    for (plan, names) in images()? {
        let image = build(&plan)?;
        for name in names {
            let (repository, tag) = name.rsplit_once(':').context("a name has a tag")?;
            registry.push(&image, repository, tag)?;
        }
    }
    Ok(())
}

/// Every image with its names, the registry's host left out.
fn images() -> Result<Vec<(ImagePlan, Vec<String>)>> {
    let shell = shell()?;
    let staging = |name: &str| format!("{STAGING}/{name}");
    let mut images = vec![
        (shell.clone(), busybox_names()),
        (
            web_server(80)?,
            vec!["e2e-test-images/nginx:1.14-2".to_owned()],
        ),
        (
            web_server(HOST_NETWORK_PORT)?,
            vec![staging(&format!(
                "hostnet-nginx-{}:latest",
                super::architecture()
            ))],
        ),
        (httpd()?, vec!["e2e-test-images/httpd:2.4.39-4".to_owned()]),
        (
            one_program("nonewprivs", EFFECTIVE_UID, 0o4755)?,
            vec!["e2e-test-images/nonewprivs:1.3".to_owned()],
        ),
        (
            one_program("pause", PAUSE, 0o755)?,
            vec!["pause:3.9".to_owned()],
        ),
        (
            predefined_group()?,
            vec![staging("test-image-predefined-group:latest")],
        ),
        (
            with_marker("test-image-tags")?,
            ["1", "2", "3"]
                .map(|tag| staging(&format!("test-image-tags:{tag}")))
                .to_vec(),
        ),
    ];
    for (name, tag) in [
        ("test-image-latest", "latest"),
        ("test-image-1", "latest"),
        ("test-image-2", "latest"),
        ("test-image-3", "latest"),
        ("test-image-tag", "test"),
        ("test-image-tag", "all"),
    ] {
        let marker = with_marker(&format!("{name}-{tag}"))?;
        images.push((marker, vec![staging(&format!("{name}:{tag}"))]));
    }
    for (name, user) in [
        ("uid", "1002"),
        ("username", "www-data"),
        ("uid-group", "1003:1004"),
        ("username-group", "www-data:1004"),
    ] {
        let mut plan = shell.clone();
        plan.config["User"] = Value::from(user);
        images.push((
            plan,
            vec![staging(&format!("test-image-user-{name}:latest"))],
        ));
    }
    Ok(images)
}

fn busybox_names() -> Vec<String> {
    let mut names = vec!["e2e-test-images/busybox:1.29-2".to_owned()];
    // What the benchmarks pull and list.
    for tag in ["1.35.0-glibc", "1-uclibc", "1", "1-glibc", "1-musl"] {
        names.push(format!("docker/library/busybox:{tag}"));
    }
    names
}

/// Busybox, and two programs that Debian's build of it leaves out.
fn shell() -> Result<ImagePlan> {
    let mut plan = busybox::plan()?;
    let mut entries = Vec::new();
    for program in ["/usr/bin/pgrep", "/usr/bin/ipcs"] {
        ensure!(
            Path::new(program).exists(),
            "{program} is missing: apt-get install procps util-linux"
        );
        entries.push(host_file(
            Path::new(program),
            program.trim_start_matches('/'),
        )?);
        for library in nginx::libraries(program)? {
            nginx::add_with_parents(&mut entries, &library)?;
        }
    }
    plan.layers.push(layer(entries));
    Ok(plan)
}

fn with_marker(name: &str) -> Result<ImagePlan> {
    let mut plan = shell()?;
    plan.layers
        .push(layer(vec![Entry::file(name, 0o644, Vec::new())]));
    Ok(plan)
}

/// The user of the image belongs to a group that only the image knows.
fn predefined_group() -> Result<ImagePlan> {
    let mut plan = shell()?;
    plan.layers.push(layer(vec![
        Entry::file(
            "etc/passwd",
            0o644,
            "root:x:0:0:root:/root:/bin/sh\ndefault-user:x:1000:1000::/home:/bin/sh\n",
        ),
        Entry::file(
            "etc/group",
            0o644,
            "root:x:0:\ndefault-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n",
        ),
    ]));
    plan.config["User"] = Value::from("1000");
    Ok(plan)
}

fn web_server(port: u16) -> Result<ImagePlan> {
    let mut plan = nginx::plan()?;
    plan.layers.push(layer(vec![
        // Where the specs look for the process's number.
        Entry::symlink("var/run", "/run"),
        Entry::file("etc/nginx/nginx.conf", 0o644, nginx::configuration(port)),
    ]));
    Ok(plan)
}

/// A server that says its name in its log.
fn httpd() -> Result<ImagePlan> {
    let mut plan = busybox::plan()?;
    plan.layers.push(layer(vec![
        Entry::directory("www", 0o755),
        Entry::file("www/index.html", 0o644, "<h1>It works!</h1>\n"),
    ]));
    plan.config["Cmd"] = json!([
        "sh",
        "-c",
        "echo httpd: serves /www; exec httpd -f -p 80 -h /www"
    ]);
    Ok(plan)
}

/// An image that holds one program, linked without any library.
fn one_program(name: &str, source: &str, mode: u32) -> Result<ImagePlan> {
    let program = Entry::file(name, mode, compile(name, source)?);
    Ok(ImagePlan {
        layers: vec![layer(vec![program])],
        config: json!({"Entrypoint": [format!("/{name}")]}),
    })
}

fn compile(name: &str, source: &str) -> Result<Vec<u8>> {
    let folder = TempDir::new()?;
    let (input, output) = (folder.path().join("program.c"), folder.path().join(name));
    std::fs::write(&input, source)?;
    let compiler = Command::new("cc")
        // The same source is the same image, on every run.
        .args(["-static", "-Os", "-s", "-Wl,--build-id=none", "-o"])
        .args([&output, &input])
        .output()
        .context("run cc: apt-get install gcc libc6-dev")?;
    ensure!(
        compiler.status.success(),
        "cc {name}: {}",
        String::from_utf8_lossy(&compiler.stderr)
    );
    Ok(std::fs::read(output)?)
}

fn layer(entries: Vec<Entry>) -> LayerPlan {
    LayerPlan {
        entries,
        ..LayerPlan::default()
    }
}
