use serde_json::{Value, json};

use super::{discovery, v2, v3, v3_index};
use crate::api::kind::{KINDS, group_versions};

fn document(path: &str) -> Value {
    serde_json::from_slice(&v3(path).unwrap().json()).unwrap()
}

/// Every `$ref` of a document leads somewhere.
fn check_references(document: &Value, part: &Value) {
    match part {
        Value::Object(fields) => {
            for (field, value) in fields {
                if field == "$ref" {
                    let pointer = value.as_str().unwrap().trim_start_matches('#');
                    assert!(document.pointer(pointer).is_some(), "{pointer}");
                } else {
                    check_references(document, value);
                }
            }
        }
        Value::Array(values) => values
            .iter()
            .for_each(|value| check_references(document, value)),
        _ => {}
    }
}

#[test]
fn every_group_has_a_document_whose_references_lead_somewhere() {
    let index = v3_index();
    assert_eq!(
        index["paths"].as_object().unwrap().len(),
        group_versions().len()
    );
    for path in index["paths"].as_object().unwrap().keys() {
        let document = document(path);
        check_references(&document, &document);
    }
    let all: Value = serde_json::from_slice(&v2().json()).unwrap();
    check_references(&all, &all);
    let paths = index["paths"].as_object().unwrap().keys();
    let kept: usize = paths.map(|path| v3(path).unwrap().gzip.len()).sum();
    let kept = kept + v2().gzip.len();
    assert!(kept < 1_000_000, "{kept} bytes");
}

#[test]
fn a_patch_says_that_it_validates_fields() {
    let document = document("apis/apps/v1");
    let patch =
        &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "apps", "version": "v1", "kind": "Deployment"})
    );
    for wanted in ["dryRun", "fieldValidation", "fieldManager", "force"] {
        let parameters = patch["parameters"].as_array().unwrap();
        assert!(
            parameters.iter().any(|one| one["name"] == wanted),
            "{wanted}"
        );
    }
}

#[test]
fn schemas_say_how_lists_are_merged() {
    let document = document("api/v1");
    let schemas = &document["components"]["schemas"];
    let ports = &schemas["io.k8s.api.core.v1.Container"]["properties"]["ports"];
    assert_eq!(
        ports["x-kubernetes-list-map-keys"],
        json!(["containerPort", "protocol"])
    );
    assert_eq!(ports["x-kubernetes-patch-merge-key"], "containerPort");
    assert_eq!(
        schemas["io.k8s.api.core.v1.Pod"]["x-kubernetes-group-version-kind"],
        json!([{"group": "", "version": "v1", "kind": "Pod"}])
    );
}

#[test]
fn discovery_lists_every_kind_in_both_shapes() {
    let mut aggregated = 0;
    for list in [discovery::aggregated_core(), discovery::aggregated_groups()] {
        for group in list["items"].as_array().unwrap() {
            aggregated += group["versions"][0]["resources"].as_array().unwrap().len();
        }
    }
    assert_eq!(aggregated, KINDS.len());
    for kind in KINDS {
        let list = discovery::resources(kind.group, kind.version).unwrap();
        let resources = list["resources"].as_array().unwrap();
        let found = resources
            .iter()
            .find(|one| one["name"] == kind.plural)
            .unwrap();
        assert_eq!(found["kind"], kind.kind);
        assert_eq!(list["groupVersion"], kind.api_version());
    }
    assert!(discovery::resources("apps", "v2").is_none());
    assert_eq!(
        discovery::group("apps").unwrap()["preferredVersion"]["version"],
        "v1"
    );
    assert!(discovery::group("").is_none());
}
