//! What a pod is given by its RuntimeClass: the overhead, a node selector, tolerations.
//!
//! A class is looked up once, when the pod is made. So a pod of a class that nobody
//! made is refused here and not left waiting on a node, and a class that changes later
//! changes no pod.
//!
//! Read more: "Runtime Class" in Kubernetes' documentation; KEP 688.

use serde_json::{Map, Value, json};

use crate::{
    api::{
        Api,
        error::ApiError,
        kind::{Kind, by_plural},
        object,
    },
    manifest::quantity,
};

/// Completes a new pod by its class.
///
/// # Errors
///
/// 403 for a class that does not exist, or one that says otherwise than the pod.
pub(super) async fn complete(
    api: &Api,
    kind: &'static Kind,
    pod: &mut Value,
) -> Result<(), ApiError> {
    let name = pod["spec"]["runtimeClassName"].as_str().unwrap_or_default();
    let class = match name.is_empty() {
        true => Value::Null,
        false => find(api, kind, object::name(pod), name).await?,
    };
    if pod["spec"].is_object() {
        apply(&class, pod).map_err(|why| {
            ApiError::forbidden(kind, object::name(pod), &format!("pod rejected: {why}"))
        })?;
    }
    Ok(())
}

async fn find(api: &Api, kind: &'static Kind, pod: &str, name: &str) -> Result<Value, ApiError> {
    let classes = by_plural("node.k8s.io", "runtimeclasses")
        .ok_or_else(|| ApiError::internal("no RuntimeClasses"))?;
    let class = super::find_class(api, classes, name).await?;
    class.ok_or_else(|| {
        let why = format!("pod rejected: RuntimeClass {name:?} not found");
        ApiError::forbidden(kind, pod, &why)
    })
}

/// Lays a class over a pod; `Null` is no class.
fn apply(class: &Value, pod: &mut Value) -> Result<(), String> {
    let fixed = &class["overhead"]["podFixed"];
    let spec = &mut pod["spec"];
    if !is_empty(&spec["overhead"]) {
        if is_empty(fixed) {
            return Err(
                "Pod Overhead set without corresponding RuntimeClass defined Overhead".to_owned(),
            );
        }
        if !same_amounts(&spec["overhead"], fixed) {
            return Err("Pod's Overhead doesn't match RuntimeClass's defined Overhead".to_owned());
        }
    } else if !is_empty(fixed) {
        spec["overhead"] = fixed.clone();
    }
    let scheduling = &class["scheduling"];
    for (key, value) in scheduling["nodeSelector"].as_object().into_iter().flatten() {
        if !spec["nodeSelector"].is_object() {
            spec["nodeSelector"] = Value::Object(Map::new());
        }
        let own = &mut spec["nodeSelector"][key];
        if !own.is_null() && own != value {
            return Err(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                value.as_str().unwrap_or_default(),
                own.as_str().unwrap_or_default()
            ));
        }
        *own = value.clone();
    }
    for toleration in scheduling["tolerations"].as_array().into_iter().flatten() {
        if !spec["tolerations"].is_array() {
            spec["tolerations"] = json!([]);
        }
        if let Some(own) = spec["tolerations"].as_array_mut()
            && !own.contains(toleration)
        {
            own.push(toleration.clone());
        }
    }
    Ok(())
}

fn is_empty(amounts: &Value) -> bool {
    amounts.as_object().is_none_or(Map::is_empty)
}

/// `1` and `1000m` are the same.
fn same_amounts(these: &Value, those: &Value) -> bool {
    let read = |amounts: &Value| -> Vec<(String, Option<i128>)> {
        let parse = |amount: &Value| quantity::parse(amount.as_str()?).ok();
        let amounts = amounts.as_object().into_iter().flatten();
        let mut read: Vec<_> = amounts
            .map(|(name, amount)| (name.clone(), parse(amount)))
            .collect();
        read.sort();
        read
    };
    read(these) == read(those)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::apply;

    fn gives(class: Value, spec: Value) -> Result<Value, String> {
        let mut pod = json!({ "spec": spec });
        apply(&class, &mut pod).map(|()| pod["spec"].take())
    }

    #[test]
    fn a_class_adds_and_never_replaces() {
        let class = json!({
            "overhead": {"podFixed": {"cpu": "1"}},
            "scheduling": {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "k"}]},
        });
        let whole = json!({
            "overhead": {"cpu": "1"}, "nodeSelector": {"a": "b"}, "tolerations": [{"key": "k"}],
        });
        assert_eq!(gives(class.clone(), json!({})), Ok(whole.clone()));
        assert_eq!(gives(class.clone(), whole.clone()), Ok(whole));
        let more = json!({
            "overhead": {"cpu": "1000m"}, "nodeSelector": {"c": "d"}, "tolerations": [{"key": "l"}],
        });
        let both = json!({
            "overhead": {"cpu": "1000m"}, "nodeSelector": {"a": "b", "c": "d"},
            "tolerations": [{"key": "l"}, {"key": "k"}],
        });
        assert_eq!(gives(class, more), Ok(both));
        assert_eq!(gives(Value::Null, json!({})), Ok(json!({})));
    }

    #[test]
    fn a_pod_that_says_otherwise_is_refused() {
        let class = json!({
            "overhead": {"podFixed": {"cpu": "1"}}, "scheduling": {"nodeSelector": {"a": "b"}},
        });
        for (class, spec, why) in [
            (
                Value::Null,
                json!({"overhead": {"cpu": "1"}}),
                "Pod Overhead set without",
            ),
            (
                class.clone(),
                json!({"overhead": {"cpu": "2"}}),
                "Pod's Overhead doesn't",
            ),
            (class, json!({"nodeSelector": {"a": "c"}}), "conflict: "),
        ] {
            let said = gives(class, spec).unwrap_err();
            assert!(said.starts_with(why), "{said}");
        }
    }
}
