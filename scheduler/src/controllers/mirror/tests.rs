use std::sync::{Arc, Mutex};

use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::Event;
use serde_json::json;

use super::{Key, Mirror};

fn pod(name: &str, uid: &str, revision: u64, node: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {
            "namespace": "shop", "name": name, "uid": uid,
            "resourceVersion": revision.to_string(),
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "owner", "controller": true}],
        },
        "spec": {"nodeName": node, "containers": []},
    }))
    .unwrap()
}

fn mirror() -> Mirror<Pod> {
    let mirror = Mirror::new(|pod: &Pod| pod.spec.as_ref()?.node_name.as_deref());
    mirror.take_event(Event::Init);
    mirror.take_event(Event::InitDone);
    assert!(mirror.is_ready());
    mirror
}

fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
    pods.iter()
        .map(|pod| pod.metadata.name.as_deref().unwrap())
        .collect()
}

#[test]
fn indices_follow_every_change() {
    let mirror = mirror();
    mirror.take_event(Event::Apply(pod("b", "1", 5, "n1")));
    mirror.take_event(Event::Apply(pod("a", "2", 6, "n2")));
    assert_eq!(names(&mirror.of_owner("owner")), ["a", "b"]);
    assert_eq!(names(&mirror.of_namespace("shop")), ["a", "b"]);
    assert_eq!(names(&mirror.of_node("n1")), ["b"]);
    mirror.take_event(Event::Apply(pod("b", "1", 7, "n2")));
    assert!(mirror.of_node("n1").is_empty());
    assert_eq!(names(&mirror.of_node("n2")), ["a", "b"]);
    mirror.take_event(Event::Delete(pod("a", "2", 8, "n2")));
    assert_eq!(names(&mirror.of_node("n2")), ["b"]);
    assert_eq!(names(&mirror.of_owner("owner")), ["b"]);
    assert_eq!(names(&mirror.all()), ["b"]);
}

#[test]
fn an_own_write_is_read_at_once_and_an_older_event_does_not_undo_it() {
    let mirror = mirror();
    mirror.take_event(Event::Apply(pod("a", "1", 5, "")));
    mirror.take_written(pod("a", "1", 9, "n1"));
    mirror.take_event(Event::Apply(pod("a", "1", 7, "")));
    assert_eq!(names(&mirror.of_node("n1")), ["a"]);
    mirror.take_event(Event::Apply(pod("a", "1", 10, "n2")));
    assert_eq!(names(&mirror.of_node("n2")), ["a"]);
}

#[test]
fn what_we_deleted_does_not_come_back_with_a_late_event() {
    let mirror = mirror();
    mirror.take_event(Event::Apply(pod("a", "1", 5, "")));
    mirror.take_removed(&Key::new("shop", "a"), "1");
    mirror.take_event(Event::Apply(pod("a", "1", 6, "")));
    assert!(mirror.all().is_empty());
    // Its successor of the same name is another object.
    mirror.take_event(Event::Apply(pod("a", "2", 8, "")));
    mirror.take_event(Event::Delete(pod("a", "1", 7, "")));
    assert_eq!(names(&mirror.all()), ["a"]);
}

#[test]
fn an_answer_that_the_watch_has_overtaken_makes_no_ghost() {
    let mirror = mirror();
    mirror.take_event(Event::Apply(pod("a", "1", 5, "")));
    mirror.take_event(Event::Delete(pod("a", "1", 6, "")));
    mirror.take_written(pod("a", "1", 5, ""));
    assert!(mirror.all().is_empty());
}

#[test]
fn a_new_list_drops_what_is_gone_but_not_what_we_just_wrote() {
    let mirror = mirror();
    mirror.take_event(Event::Apply(pod("a", "1", 5, "")));
    mirror.take_written(pod("b", "2", 9, ""));
    mirror.take_event(Event::Init);
    mirror.take_event(Event::InitApply(pod("c", "3", 8, "")));
    mirror.take_event(Event::InitDone);
    assert_eq!(names(&mirror.all()), ["b", "c"]);
    let unconfirmed = mirror.unconfirmed(std::time::Duration::ZERO);
    assert_eq!(names(&unconfirmed), ["b"]);
    mirror.confirm(&unconfirmed[0], None);
    assert_eq!(names(&mirror.all()), ["c"]);
}

#[test]
fn listeners_hear_each_change_with_both_states() {
    let mirror = mirror();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&heard);
    mirror.listen(move |change| {
        let revision = |pod: &Arc<Pod>| pod.metadata.resource_version.clone().unwrap();
        let pair = (change.before.map(revision), change.after.map(revision));
        log.lock().unwrap().push(pair);
    });
    mirror.take_event(Event::Apply(pod("a", "1", 5, "")));
    mirror.take_written(pod("a", "1", 6, ""));
    mirror.take_event(Event::Apply(pod("a", "1", 6, "")));
    mirror.take_event(Event::Delete(pod("a", "1", 7, "")));
    let text = |n: &str| Some(n.to_owned());
    assert_eq!(
        *heard.lock().unwrap(),
        [(None, text("5")), (text("5"), text("6")), (text("6"), None)]
    );
}
