//! Records on a real file system.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::engine::id::random_id;

pub(crate) fn pod(id: &str) -> PodRecord {
    PodRecord {
        format: FORMAT,
        id: id.to_owned(),
        name: "web".to_owned(),
        namespace: "default".to_owned(),
        phase: PodPhase::HalfMade,
        maker_pid: 1,
        created_at: 7,
        config: Encoded(v1::PodSandboxConfig {
            hostname: "web".to_owned(),
            ..Default::default()
        }),
        runtime_handler: String::new(),
        oci_runtime: PathBuf::from("/bin/berth-oci"),
        oci_arguments: Vec::new(),
        oci_state: None,
        cgroup: format!("/berth/{id}"),
        network_by: NetworkBy::Cni,
        network: None,
        end_failed_at: None,
    }
}

pub(crate) fn container(pod_id: &str, id: &str) -> ContainerRecord {
    ContainerRecord {
        format: FORMAT,
        id: id.to_owned(),
        pod_id: pod_id.to_owned(),
        name: "main".to_owned(),
        phase: ContainerPhase::Made,
        created_at: 8,
        config: Encoded(v1::ContainerConfig {
            args: vec!["sh".to_owned()],
            ..Default::default()
        }),
        resources: Encoded(v1::LinuxContainerResources::default()),
        image_id: "sha256:00".to_owned(),
        image_ref: "sha256:00".to_owned(),
        log_path: None,
        run_as: RunAs::default(),
        stop_signal: 15,
        cgroup: format!("/berth/{pod_id}/{id}"),
        start_failure: None,
        exit: None,
    }
}

#[test]
fn records_come_back_as_they_were_written() {
    let dir = tempfile::tempdir().unwrap();
    let records = Records::open(dir.path()).unwrap();
    let (pod_id, id) = (random_id(), random_id());
    let locked = records.create_pod(&pod_id).unwrap();
    locked.write(&pod(&pod_id)).unwrap();
    locked.write_container(&container(&pod_id, &id)).unwrap();
    assert_eq!(records.find_pod(&pod_id[..8]).unwrap(), Some(pod(&pod_id)));
    assert_eq!(
        records.find_container(&id[..8]).unwrap(),
        Some(container(&pod_id, &id))
    );
    locked.remove_container(&id).unwrap();
    locked.remove_container(&id).unwrap();
    assert_eq!(records.find_container(&id).unwrap(), None);
    locked.remove().unwrap();
    assert_eq!(records.find_pod(&pod_id).unwrap(), None);
    assert_eq!(std::fs::read_dir(records.directory()).unwrap().count(), 0);
}

#[test]
fn a_damaged_file_is_named_and_the_others_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let records = Records::open(dir.path()).unwrap();
    let (good, bad) = (random_id(), random_id());
    records
        .create_pod(&good)
        .unwrap()
        .write(&pod(&good))
        .unwrap();
    drop(records.create_pod(&bad).unwrap());
    std::fs::write(records.pod_path(&bad), b"{\"format\": 1, ").unwrap();
    let listing = records.list_pods().unwrap();
    assert_eq!(listing.records, vec![Arc::new(pod(&good))]);
    assert_eq!(listing.damaged.len(), 1);
    let text = listing.damaged[0].to_string();
    assert!(text.contains(&bad) && text.contains("is damaged"), "{text}");
}

#[test]
fn a_later_format_is_refused_by_its_number() {
    let dir = tempfile::tempdir().unwrap();
    let records = Records::open(dir.path()).unwrap();
    let id = random_id();
    drop(records.create_pod(&id).unwrap());
    std::fs::write(records.pod_path(&id), b"{\"format\": 9}").unwrap();
    let error = records.read_pod(&id).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("format 9"), "{error}");
}

#[test]
fn what_is_not_an_id_is_not_a_record() {
    let dir = tempfile::tempdir().unwrap();
    let records = Records::open(dir.path()).unwrap();
    std::fs::create_dir(dir.path().join("pods/.hidden")).unwrap();
    std::fs::write(dir.path().join("secret.json"), b"{}").unwrap();
    assert!(records.pod_ids().unwrap().is_empty());
    assert_eq!(records.find_pod("../").unwrap(), None);
    assert_eq!(records.find_container("../../secret").unwrap(), None);
}

#[tokio::test]
async fn a_lock_keeps_others_out_until_it_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let records = Records::open(dir.path()).unwrap();
    let id = random_id();
    let first = records.create_pod(&id).unwrap();
    assert!(records.try_lock_pod(&id).unwrap().is_none());
    let waiter = {
        let (records, id) = (records.clone(), id.clone());
        tokio::spawn(async move { records.lock_pod(&id).await })
    };
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!waiter.is_finished());
    drop(first);
    let second = waiter.await.unwrap().unwrap();
    second.remove().unwrap();
    let error = records.lock_pod(&id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn who_waited_for_a_removed_pod_learns_that_it_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let records = Records::open(dir.path()).unwrap();
    let id = random_id();
    let first = records.create_pod(&id).unwrap();
    let waiter = {
        let (records, id) = (records.clone(), id.clone());
        tokio::spawn(async move { records.lock_pod(&id).await })
    };
    tokio::time::sleep(Duration::from_millis(10)).await;
    first.remove().unwrap();
    let error = waiter.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}
