//! What pods are given of objects and of the node: files, variables, directories.

use std::os::unix::net::UnixListener;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::world::{self, IMAGE, NODE, World};

fn config_map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn secret(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data})
}

/// What a command in a pod's only container prints.
fn ask(world: &World, pod: &str, script: &str) -> Result<String> {
    world.prints(&["exec", pod, "--", "sh", "-c", script])
}

/// Reads two files of one version again and again; says so if they are of two.
const WATCH: &str = "while :; do cd / && cd /all/..data 2>/dev/null || continue
    if a=$(cat a 2>/dev/null) && b=$(cat b 2>/dev/null); then [ \"$a\" = \"$b\" ] || echo torn $a $b; fi
    done";

fn files() -> Value {
    json!({
        "volumes": [
            {"name": "secret", "secret": {"secretName": "keys", "defaultMode": 0o400,
                "items": [{"key": "one", "path": "deep/one"}, {"key": "two", "path": "two", "mode": 0o440}]}},
            {"name": "absent", "configMap": {"name": "nowhere", "optional": true}},
            {"name": "all", "configMap": {"name": "pair"}},
            {"name": "projected", "projected": {"defaultMode": 0o644, "sources": [
                {"configMap": {"name": "pair", "items": [{"key": "a", "path": "from/map"}]}},
                {"secret": {"name": "keys", "items": [{"key": "one", "path": "from/secret", "mode": 0o600}]}},
                {"downwardAPI": {"items": [
                    {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                    {"path": "cpu", "resourceFieldRef": {"containerName": "main", "resource": "limits.cpu",
                        "divisor": "1m"}}]}}]}}],
        "containers": [{"name": "main", "image": IMAGE, "command": ["sh", "-c", WATCH],
            "resources": {"limits": {"cpu": "250m"}},
            "volumeMounts": [
                {"name": "secret", "mountPath": "/secret"},
                {"name": "absent", "mountPath": "/absent"},
                {"name": "all", "mountPath": "/all"},
                {"name": "all", "mountPath": "/single", "subPath": "a"},
                {"name": "projected", "mountPath": "/projected"}]}]})
}

#[test]
fn files_follow_their_objects_and_keep_their_modes() -> Result<()> {
    world::run(async |world| {
        world.apply(&secret("keys", json!({"one": "first", "two": "second"})))?;
        world.apply(&config_map("pair", json!({"a": "0", "b": "0"})))?;
        world.bind("files", files()).await?;
        world.until_status("files", "Running").await?;
        let modes = ask(
            &world,
            "files",
            "stat -L -c %a /secret/deep/one /secret/two \
            /all/a /projected/from/map /projected/from/secret /projected/labels | tr '\\n' ' '",
        )?;
        ensure!(modes == "400 440 644 644 600 644 ", "{modes}");
        let seen = ask(
            &world,
            "files",
            "cat /secret/deep/one /projected/from/secret /projected/cpu; ls /absent",
        )?;
        ensure!(seen == "firstfirst250", "{seen:?}");
        for round in 1..=5 {
            let text = round.to_string();
            world.apply(&config_map("pair", json!({"a": text, "b": text})))?;
            world
                .eventually("the files follow the ConfigMap", async || {
                    let seen =
                        ask(&world, "files", "cat /all/a /all/b /projected/from/map").ok()?;
                    (seen == text.repeat(3)).then_some(())
                })
                .await?;
        }
        world.apply(&secret("keys", json!({"one": "changed", "two": "second"})))?;
        world.apply(&config_map("nowhere", json!({"came": "later"})))?;
        world.prints(&["label", "pod", "files", "color=green"])?;
        world
            .eventually("the other files follow as well", async || {
                let script = "cat /secret/deep/one /projected/from/secret /absent/came; cat /projected/labels";
                let seen = ask(&world, "files", script).ok()?;
                (seen.starts_with("changedchangedlater") && seen.contains("color=\"green\"")).then_some(())
            })
            .await?;
        let modes = ask(
            &world,
            "files",
            "stat -L -c %a /secret/deep/one /projected/from/secret | tr '\\n' ' '",
        )?;
        ensure!(modes == "400 600 ", "{modes}");
        let single = ask(&world, "files", "cat /single")?;
        ensure!(
            single == "0",
            "what is mounted by subPath keeps its first content: {single}"
        );
        let torn = world.prints(&["logs", "files"])?;
        ensure!(torn.is_empty(), "{torn}");
        Ok(world)
    })
}

#[test]
fn variables_wait_for_their_objects() -> Result<()> {
    world::run(async |world| {
        let from = |kind: &str, name: &str, key: &str| json!({kind: {"name": name, "key": key}});
        let spec = json!({"containers": [{"name": "main", "image": IMAGE,
            "command": ["sh", "-c", "env | sort; sleep 1000"],
            "envFrom": [
                {"configMapRef": {"name": "many"}, "prefix": "MAP_"},
                {"secretRef": {"name": "hidden"}},
                {"secretRef": {"name": "nowhere", "optional": true}}],
            "env": [
                {"name": "KEY", "valueFrom": from("secretKeyRef", "hidden", "key")},
                {"name": "COLOR", "valueFrom": from("configMapKeyRef", "many", "color")},
                {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                {"name": "BOTH", "value": "$(KEY)-$(COLOR)"}]}]});
        world.bind("variables", spec).await?;
        world
            .until_status("variables", "CreateContainerConfigError")
            .await?;
        let told = world.value(
            "variables",
            ".status.containerStatuses[0].state.waiting.message",
        )?;
        ensure!(told.contains("not found"), "{told}");
        world.apply(&config_map("many", json!({"color": "blue", "size": "9"})))?;
        // There, but without the key.
        world.apply(&secret("hidden", json!({"other": "x"})))?;
        let words = [
            "get",
            "pod",
            "variables",
            "-o=jsonpath={.status.containerStatuses[0].state.waiting.message}",
        ];
        world
            .until_prints(&words, |told| told.contains("couldn't find key key"))
            .await?;
        let described = world.prints(&["describe", "pod", "variables"])?;
        ensure!(described.contains("couldn't find key key"), "{described}");
        world.apply(&secret("hidden", json!({"other": "x", "key": "sesame"})))?;
        world.until_status("variables", "Running").await?;
        let seen = world.until_log("variables", "PATH=").await?;
        for line in [
            "KEY=sesame",
            "COLOR=blue",
            "MAP_color=blue",
            "MAP_size=9",
            "other=x",
            &format!("NODE={NODE}"),
            "BOTH=sesame-blue",
        ] {
            ensure!(seen.lines().any(|found| found == line), "{line}: {seen}");
        }
        let restarts = world.value("variables", ".status.containerStatuses[0].restartCount")?;
        ensure!(restarts == "0", "{restarts}");
        Ok(world)
    })
}

#[test]
fn directories_are_bounded_and_paths_of_the_node_are_of_their_type() -> Result<()> {
    world::run(async |world| {
        let shared = world.shared()?;
        std::fs::write(shared.join("file"), "here")?;
        let socket = UnixListener::bind(shared.join("socket"))?;
        let path = |name: &str, kind: &str| json!({"name": name, "hostPath": {"path": shared.join(name).display().to_string(), "type": kind}});
        let mount = |name: &str| json!({"name": name, "mountPath": format!("/{name}")});
        let spec = json!({
            "volumes": [{"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
                path("made", "DirectoryOrCreate"), path("touched", "FileOrCreate"), path("file", "File"),
                path("socket", "Socket"), path("late", "Directory")],
            "containers": [{"name": "main", "image": IMAGE, "command": ["sleep", "1000"],
                "volumeMounts": (["memory", "made", "touched", "file", "socket", "late"].map(mount))}]});
        world.bind("paths", spec).await?;
        world.until_event("paths", "FailedMount").await?;
        std::fs::create_dir(shared.join("late"))?;
        world.until_status("paths", "Running").await?;
        let seen = ask(
            &world,
            "paths",
            "df -k /memory | awk 'END {print $2}'; cat /file; echo; \
            test -S /socket && test -d /made && test -f /touched && echo all; \
            dd if=/dev/zero of=/memory/big bs=1k count=2048 2>&1 | grep -c 'No space'",
        )?;
        ensure!(seen == "1024\nhere\nall\n1\n", "{seen:?}");
        drop(socket);
        Ok(world)
    })
}

#[test]
fn who_writes_more_than_its_ephemeral_storage_is_evicted() -> Result<()> {
    world::run(async |world| {
        let pod = |mount: &str| {
            json!({"restartPolicy": "Never",
            "volumes": [{"name": "scratch", "emptyDir": {}}],
            "containers": [{"name": "main", "image": IMAGE,
                "resources": {"limits": {"ephemeral-storage": "4Mi"}},
                "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
                "command": ["sh", "-c", format!("dd if=/dev/urandom of={mount}/big bs=1M count=6; sleep 1000")]}]})
        };
        // Into its own layer, into a volume, and not at all.
        world.bind("layer", pod("/tmp")).await?;
        world.bind("volume", pod("/scratch")).await?;
        world.bind("modest", pod("/dev")).await?;
        for (name, wanted) in [
            (
                "layer",
                "Container main exceeded its local ephemeral storage limit",
            ),
            (
                "volume",
                "Pod ephemeral local storage usage exceeds the total limit",
            ),
        ] {
            world.until_evicted(name).await?;
            let told = world.value(name, ".status['phase','reason','message']")?;
            ensure!(
                told.starts_with("Failed Evicted") && told.contains(wanted),
                "{told}"
            );
            let target = world.value(
                name,
                ".status.conditions[?(@.type=='DisruptionTarget')].reason",
            )?;
            ensure!(target == "TerminationByKubelet", "{target}");
            world.until_event(name, "Evicted").await?;
        }
        world.until_status("modest", "Running").await?;
        Ok(world)
    })
}
