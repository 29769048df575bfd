//! Volumes of every kind, and attempts to leave them.

use std::fs;
use std::os::unix::fs::symlink;

use super::world::{World, assert_lines};

#[test]
fn empty_directories_are_shared_bounded_and_emptied() {
    let world = World::new();
    let output = world.succeeds(
        r"
apiVersion: v1
kind: Pod
metadata: {name: empty}
spec:
  restartPolicy: Never
  volumes:
  - {name: disk, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  initContainers:
  - name: writer
    image: busybox
    command: [sh, -c, 'echo from init > /d/file']
    volumeMounts: [{name: disk, mountPath: /d}]
  containers:
  - name: main
    image: busybox
    command:
    - sh
    - -c
    - |
      cat /d/file
      stat -c 'mode %a' /d
      awk '$2 == `/m` {print `type`, $3}' /proc/mounts
      dd if=/dev/zero of=/m/big bs=1k count=2000 2>/dev/null || echo full
      stat -c 'size %s' /m/big
      touch /r/new || echo read-only
      cat /r/file
    volumeMounts:
    - {name: disk, mountPath: /d}
    - {name: disk, mountPath: /r, readOnly: true}
    - {name: memory, mountPath: /m}
"
        .replace('`', "\"")
        .as_str(),
    );
    assert_lines(
        &output,
        &[
            "from init",
            "mode 777",
            "type tmpfs",
            "full",
            "size 1048576",
            "read-only",
        ],
    );
    world.end();
}

#[test]
fn host_paths_are_checked_by_their_type() {
    let world = World::new();
    let base = world.host().directory().join("shared");
    fs::create_dir(&base).unwrap();
    fs::write(base.join("file"), "of the host\n").unwrap();
    let pod = |path: &str, kind: &str, script: &str| {
        format!(
            r"
apiVersion: v1
kind: Pod
metadata: {{name: host}}
spec:
  restartPolicy: Never
  volumes: [{{name: host, hostPath: {{path: {}, type: {kind}}}}}]
  containers:
  - name: main
    image: busybox
    command: [sh, -c, '{script}']
    volumeMounts: [{{name: host, mountPath: /host}}]
",
            base.join(path).display()
        )
    };
    let output = world.succeeds(&pod(
        "",
        "Directory",
        "cat /host/file; echo new > /host/written",
    ));
    assert_lines(&output, &["of the host"]);
    assert_eq!(fs::read_to_string(base.join("written")).unwrap(), "new\n");
    assert_lines(
        &world.succeeds(&pod("file", "File", "cat /host")),
        &["of the host"],
    );
    world.succeeds(&pod("made/deep", "DirectoryOrCreate", "touch /host/in"));
    assert!(base.join("made/deep/in").exists());
    world.succeeds(&pod("made-file", "FileOrCreate", "echo text > /host"));
    assert_eq!(
        fs::read_to_string(base.join("made-file")).unwrap(),
        "text\n"
    );
    for (path, kind) in [
        ("absent", "Directory"),
        ("file", "Directory"),
        ("absent", "File"),
        ("", "File"),
        ("file", "Socket"),
        ("file", "CharDevice"),
        ("file", "BlockDevice"),
        ("file", "DirectoryOrCreate"),
    ] {
        let ended = world.run(&pod(path, kind, "echo ran"));
        assert_eq!(ended.code, Some(125), "{path} {kind}: {ended:#?}");
        assert!(
            ended
                .stderr
                .contains(base.join(path).to_str().unwrap().trim_end_matches('/')),
            "{ended:#?}"
        );
    }
    assert!(!base.join("absent").exists(), "a refusal made something");
    world.end();
}

#[test]
fn objects_become_files_with_modes_and_owners() {
    let world = World::new();
    let output = world.succeeds(
        r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: conf}
data: {a: alpha, b: beta}
binaryData: {raw: AAEC}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {token: hush, other: loud}
---
apiVersion: v1
kind: Pod
metadata:
  name: files
  labels: {app: hull, tier: deck}
spec:
  restartPolicy: Never
  securityContext: {fsGroup: 2000}
  volumes:
  - name: conf
    configMap: {name: conf}
  - name: some
    configMap:
      name: conf
      defaultMode: 0400
      items:
      - {key: a, path: deep/er/alpha}
      - {key: b, path: beta, mode: 0755}
  - name: secret
    secret: {secretName: keys, defaultMode: 0400}
  - name: down
    downwardAPI:
      items:
      - {path: labels, fieldRef: {fieldPath: metadata.labels}}
      - {path: limit, resourceFieldRef: {containerName: main, resource: limits.memory}}
  - name: all
    projected:
      defaultMode: 0444
      sources:
      - configMap: {name: conf, items: [{key: a, path: conf/a}]}
      - secret: {name: keys, items: [{key: token, path: secret/token, mode: 0400}]}
      - downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}
      - configMap: {name: absent, optional: true}
  containers:
  - name: main
    image: busybox
    resources: {limits: {memory: 32Mi}}
    command:
    - sh
    - -c
    - |
      echo "conf $(ls /conf | tr '\n' ' ')$(cat /conf/a)"
      echo "raw $(od -An -tx1 /conf/raw)"
      stat -Lc '%n %a' /some/deep/er/alpha /some/beta /conf/a
      stat -Lc '%n %a %g' /secret/token
      grep -c ' /secret tmpfs ro' /proc/mounts
      cat /down/labels; echo; cat /down/limit; echo
      echo "all $(cat /all/conf/a /all/name)"
      stat -Lc '%n %a' /all/secret/token /all/name
      touch /conf/new || echo conf is read-only
    volumeMounts:
    - {name: conf, mountPath: /conf}
    - {name: some, mountPath: /some}
    - {name: secret, mountPath: /secret}
    - {name: down, mountPath: /down}
    - {name: all, mountPath: /all}
"#,
    );
    assert_lines(
        &output,
        &[
            "conf a b raw alpha",
            "raw  00 01 02",
            // The group that owns the volume may read what the owner may.
            "/some/deep/er/alpha 440",
            "/some/beta 755",
            "/conf/a 644",
            "/secret/token 440 2000",
            "1",
            "app=\"hull\"",
            "tier=\"deck\"",
            "33554432",
            "all alphafiles",
            "/all/secret/token 440",
            "/all/name 444",
            "conf is read-only",
        ],
    );
    world.end();
}

#[test]
fn a_sub_path_is_inside_its_volume_whatever_links_say() {
    let world = World::new();
    let base = world.host().directory().join("volume");
    fs::create_dir_all(base.join("inside")).unwrap();
    fs::write(base.join("inside/file"), "inside\n").unwrap();
    let secret = world.host().directory().join("secret-of-the-host");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("file"), "escaped\n").unwrap();
    symlink(&secret, base.join("absolute")).unwrap();
    symlink("../secret-of-the-host", base.join("relative")).unwrap();
    symlink("inside", base.join("honest")).unwrap();
    let pod = |sub_path: &str| {
        format!(
            r"
apiVersion: v1
kind: Pod
metadata: {{name: sub}}
spec:
  restartPolicy: Never
  volumes: [{{name: host, hostPath: {{path: {}}}}}]
  containers:
  - name: main
    image: busybox
    command: [sh, -c, 'cat /sub/file; ls /sub']
    env: [{{name: WHERE, value: inside}}]
    volumeMounts: [{{name: host, mountPath: /sub, {sub_path}}}]
",
            base.display()
        )
    };
    for good in [
        "subPath: inside",
        "subPath: honest",
        "subPathExpr: $(WHERE)",
    ] {
        assert_lines(&world.succeeds(&pod(good)), &["inside"]);
    }
    // One that is missing is made.
    world.run(&pod("subPath: new/one"));
    assert!(base.join("new/one").is_dir());
    for bad in [
        "absolute",
        "relative",
        "absolute/file",
        "relative/new",
        "../secret-of-the-host",
        "/etc",
    ] {
        let ended = world.run(&pod(&format!("subPath: {bad}")));
        assert_ne!(ended.code, Some(0), "{bad}: {ended:#?}");
        assert!(!ended.stdout.contains("escaped"), "{bad}: {ended:#?}");
        assert!(
            (ended.stderr.contains(bad) || ended.stderr.contains("].subPath: expected")),
            "{bad} is not named: {ended:#?}"
        );
    }
    assert_eq!(
        fs::read_dir(&secret).unwrap().count(),
        1,
        "a refusal made something outside"
    );
    world.end();
}

#[test]
fn a_container_cannot_swap_a_link_under_the_next_one() {
    let world = World::new();
    let ended = world.run(
        r"
apiVersion: v1
kind: Pod
metadata: {name: swap}
spec:
  restartPolicy: Never
  volumes: [{name: data, emptyDir: {}}]
  initContainers:
  - name: attacker
    image: busybox
    command: [sh, -c, 'ln -s / /data/way-out']
    volumeMounts: [{name: data, mountPath: /data}]
  containers:
  - name: victim
    image: busybox
    command: [sh, -c, 'ls /sub; test -e /sub/proc/1 && echo escaped']
    volumeMounts: [{name: data, mountPath: /sub, subPath: way-out}]
",
    );
    assert_ne!(ended.code, Some(0), "{ended:#?}");
    assert!(!ended.stdout.contains("escaped"), "{ended:#?}");
    assert!(ended.stderr.contains("way-out"), "{ended:#?}");
    world.end();
}
