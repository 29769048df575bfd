//! Patches against what Kubernetes documents of them, and against small models.

use jiff::Timestamp;
use proptest::{prelude::Strategy, prop_assert, prop_assert_eq, proptest};
use serde_json::{Value, json};

use super::{
    Apply, PatchKind,
    managed::{Operation, Writer, track},
    merge::merge,
    patch,
};
use crate::api::{
    defaults::tests::{any_kind, any_object},
    error::ApiError,
    kind::{Kind, by_plural},
};

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn deployments() -> &'static Kind {
    by_plural("apps", "deployments").unwrap()
}

fn pods() -> &'static Kind {
    by_plural("", "pods").unwrap()
}

fn strategic(kind: &Kind, current: &Value, body: &Value) -> Result<Value, ApiError> {
    patch(
        kind,
        &PatchKind::Strategic,
        Some(current),
        body.to_string().as_bytes(),
    )
}

fn how(manager: &str, force: bool) -> PatchKind {
    PatchKind::Apply(Apply {
        manager: manager.to_owned(),
        force,
        subresource: None,
        now: now(),
    })
}

/// Applies the spec (and labels) of a Deployment.
fn apply(current: Option<&Value>, manager: &str, wanted: &Value) -> Result<Value, ApiError> {
    apply_with(current, &how(manager, false), wanted)
}

fn apply_with(current: Option<&Value>, how: &PatchKind, wanted: &Value) -> Result<Value, ApiError> {
    let mut body = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "n"}});
    merge(&mut body, wanted.clone());
    patch(deployments(), how, current, body.to_string().as_bytes())
}

fn update(before: Option<&Value>, mut after: Value, manager: &str) -> Value {
    track(
        deployments(),
        before,
        &mut after,
        &Writer {
            manager: manager.to_owned(),
            operation: Operation::Update,
            subresource: None,
            now: now(),
        },
    );
    after
}

/// What a manager owns, as `FieldsV1`.
fn owned(object: &Value, manager: &str) -> Value {
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    let entry = entries.iter().find(|entry| entry["manager"] == manager);
    entry.map_or(Value::Null, |entry| entry["fieldsV1"].clone())
}

#[test]
fn the_example_of_rfc_7386() {
    let mut target = json!({"title": "Goodbye!", "author": {"givenName": "John", "familyName": "Doe"}, "tags": ["example", "sample"], "content": "This"});
    merge(
        &mut target,
        json!({"title": "Hello!", "phoneNumber": "+01", "author": {"familyName": null}, "tags": ["example"]}),
    );
    assert_eq!(
        target,
        json!({"title": "Hello!", "author": {"givenName": "John"}, "tags": ["example"], "content": "This", "phoneNumber": "+01"})
    );
}

#[test]
fn operations_of_a_json_patch_are_done_together_or_not_at_all() {
    let pod = json!({"metadata": {"labels": {"a": "1"}}});
    let body = json!([{"op": "test", "path": "/metadata/labels/a", "value": "1"}, {"op": "replace", "path": "/metadata/labels/a", "value": "2"}]);
    let patched = patch(
        pods(),
        &PatchKind::Json,
        Some(&pod),
        body.to_string().as_bytes(),
    )
    .unwrap();
    assert_eq!(patched["metadata"]["labels"]["a"], "2");
    let body = json!([{"op": "remove", "path": "/metadata/labels"}, {"op": "test", "path": "/spec", "value": 1}]);
    let error = patch(
        pods(),
        &PatchKind::Json,
        Some(&pod),
        body.to_string().as_bytes(),
    )
    .unwrap_err();
    assert_eq!(error.code, 422);
    assert_eq!(
        patch(pods(), &PatchKind::Json, Some(&pod), b"{}")
            .unwrap_err()
            .code,
        400
    );
    assert_eq!(
        patch(pods(), &PatchKind::Merge, Some(&pod), b"[]")
            .unwrap_err()
            .code,
        400
    );
    assert_eq!(
        patch(pods(), &PatchKind::Merge, None, b"{}")
            .unwrap_err()
            .code,
        404
    );
}

#[test]
fn lists_of_objects_are_merged_by_their_key() {
    let pod = json!({"spec": {"containers": [
        {"name": "a", "image": "a:1", "ports": [{"containerPort": 80, "name": "http"}], "args": ["x"]},
        {"name": "b", "image": "b:1"}], "tolerations": [{"key": "k"}]}});
    let patched = strategic(
        pods(),
        &pod,
        &json!({"spec": {"containers": [
        {"name": "b", "image": "b:2"}, {"name": "c", "image": "c:1", "env": null},
        {"name": "a", "ports": [{"containerPort": 443}], "args": ["y", "z"]}], "tolerations": []}}),
    )
    .unwrap();
    assert_eq!(
        patched["spec"],
        json!({"containers": [
        {"name": "a", "image": "a:1", "ports": [{"containerPort": 80, "name": "http"}, {"containerPort": 443}], "args": ["y", "z"]},
        {"name": "b", "image": "b:2"}, {"name": "c", "image": "c:1"}], "tolerations": []})
    );
}

#[test]
fn directives_say_what_a_merge_cannot() {
    let pod = json!({"metadata": {"finalizers": ["x", "y"], "labels": {"a": "1"}}, "spec": {"nodeSelector": {"d": "1"},
        "containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}],
        "volumes": [{"name": "v", "emptyDir": {}}]}});
    let table = [
        (
            json!({"spec": {"containers": [{"name": "b", "$patch": "delete"}]}}),
            "/spec/containers",
            json!([{"name": "a"}, {"name": "c"}]),
        ),
        (
            json!({"spec": {"containers": [{"$patch": "replace"}, {"name": "z"}]}}),
            "/spec/containers",
            json!([{"name": "z"}]),
        ),
        (
            json!({"spec": {"nodeSelector": {"$patch": "replace", "e": "2"}}}),
            "/spec/nodeSelector",
            json!({"e": "2"}),
        ),
        (
            json!({"metadata": {"labels": {"$patch": "delete"}}}),
            "/metadata/labels",
            json!({}),
        ),
        (
            json!({"metadata": {"finalizers": ["z", "x"]}}),
            "/metadata/finalizers",
            json!(["x", "y", "z"]),
        ),
        (
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x"]}}),
            "/metadata/finalizers",
            json!(["y"]),
        ),
        (
            json!({"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}, {"name": "b"}], "containers": [{"name": "a", "image": "i"}]}}),
            "/spec/containers",
            json!([{"name": "c"}, {"name": "a", "image": "i"}, {"name": "b"}]),
        ),
        (
            json!({"spec": {"$setElementOrder/containers": [{"name": "z"}, {"name": "a"}], "containers": [{"name": "z"}]}}),
            "/spec/containers",
            json!([{"name": "z"}, {"name": "a"}, {"name": "b"}, {"name": "c"}]),
        ),
        (
            json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}]}}),
            "/spec/volumes",
            json!([{"name": "v", "hostPath": {"path": "/"}}]),
        ),
    ];
    for (body, path, expected) in table {
        let patched =
            strategic(pods(), &pod, &body).unwrap_or_else(|error| panic!("{body}: {error}"));
        assert_eq!(patched.pointer(path), Some(&expected), "{body}");
    }
    for (body, why) in [
        (
            json!({"spec": {"containers": [{"image": "x"}]}}),
            "does not contain declared merge key: name",
        ),
        (
            json!({"spec": {"$patch": "explode"}}),
            "unknown patch type: explode",
        ),
        (
            json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name"], "hostPath": {"path": "/"}}]}}),
            "does not list the key",
        ),
    ] {
        let error = strategic(pods(), &pod, &body).unwrap_err();
        assert!(
            error.code == 422 && error.message.contains(why),
            "{body}: {error}"
        );
    }
}

#[test]
fn an_apply_creates_and_notes_what_it_wrote() {
    let object = apply(None, "me", &json!({"metadata": {"labels": {"app": "a"}}, "spec": {"replicas": 2, "template": {"spec": {
        "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}], "args": ["x"]}]}}}, "status": {"replicas": 7}})).unwrap();
    assert!(object.get("status").is_none());
    assert_eq!(
        owned(&object, "me"),
        json!({
        "f:metadata": {"f:labels": {"f:app": {}}},
        "f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:image": {}, "f:args": {},
            "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}}}}})
    );
    let entry = &object["metadata"]["managedFields"][0];
    assert_eq!(
        (&entry["operation"], &entry["apiVersion"], &entry["time"]),
        (
            &json!("Apply"),
            &json!("apps/v1"),
            &json!("2026-01-01T00:00:00Z")
        )
    );
}

#[test]
fn what_is_no_longer_applied_goes_unless_somebody_else_owns_it() {
    let first = apply(None, "me", &json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"paused": true, "template": {"spec": {"containers": [{"name": "c", "image": "i"}, {"name": "d", "image": "j"}]}}}})).unwrap();
    // Another one applies the same label; somebody's default fills in a field of d.
    let mut second = apply(
        Some(&first),
        "you",
        &json!({"metadata": {"labels": {"b": "2"}}}),
    )
    .unwrap();
    second["spec"]["template"]["spec"]["containers"][1]["imagePullPolicy"] = json!("Always");
    let third = apply(Some(&second), "me", &json!({"metadata": {"labels": {"a": "1"}}, "spec": {"template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}})).unwrap();
    assert_eq!(third["metadata"]["labels"], json!({"a": "1", "b": "2"}));
    assert_eq!(
        third["spec"],
        json!({"template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}})
    );
    let fourth = apply(Some(&third), "you", &json!({})).unwrap();
    assert_eq!(fourth["metadata"]["labels"], json!({"a": "1"}));
    assert_eq!(owned(&fourth, "you"), Value::Null);
}

#[test]
fn a_field_of_another_manager_is_a_conflict_unless_forced_or_agreed() {
    let object = apply(
        None,
        "me",
        &json!({"spec": {"replicas": 1, "paused": true}}),
    )
    .unwrap();
    assert!(apply(Some(&object), "you", &json!({"spec": {"replicas": 1}})).is_ok());
    let error = apply(Some(&object), "you", &json!({"spec": {"replicas": 2}})).unwrap_err();
    assert_eq!((error.code, error.reason), (409, "Conflict"));
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"me\": .spec.replicas"
    );
    let cause = &error.details.unwrap().causes[0];
    assert_eq!(
        (cause.field.as_str(), cause.reason.as_str()),
        (".spec.replicas", "FieldManagerConflict")
    );
    let error = apply(
        Some(&object),
        "you",
        &json!({"spec": {"replicas": 2, "paused": false}}),
    )
    .unwrap_err();
    assert_eq!(
        error.message,
        "Apply failed with 2 conflicts: conflicts with \"me\":\n- .spec.paused\n- .spec.replicas"
    );

    let forced = apply_with(
        Some(&object),
        &how("you", true),
        &json!({"spec": {"replicas": 2}}),
    )
    .unwrap();
    assert_eq!(forced["spec"]["replicas"], 2);
    assert_eq!(owned(&forced, "me"), json!({"f:spec": {"f:paused": {}}}));
    assert_eq!(owned(&forced, "you"), json!({"f:spec": {"f:replicas": {}}}));
}

#[test]
fn two_spellings_of_a_quantity_are_one_wish() {
    let cpu = |cpu: Value| json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": cpu}}}]}}}});
    let object = apply(None, "me", &cpu(json!("1000m"))).unwrap();
    let both = apply(Some(&object), "you", &cpu(json!(1))).unwrap();
    assert_eq!(both["spec"], object["spec"]);
}

#[test]
fn an_update_owns_what_it_changed_and_takes_it_from_appliers() {
    let object = apply(
        None,
        "me",
        &json!({"spec": {"replicas": 1, "paused": true}}),
    )
    .unwrap();
    let mut scaled = object.clone();
    scaled["spec"]["replicas"] = json!(5);
    let scaled = update(Some(&object), scaled, "kubectl-scale");
    assert_eq!(owned(&scaled, "me"), json!({"f:spec": {"f:paused": {}}}));
    assert_eq!(
        owned(&scaled, "kubectl-scale"),
        json!({"f:spec": {"f:replicas": {}}})
    );
    let error = apply(
        Some(&scaled),
        "me",
        &json!({"spec": {"replicas": 1, "paused": true}}),
    )
    .unwrap_err();
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"kubectl-scale\" using apps/v1 at 2026-01-01T00:00:00Z: .spec.replicas"
    );
    // Leaving the field to the other one is no conflict and changes nothing.
    let left = apply(Some(&scaled), "me", &json!({"spec": {"paused": true}})).unwrap();
    assert_eq!(left["spec"], json!({"replicas": 5, "paused": true}));

    let mut removed = left.clone();
    removed["spec"].as_object_mut().unwrap().remove("paused");
    let removed = update(Some(&left), removed, "kubectl-edit");
    assert_eq!(owned(&removed, "me"), Value::Null);

    let mut unchanged = removed.clone();
    unchanged["metadata"]["resourceVersion"] = json!("9");
    unchanged["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("managedFields");
    let unchanged = update(Some(&removed), unchanged, "nobody");
    assert_eq!(
        unchanged["metadata"]["managedFields"],
        removed["metadata"]["managedFields"]
    );
    let mut wiped = removed.clone();
    wiped["metadata"]["managedFields"] = json!([]);
    assert!(
        update(Some(&removed), wiped, "x")["metadata"]
            .get("managedFields")
            .is_none()
    );
}

#[test]
fn a_created_object_is_its_creators_and_an_unknown_ones_before_that() {
    let created = update(
        None,
        json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "spec": {"replicas": 1}}),
        "kubectl-create",
    );
    assert_eq!(
        owned(&created, "kubectl-create"),
        json!({"f:metadata": {"f:labels": {".": {}, "f:x": {}}}, "f:spec": {"f:replicas": {}}})
    );
    let mut bare = created;
    bare["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("managedFields");
    let error = apply(Some(&bare), "me", &json!({"spec": {"replicas": 3}})).unwrap_err();
    assert!(
        error
            .message
            .contains("conflict with \"before-first-apply\" using apps/v1"),
        "{error}"
    );
}

#[test]
fn a_status_is_applied_through_its_subresource_only() {
    let object = apply(None, "me", &json!({"spec": {"replicas": 1}})).unwrap();
    let through_status = PatchKind::Apply(Apply {
        manager: "me".to_owned(),
        force: false,
        subresource: Some("status"),
        now: now(),
    });
    let body = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "labels": {"x": "y"}},
        "spec": {"replicas": 9}, "status": {"conditions": [{"type": "Available", "status": "True"}]}});
    let object = patch(
        deployments(),
        &through_status,
        Some(&object),
        body.to_string().as_bytes(),
    )
    .unwrap();
    assert_eq!(object["spec"]["replicas"], 1);
    assert!(object["metadata"].get("labels").is_none());
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    assert!(entries.iter().any(|entry| entry["subresource"] == "status"));
}

#[test]
fn a_configuration_that_does_not_fit_the_type_says_where() {
    for (wanted, why) in [
        (
            json!({"spec": {"replica": 1}}),
            "failed to create typed patch object (n/a; apps/v1, Kind=Deployment): .spec.replica: field not declared in schema",
        ),
        (
            json!({"spec": {"template": {"spec": {"containers": [{"image": "i"}]}}}}),
            ".spec.template.spec.containers: element 0: associative list with keys has an element that omits key field \"name\"",
        ),
        (
            json!({"spec": {"template": {"spec": {"containers": [{"name": "c"}, {"name": "c"}]}}}}),
            "duplicate entries for key [name=\"c\"]",
        ),
        (
            json!({"metadata": {"managedFields": []}}),
            "metadata.managedFields must be nil",
        ),
        (
            json!({"kind": "Pod"}),
            "incorrect object type specified by apply",
        ),
    ] {
        let error = apply(None, "me", &wanted).unwrap_err();
        assert!(
            error.code == 400 && error.message.contains(why),
            "{wanted}: {error}"
        );
    }
    let yaml =
        b"apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: a\nspec:\n  replicas: 3\n";
    let object = patch(deployments(), &how("me", false), None, yaml).unwrap();
    assert_eq!(object["spec"]["replicas"], 3);
}

#[test]
fn entries_keep_the_order_of_the_configuration_and_others_their_place() {
    let names = |object: &Value| -> Vec<String> {
        let containers = object["spec"]["template"]["spec"]["containers"]
            .as_array()
            .unwrap();
        containers
            .iter()
            .map(|one| one["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let list = |names: &[&str]| {
        let containers: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
        json!({"spec": {"template": {"spec": {"containers": containers}}}})
    };
    let base = apply(None, "you", &list(&["a", "x", "b"])).unwrap();
    let merged = apply(Some(&base), "me", &list(&["b", "n", "a"])).unwrap();
    assert_eq!(names(&merged), ["x", "b", "n", "a"]);
    let merged = apply(Some(&base), "me", &list(&["a", "n", "b"])).unwrap();
    assert_eq!(names(&merged), ["a", "x", "n", "b"]);
}

/// What a manager may want of a Deployment: labels, a number, containers with images.
fn wanted() -> impl Strategy<Value = Value> {
    let labels = proptest::collection::btree_map("[ab]", "[xy]", 0..3);
    let containers = proptest::collection::btree_map("[cd]", proptest::option::of("[ij]"), 0..3);
    (labels, proptest::option::of(1..3), containers).prop_map(|(labels, replicas, containers)| {
        let containers: Vec<Value> = containers
            .into_iter()
            .map(|(name, image)| match image {
                Some(image) => json!({"name": name, "image": image}),
                None => json!({"name": name}),
            })
            .collect();
        let mut wanted = json!({"spec": {}});
        if !labels.is_empty() {
            wanted["metadata"] = json!({"labels": labels});
        }
        if let Some(replicas) = replicas {
            wanted["spec"]["replicas"] = json!(replicas);
        }
        if !containers.is_empty() {
            wanted["spec"]["template"] = json!({"spec": {"containers": containers}});
        }
        wanted
    })
}

/// Whether a configuration's fields are all in an object, entries by their name.
fn holds(object: &Value, wanted: &Value) -> bool {
    match (object, wanted) {
        (Value::Object(fields), Value::Object(wanted)) => {
            wanted.iter().all(|(name, value)| match fields.get(name) {
                Some(field) => holds(field, value),
                None => value.as_object().is_some_and(serde_json::Map::is_empty),
            })
        }
        (Value::Array(items), Value::Array(wanted)) => wanted.iter().all(|one| {
            items
                .iter()
                .any(|item| item["name"] == one["name"] && holds(item, one))
        }),
        (object, wanted) => object == wanted,
    }
}

proptest! {
    #[test]
    fn applying_twice_is_applying_once(first in wanted(), second in wanted()) {
        let before = apply_with(None, &how("you", true), &first).unwrap();
        let once = apply_with(Some(&before), &how("me", true), &second).unwrap();
        let twice = apply_with(Some(&once), &how("me", false), &second).unwrap();
        prop_assert_eq!(&once, &twice);
        prop_assert!(holds(&once, &second), "{} in {}", second, once);
    }

    #[test]
    fn the_last_configuration_alone_is_left_of_one_manager(all in proptest::collection::vec(wanted(), 1..4)) {
        let mut object = None;
        for wanted in &all {
            object = Some(apply(object.as_ref(), "me", wanted).unwrap());
        }
        let alone = apply(None, "me", all.last().unwrap()).unwrap();
        let mut object = object.unwrap();
        // An object that its manager emptied may stay as an empty one.
        if object.get("spec").is_none() {
            object["spec"] = json!({});
        }
        prop_assert_eq!(object, alone);
    }

    #[test]
    fn two_managers_have_both_their_wishes_or_a_conflict(mine in wanted(), yours in wanted()) {
        let object = apply(None, "me", &mine).unwrap();
        match apply(Some(&object), "you", &yours) {
            Ok(both) => prop_assert!(holds(&both, &mine) && holds(&both, &yours), "{}", both),
            Err(error) => {
                prop_assert_eq!(error.code, 409);
                let forced = apply_with(Some(&object), &how("you", true), &yours).unwrap();
                prop_assert!(holds(&forced, &yours) && !holds(&forced, &mine));
            }
        }
    }

    #[test]
    fn a_strategic_patch_that_was_done_changes_nothing_more(object in wanted(), body in wanted()) {
        let once = strategic(deployments(), &object, &body).unwrap();
        prop_assert!(holds(&once, &body));
        prop_assert_eq!(strategic(deployments(), &once, &body).unwrap(), once);
    }

    #[test]
    fn a_merge_patch_keeps_what_it_does_not_name(object in any_object(), body in any_object()) {
        let mut merged = object.clone();
        merge(&mut merged, body.clone());
        if let (Value::Object(before), Value::Object(patch), Value::Object(after)) = (&object, &body, &merged) {
            for (name, value) in before {
                if !patch.contains_key(name) {
                    prop_assert_eq!(after.get(name), Some(value));
                }
            }
            for (name, value) in patch {
                prop_assert_eq!(after.contains_key(name), !value.is_null());
            }
        }
    }

    #[test]
    fn no_json_panics(kind in any_kind(), current in any_object(), body in any_object()) {
        let text = body.to_string();
        for how in [PatchKind::Json, PatchKind::Merge, PatchKind::Strategic] {
            let _ = patch(kind, &how, Some(&current), text.as_bytes());
        }
        let mut wanted = body;
        if wanted.is_object() {
            wanted["apiVersion"] = json!(kind.api_version());
            wanted["kind"] = json!(kind.kind);
        }
        let applied = patch(kind, &how("me", true), Some(&current), wanted.to_string().as_bytes());
        if let Ok(applied) = applied {
            let mut after = current.clone();
            track(kind, Some(&applied), &mut after, &Writer {
                manager: "x".to_owned(),
                operation: Operation::Update,
                subresource: Some("status"),
                now: now(),
            });
        }
    }
}
