//! Records and locks on a real file system.

use super::*;
use crate::cni::config::read_single;
use crate::cni::{Cni, CniSettings};
use crate::request::AttachRequest;

const SOON: Duration = Duration::from_millis(200);

fn attachment(pod_id: &str) -> Attachment {
    let network = read_single(br#"{"name":"a","type":"ptp"}"#, Path::new("a.conf")).unwrap();
    let request = CniRequest {
        attach: AttachRequest {
            pod_id: pod_id.to_owned(),
            netns: "/run/ns".into(),
            interface: "eth0".to_owned(),
            host_ports: Vec::new(),
            addresses: Vec::new(),
        },
        arguments: Vec::new(),
        bandwidth: None,
        dns: None,
        mac: None,
        ip_ranges: Vec::new(),
        cgroup_path: None,
        annotations: Default::default(),
    };
    Attachment::begin(network, request, vec!["/opt".into()]).unwrap()
}

#[tokio::test]
async fn a_record_is_written_read_and_removed_with_its_lock() {
    let folder = tempfile::tempdir().unwrap();
    let attachments = Attachments::open(folder.path()).unwrap();
    assert_eq!(attachments.read("p1").unwrap(), None);
    let lock = attachments.lock_pod("p1", SOON).await.unwrap();
    let written = attachment("p1");
    attachments.write(&written).unwrap();
    assert_eq!(attachments.read("p1").unwrap(), Some(written));
    assert_eq!(attachments.pod_ids().unwrap(), ["p1".to_owned()].into());
    attachments.remove("p1", lock).unwrap();
    assert_eq!(attachments.read("p1").unwrap(), None);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_damaged_record_is_named_and_the_others_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let attachments = Attachments::open(folder.path()).unwrap();
    attachments.write(&attachment("p1")).unwrap();
    fs::write(folder.path().join("p2.json"), "{").unwrap();
    let (read, damaged) = attachments.read_all().unwrap();
    assert_eq!(read.len(), 1);
    assert!(damaged[0].to_string().contains("p2.json"), "{}", damaged[0]);
}

#[tokio::test]
async fn a_lock_is_waited_for_and_outlives_the_file_that_was_removed() {
    let folder = tempfile::tempdir().unwrap();
    let attachments = Attachments::open(folder.path()).unwrap();
    let first = attachments.lock_pod("p1", SOON).await.unwrap();
    let error = attachments.lock_pod("p1", SOON).await.unwrap_err();
    assert!(error.to_string().contains("p1.call"), "{error}");
    let waiter = attachments.clone();
    let waiting = tokio::spawn(async move { waiter.lock_pod("p1", SOON * 50).await });
    tokio::time::sleep(SOON).await;
    attachments.remove("p1", first).unwrap();
    let second = waiting.await.unwrap().unwrap();
    assert!(is_at(second.input(), &folder.path().join("p1.call")));
}

#[tokio::test]
async fn a_lock_whose_taker_died_is_had_once_its_plugin_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let attachments = Attachments::open(folder.path()).unwrap();
    // A shell that takes the lock, starts what holds it as its input, and dies.
    let script = "exec 3<>\"$0\" && flock -x 3 && { setsid sleep 600 <&3 3<&- & } && kill -9 $$";
    let mut shell = std::process::Command::new("sh");
    shell
        .args(["-c", script])
        .arg(folder.path().join("p1.call"));
    let _ = shell.status().unwrap();
    let begin = Instant::now();
    attachments
        .lock_pod("p1", Duration::from_secs(30))
        .await
        .unwrap();
    assert!(begin.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn a_lock_does_not_wait_for_what_a_plugin_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let attachments = Attachments::open(folder.path()).unwrap();
    let lock = attachments.lock_pod("p1", SOON).await.unwrap();
    let mut left_behind = std::process::Command::new("sleep")
        .arg("600")
        .stdin(lock.input().try_clone().unwrap())
        .spawn()
        .unwrap();
    lock.plugin_ended();
    drop(lock);
    let free = attachments.lock_pod("p1", SOON).await;
    left_behind.kill().unwrap();
    left_behind.wait().unwrap();
    // A plugin that was broken off may be at work still.
    let broken_off = free.unwrap();
    let _at_work = broken_off.input().try_clone().unwrap();
    drop(broken_off);
    let held = attachments.lock_pod("p1", SOON).await;
    assert!(held.is_err(), "{held:?}");
}

#[tokio::test]
async fn what_was_left_before_the_record_was_whole_is_found_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let attachments = Attachments::open(folder.path()).unwrap();
    drop(attachments.lock_pod("p1", SOON).await.unwrap());
    fs::write(folder.path().join("p1.new"), "{").unwrap();
    assert!(attachments.pod_ids().unwrap().is_empty());
    assert!(attachments.has_files_of("p1").unwrap());
    assert!(!attachments.has_files_of("p").unwrap());
    let lock = attachments.lock_pod("p1", SOON).await.unwrap();
    attachments.remove("p1", lock).unwrap();
    assert!(!attachments.has_files_of("p1").unwrap());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_pod_is_detached_by_a_plugin_that_was_moved() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let (state, moved) = (folder.path().join("state"), folder.path().join("moved"));
    fs::create_dir(&moved).unwrap();
    let plugin = moved.join("ptp");
    let told = folder.path().join("told");
    let script = format!(
        "#!/bin/sh\necho $CNI_COMMAND $CNI_PATH >{}\n",
        told.display()
    );
    fs::write(&plugin, script).unwrap();
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
    let settings = CniSettings {
        bin_dirs: vec![moved.clone()],
        ..CniSettings::default()
    };
    let cni = Cni::open(&state, settings).unwrap();
    let attachments = Attachments::open(&state).unwrap();
    // It was attached by the one in /opt, which is there no more.
    attachments.write(&attachment("p1")).unwrap();
    cni.detach("p1").await.unwrap();
    assert_eq!(
        fs::read_to_string(told).unwrap(),
        format!("DEL /opt:{}\n", moved.display())
    );
    assert_eq!(attachments.read("p1").unwrap(), None);
}
