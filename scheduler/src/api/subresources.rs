//! Actions on objects: binding, eviction, scale, the end of a namespace.

use serde_json::{Map, Value, json};

use crate::api::{
    Api,
    delete::DeleteOptions,
    error::{ApiError, FieldError},
    kind::{Subresource, by_plural},
    list::{ListQuery, Selection, Version},
    object,
    selector::LabelSelector,
    write::{Account, FieldValidation, Mode, Part, Place, WriteOptions, Written},
};

/// Ties a pod to a node. It happens once: a pod that has a node keeps it.
///
/// # Errors
///
/// 409 if the pod has a node, is being deleted, or is not the one that was meant.
pub async fn bind(
    api: &Api,
    pod: &Place,
    binding: &Value,
    options: &WriteOptions,
) -> Result<(), ApiError> {
    let node = binding["target"]["name"].as_str().unwrap_or_default();
    let kind = binding["target"]["kind"].as_str().unwrap_or("Node");
    if node.is_empty() || !(kind.is_empty() || kind == "Node") {
        let errors = if node.is_empty() {
            [FieldError::required("target.name", "")]
        } else {
            [FieldError::not_supported(
                "target.kind",
                kind,
                &["Node", "<empty>"],
            )]
        };
        return Err(ApiError::invalid(pod.kind, &pod.name, &errors));
    }
    let wanted_uid = object::uid(binding);
    let options = WriteOptions {
        account: Account::Kept,
        validation: FieldValidation::Ignore,
        ..options.clone()
    };
    let edit = |current: &Value| {
        let refuse = |why: String| {
            let mut error = ApiError::conflict(pod.kind, &pod.name, &why);
            error.message = format!(
                "Operation cannot be fulfilled on pods/binding {:?}: {why}",
                pod.name
            );
            error
        };
        let uid = object::uid(current);
        if !wanted_uid.is_empty() && uid != wanted_uid {
            return Err(refuse(format!(
                "Precondition failed: UID in precondition: {wanted_uid}, UID in object meta: {uid}"
            )));
        }
        if object::is_deleting(current) {
            return Err(refuse(format!(
                "pod {} is being deleted, cannot be assigned to a host",
                pod.name
            )));
        }
        if let Some(taken) = current["spec"]["nodeName"]
            .as_str()
            .filter(|node| !node.is_empty())
        {
            return Err(refuse(format!(
                "pod {} is already assigned to node {taken:?}",
                pod.name
            )));
        }
        let mut next = current.clone();
        next["spec"]["nodeName"] = json!(node);
        for field in ["annotations", "labels"] {
            for (key, value) in binding["metadata"][field].as_object().into_iter().flatten() {
                if !next["metadata"][field].is_object() {
                    next["metadata"][field] = Value::Object(Map::new());
                }
                next["metadata"][field][key] = value.clone();
            }
        }
        set_condition(&mut next, "PodScheduled");
        Ok(next)
    };
    api.change(pod, Part::Both, &options, &edit).await.map(drop)
}

/// Sets a condition of a pod to true.
fn set_condition(pod: &mut Value, name: &str) {
    let condition = json!({
        "type": name, "status": "True", "lastProbeTime": null, "lastTransitionTime": object::now_text(),
        "observedGeneration": pod["metadata"]["generation"],
    });
    if !pod["status"].is_object() {
        pod["status"] = Value::Object(Map::new());
    }
    if !pod["status"]["conditions"].is_array() {
        pod["status"]["conditions"] = json!([]);
    }
    if let Some(conditions) = pod["status"]["conditions"].as_array_mut() {
        match conditions.iter_mut().find(|one| one["type"] == name) {
            Some(found) => *found = condition,
            None => conditions.push(condition),
        }
    }
}

/// Deletes a pod if the disruption budgets that select it allow it.
///
/// # Errors
///
/// 429 where a budget is spent; 500 where two budgets select the pod, as in Kubernetes.
pub async fn evict(
    api: &Api,
    pod: &Place,
    eviction: &Value,
    options: &WriteOptions,
) -> Result<(), ApiError> {
    let named = object::name(eviction);
    if !named.is_empty() && named != pod.name {
        return Err(ApiError::bad_request(format!(
            "name in URL does not match name in Eviction object: {} != {named}",
            pod.name
        )));
    }
    let current = api.read(pod).await?.value;
    let asked = &eviction["deleteOptions"];
    let dry = asked["dryRun"]
        .as_array()
        .is_some_and(|words| !words.is_empty());
    let delete = DeleteOptions {
        grace_seconds: asked["gracePeriodSeconds"].as_i64(),
        uid: Some(
            asked["preconditions"]["uid"]
                .as_str()
                .unwrap_or_else(|| object::uid(&current))
                .to_owned(),
        ),
        resource_version: asked["preconditions"]["resourceVersion"]
            .as_str()
            .map(str::to_owned),
        propagation: None,
        mode: if dry { Mode::DryRun } else { options.mode },
    };
    let phase = current["status"]["phase"].as_str().unwrap_or_default();
    // What does not run, or is on its way out, is nobody's loss.
    let is_counted =
        !matches!(phase, "Succeeded" | "Failed" | "Pending") && !object::is_deleting(&current);
    if is_counted {
        spend_budget(api, pod, &current, delete.mode).await?;
    }
    api.delete(pod, &delete).await.map(drop)
}

/// Takes one allowed disruption from the pod's budget, if it has one.
async fn spend_budget(api: &Api, pod: &Place, current: &Value, mode: Mode) -> Result<(), ApiError> {
    let Some(kind) = by_plural("policy", "poddisruptionbudgets") else {
        return Ok(());
    };
    let query = ListQuery {
        kind,
        namespace: Some(pod.namespace.clone()),
        selection: Selection::default(),
        limit: None,
        token: None,
        version: Version::Newest,
    };
    let mut budgets = Vec::new();
    for budget in api.list(&query).await?.objects {
        let value = budget.value()?;
        let selector = LabelSelector::from_object(&value["spec"]["selector"]);
        if selector.is_some_and(|selector| selector.matches(current)) {
            budgets.push(value);
        }
    }
    if budgets.len() > 1 {
        return Err(ApiError::internal(
            "this pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
        ));
    }
    let Some(budget) = budgets.first() else {
        return Ok(());
    };
    if !is_ready(current) && lets_unready_go(budget) {
        return Ok(());
    }
    let place = Place {
        kind,
        namespace: pod.namespace.clone(),
        name: object::name(budget).to_owned(),
    };
    let spend = |budget: &Value| {
        let observed = budget["status"]["observedGeneration"].as_i64().unwrap_or(0);
        if observed < budget["metadata"]["generation"].as_i64().unwrap_or(0) {
            // Soon it is known: whoever asked tries again by itself.
            let why = format!(
                "The disruption budget {} is still being processed by the server.",
                place.name
            );
            return Err(violates_budget(why, 10));
        }
        let allowed = budget["status"]["disruptionsAllowed"].as_i64().unwrap_or(0);
        if allowed <= 0 {
            return Err(budget_is_spent(budget));
        }
        let mut next = budget.clone();
        next["status"]["disruptionsAllowed"] = json!(allowed - 1);
        if !next["status"]["disruptedPods"].is_object() {
            next["status"]["disruptedPods"] = Value::Object(Map::new());
        }
        next["status"]["disruptedPods"][&pod.name] = json!(object::now_text());
        Ok(next)
    };
    let options = WriteOptions {
        mode,
        account: Account::Kept,
        ..WriteOptions::default()
    };
    api.change(&place, Part::Status, &options, &spend)
        .await
        .map(drop)
}

fn is_ready(pod: &Value) -> bool {
    let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|one| one["type"] == "Ready" && one["status"] == "True")
}

/// Whether pods that are not ready may go without a place of the budget: what does not serve
/// is no loss, unless the application is below what it needs and each may still come up.
fn lets_unready_go(budget: &Value) -> bool {
    if budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" {
        return true;
    }
    let status = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    status("desiredHealthy") > 0 && status("currentHealthy") >= status("desiredHealthy")
}

fn budget_is_spent(budget: &Value) -> ApiError {
    let name = object::name(budget);
    let status = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    let why = format!(
        "The disruption budget {name} needs {} healthy pods and has {} currently",
        status("desiredHealthy"),
        status("currentHealthy")
    );
    violates_budget(why, 0)
}

fn violates_budget(why: String, retry_after_seconds: u32) -> ApiError {
    let mut error = ApiError::too_many_requests(
        "Cannot evict pod as it would violate the pod's disruption budget.",
        retry_after_seconds,
    );
    if let Some(details) = &mut error.details {
        details.causes.push(crate::api::error::Cause {
            reason: "DisruptionBudget".into(),
            message: why,
            field: String::new(),
        });
    }
    error
}

/// The number of replicas of an object, in the shape that all kinds share.
#[must_use]
pub fn scale_of(value: &Value) -> Value {
    let meta = &value["metadata"];
    let replicas = value["status"]["replicas"].as_i64().unwrap_or(0);
    let mut status = json!({ "replicas": replicas });
    let selector = selector_text(&value["spec"]["selector"]);
    if !selector.is_empty() {
        status["selector"] = json!(selector);
    }
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"],
            "resourceVersion": meta["resourceVersion"], "creationTimestamp": meta["creationTimestamp"],
        },
        "spec": { "replicas": value["spec"]["replicas"].as_i64().unwrap_or(1) },
        "status": status,
    })
}

fn selector_text(selector: &Value) -> String {
    let mut terms = Vec::new();
    for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
        terms.push(format!("{key}={}", value.as_str().unwrap_or_default()));
    }
    for one in selector["matchExpressions"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let key = one["key"].as_str().unwrap_or_default();
        let values: Vec<&str> = one["values"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        terms.push(match one["operator"].as_str().unwrap_or_default() {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    terms.join(",")
}

/// Changes the number of replicas by an edit of the scale.
///
/// # Errors
///
/// As for any change; 422 for a number that is none.
pub async fn change_scale(
    api: &Api,
    place: &Place,
    options: &WriteOptions,
    edit: &(dyn Fn(&Value) -> Result<Value, ApiError> + Sync),
) -> Result<Written, ApiError> {
    debug_assert!(
        place.kind.has(Subresource::Scale),
        "only routed for kinds that have it"
    );
    let options = WriteOptions {
        validation: FieldValidation::Ignore,
        ..options.clone()
    };
    let edit = |current: &Value| {
        let scale = edit(&scale_of(current))?;
        let mut next = current.clone();
        let version = object::resource_version(&scale);
        if !version.is_empty() {
            object::set_meta(&mut next, "resourceVersion", version.to_owned());
        }
        match scale["spec"]["replicas"].as_i64() {
            Some(replicas) if (0..=i64::from(i32::MAX)).contains(&replicas) => {
                next["spec"]["replicas"] = json!(replicas)
            }
            // A scale without a number means none, as in Kubernetes.
            None if scale["spec"]["replicas"].is_null() => next["spec"]["replicas"] = json!(0),
            _ => {
                let wrong = scale["spec"]["replicas"].clone();
                let errors = [FieldError::invalid(
                    "spec.replicas",
                    wrong,
                    "must be greater than or equal to 0",
                )];
                return Err(ApiError::invalid(place.kind, &place.name, &errors));
            }
        }
        Ok(next)
    };
    let mut written = api.change(place, Part::Wanted, &options, &edit).await?;
    written.object = scale_of(&written.object);
    Ok(written)
}

/// Takes finalizers off a namespace's `spec`; the last one ends a deletion.
///
/// # Errors
///
/// As for any change.
pub async fn finalize(
    api: &Api,
    place: &Place,
    body: &Value,
    options: &WriteOptions,
) -> Result<Written, ApiError> {
    let edit = |current: &Value| {
        let mut next = current.clone();
        let version = object::resource_version(body);
        if !version.is_empty() {
            object::set_meta(&mut next, "resourceVersion", version.to_owned());
        }
        let left = body["spec"]["finalizers"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        next["spec"]["finalizers"] = Value::Array(left);
        Ok(next)
    };
    api.change(place, Part::Both, options, &edit).await
}
