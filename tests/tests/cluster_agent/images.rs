//! Images: who may pull them, when they are pulled, when they go.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use berth_tests::image::layer::Entry;
use berth_tests::image::{self, ImagePlan, LayerPlan, busybox};
use berth_tests::registry::{PASSWORD, USER};
use serde_json::{Value, json};

use crate::world::{self, NODE, Setup, World, succeed};

/// A shell, and a file that tells which image this is.
fn plan(mark: &str, mebibytes: usize) -> Result<ImagePlan> {
    // Bytes that no compression makes fewer.
    let mut state = 0x9e37_79b9_u32 ^ u32::try_from(mark.len())?;
    let noise: Vec<u8> = (0..mebibytes << 20)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_le_bytes()[0]
        })
        .collect();
    let entries = vec![
        Entry::file("mark", 0o644, format!("{mark}\n")),
        Entry::file("noise", 0o644, noise),
    ];
    let own = LayerPlan {
        entries,
        ..LayerPlan::default()
    };
    Ok(ImagePlan {
        layers: vec![busybox::layer()?, own],
        config: json!({"Cmd": ["sleep", "1000"], "Env": ["PATH=/bin"]}),
    })
}

fn pod(image: &str, more: &Value) -> Value {
    let mut spec = json!({"containers": [{"name": "main", "image": image,
        "command": ["sh", "-c", "cat /mark; exec sleep 1000"]}]});
    let fields = more.as_object().into_iter().flatten();
    for (name, value) in fields {
        spec[name] = value.clone();
    }
    spec
}

#[test]
fn a_registrys_password_is_a_secret_of_the_pod_or_of_its_account() -> Result<()> {
    let setup = Setup {
        private: true,
        ..Setup::default()
    };
    world::run_with(setup, async |world| {
        world
            .private()?
            .push(&image::build(&plan("own", 0)?)?, "own/image", "1")?;
        world
            .private()?
            .push(&image::build(&plan("own too", 0)?)?, "own/image", "2")?;
        let image = world.private()?.reference("own/image", "1");
        let secrets = json!({"imagePullSecrets": [{"name": "registry"}]});
        world.bind("named", pod(&image, &secrets)).await?;
        let shown = ["get", "pod", "named", "--no-headers"];
        let refused =
            |line: &str| line.contains("ErrImagePull") || line.contains("ImagePullBackOff");
        world.until_prints(&shown, refused).await?;
        world
            .until_prints(&shown, |line| line.contains("ImagePullBackOff"))
            .await?;
        world
            .until_event("named", "FailedToRetrieveImagePullSecret")
            .await?;
        let server = world.private()?.address().to_string();
        let header = world.private()?.authorization().unwrap_or_default();
        let auth = header
            .strip_prefix("Basic ")
            .context("basic authentication")?;
        let file = json!({"auths": {server.clone(): {"auth": auth}}}).to_string();
        world.apply(&json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "registry"}, "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": file}}))?;
        world.until_status("named", "Running").await?;
        world.until_log("named", "own").await?;
        // Of the account, and in the older form.
        let older = json!({server: {"username": USER, "password": PASSWORD}}).to_string();
        world.apply(
            &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "older"},
            "type": "kubernetes.io/dockercfg", "stringData": {".dockercfg": older}}),
        )?;
        world.apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "puller"}, "imagePullSecrets": [{"name": "older"}]}))?;
        let image = world.private()?.reference("own/image", "2");
        world
            .bind(
                "by-account",
                pod(&image, &json!({"serviceAccountName": "puller"})),
            )
            .await?;
        let copied = world.value("by-account", ".spec.imagePullSecrets[*].name")?;
        ensure!(copied == "older", "{copied}");
        world.until_status("by-account", "Running").await?;
        // Who has no password waits, and says why.
        let image = world.private()?.reference("own/image", "none");
        world.bind("without", pod(&image, &json!({}))).await?;
        let shown = ["get", "pod", "without", "--no-headers"];
        world.until_prints(&shown, refused).await?;
        let described = world.prints(&["describe", "pod", "without"])?;
        ensure!(described.contains("Failed to pull image"), "{described}");
        Ok(world)
    })
}

#[test]
fn pull_policies_are_kept() -> Result<()> {
    let setup = Setup {
        images: vec![("library/changing", "1", plan("old", 0)?)],
        ..Setup::default()
    };
    world::run_with(setup, async |world| {
        const CHANGING: &str = "docker.io/library/changing:1";
        let bind = async |name: &str, image: &str, policy: &str| {
            let mut spec = pod(image, &json!({}));
            spec["containers"][0]["imagePullPolicy"] = json!(policy);
            world.bind(name, spec).await
        };
        bind("never-there", CHANGING, "Never").await?;
        world
            .until_status("never-there", "ErrImageNeverPull")
            .await?;
        bind("first", CHANGING, "IfNotPresent").await?;
        world.until_log("first", "old").await?;
        // What waited for the image by its policy finds it now.
        world.until_status("never-there", "Running").await?;
        let changed = image::build(&plan("new", 0)?)?;
        world
            .machine
            .registry()
            .push(&changed, "library/changing", "1")?;
        bind("second", CHANGING, "IfNotPresent").await?;
        world.until_log("second", "old").await?;
        let described = world.prints(&["describe", "pod", "second"])?;
        ensure!(
            described.contains("already present on machine"),
            "{described}"
        );
        bind("third", CHANGING, "Always").await?;
        world.until_log("third", "new").await?;
        let ids = |name: &str| world.value(name, ".status.containerStatuses[0].imageID");
        ensure!(
            ids("first")? != ids("third")?,
            "{} {}",
            ids("first")?,
            ids("third")?
        );
        Ok(world)
    })
}

#[test]
fn images_that_nobody_uses_go_when_the_disk_is_full() -> Result<()> {
    let setup = Setup {
        images: vec![
            ("library/used", "1", plan("used", 12)?),
            ("library/older", "1", plan("older...", 14)?),
            ("library/newer", "1", plan("newer...........", 14)?),
            ("library/last", "1", plan("last....................", 16)?),
        ],
        agent: vec![
            "images-high-percent=68",
            "images-low-percent=62",
            "images-unused-seconds=3",
        ],
        disks: vec![("data", 80)],
        ..Setup::default()
    };
    world::run_with(setup, async |world| {
        let image = |name: &str| format!("docker.io/library/{name}:1");
        world.bind("used", pod(&image("used"), &json!({}))).await?;
        world.until_status("used", "Running").await?;
        for name in ["older", "newer"] {
            world.bind(name, pod(&image(name), &json!({}))).await?;
            world.until_status(name, "Running").await?;
        }
        // Whoever is used last is the last to go.
        for name in ["older", "newer"] {
            world.delete(name).await?;
            tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        }
        world
            .eventually("three images are told of", async || {
                let there = known(&world).ok()?;
                let three = ["used", "older", "newer"].map(str::to_owned);
                there.is_superset(&three.into()).then_some(())
            })
            .await?;
        world.bind("last", pod(&image("last"), &json!({}))).await?;
        world.until_status("last", "Running").await?;
        let left = world
            .eventually("the oldest image goes", async || {
                let left = known(&world).ok()?;
                (!left.contains("older")).then_some(left)
            })
            .await?;
        let stay = ["used", "newer", "last"].map(str::to_owned);
        ensure!(left.is_superset(&stay.into()), "{left:?} {}", full(&world)?);
        // What is in use stays however full it is, and what went is pulled again.
        world.delete("last").await?;
        world
            .bind("again", pod(&image("older"), &json!({})))
            .await?;
        world.until_status("again", "Running").await?;
        // The Node tells it some time later.
        let after = world
            .eventually("the image that went is told again", async || {
                let after = known(&world).ok()?;
                after.contains("older").then_some(after)
            })
            .await?;
        ensure!(after.contains("used"), "{after:?}");
        Ok(world)
    })
}

/// Names of the images that the Node tells of.
fn known(world: &World) -> Result<BTreeSet<String>> {
    let listed = world.prints(&["get", "node", NODE, "-o=jsonpath={.status.images[*].names}"])?;
    let names = listed.split(['"', ',', '[', ']', ' ']);
    Ok(names
        .filter_map(|name| name.strip_prefix("docker.io/library/")?.strip_suffix(":1"))
        .map(str::to_owned)
        .collect())
}

fn full(world: &World) -> Result<String> {
    succeed(
        world
            .machine
            .host()
            .command("df")
            .arg(world.machine.host().data_dir()),
    )
}

#[test]
fn dead_containers_and_their_logs_are_few() -> Result<()> {
    world::run(async |world| {
        let script = "echo again; exit 1";
        world.run_script("crash", script).await?;
        let words = [
            "get",
            "pod",
            "crash",
            "-o=jsonpath={.status.containerStatuses[0].restartCount}",
        ];
        world
            .until_prints(&words, |count| {
                count.parse::<u32>().is_ok_and(|count| count >= 4)
            })
            .await?;
        let logs = world.machine.host().directory().join("pod-logs");
        let pod = std::fs::read_dir(&logs)?
            .next()
            .context("a directory of the pod's")??;
        world
            .eventually(
                "the last two runs' logs are there and no more",
                async || {
                    let files = std::fs::read_dir(pod.path().join("main")).ok()?;
                    (files.count() <= 2).then_some(())
                },
            )
            .await?;
        let previous = world.prints(&["logs", "crash", "--previous"])?;
        ensure!(previous == "again\n", "{previous:?}");
        Ok(world)
    })
}
