//! Images by command: load, remove, prune, and what a missing one is told as.

use berth_tests::machine::Machine;

#[test]
fn an_archive_that_another_program_wrote_is_loaded_and_run() {
    let machine = Machine::new().unwrap();
    let source = format!(
        "docker://{}",
        machine.registry().reference("library/busybox", "latest")
    );
    let copy = machine
        .host()
        .command("skopeo")
        .args(["--insecure-policy", "copy", "--src-tls-verify=false"])
        .args([&source, "docker-archive:busybox.tar:example.org/box:1"])
        .output()
        .unwrap();
    assert!(copy.status.success(), "skopeo: {copy:?}");
    let names = machine.berth(&["load", "docker-archive:busybox.tar"]);
    assert_eq!(names.unwrap(), "example.org/box:1\n");
    let said = machine.berth(&[
        "run",
        "-q",
        "--pull",
        "never",
        "example.org/box:1",
        "echo",
        "a",
    ]);
    assert_eq!(said.unwrap(), "a\n");
    let message = machine.berth_fails(1, &["load", "busybox.tar"]).unwrap();
    assert!(message.contains("docker-archive:busybox.tar"), "{message}");
    let message = machine
        .berth_fails(1, &["load", "docker-archive:nowhere.tar"])
        .unwrap();
    assert!(message.contains("nowhere.tar"), "{message}");
    machine.assert_clean().unwrap();
}

#[test]
fn an_image_in_use_is_refused_and_kept_by_prune() {
    let machine = Machine::new().unwrap();
    machine
        .berth(&["run", "-d", "--name", "web", "nginx"])
        .unwrap();
    machine.berth(&["pull", "-q", "busybox"]).unwrap();
    let message = machine.berth_fails(1, &["rmi", "nginx"]).unwrap();
    assert!(message.contains("is used by container web/"), "{message}");
    let pruned = machine.berth(&["prune", "--all"]).unwrap();
    assert!(
        pruned.contains("busybox") && !pruned.contains("nginx"),
        "{pruned}"
    );
    // It runs on, and can still be entered.
    machine.berth(&["exec", "web", "true"]).unwrap();
    machine.berth(&["rm", "-f", "web"]).unwrap();
    machine.berth(&["rmi", "nginx"]).unwrap();
    assert_eq!(machine.berth(&["images", "-q"]).unwrap(), "");
    machine.assert_clean().unwrap();
}
