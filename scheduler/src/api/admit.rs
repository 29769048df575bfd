//! What every object passes on its way into the store: fields, defaults, priorities, rules, the book of writers.
//!
//! The order is: unknown fields (they are dropped), defaults, what the cluster hands out
//! (see [`crate::api::services`]), the rules, and the note of who wrote what.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::{
    Api, defaults,
    error::{ApiError, FieldError},
    kind::{Kind, Subresource, by_plural},
    object,
    patch::managed::{self, Operation, Writer},
    validate,
    write::{Account, FieldValidation, Part, Place, WriteOptions},
};

/// What a pod is given by its RuntimeClass.
mod runtime_class;

/// Looks for fields that the kind does not have.
///
/// # Errors
///
/// 400 that names them, where the client is strict or the object says it is of another kind.
pub fn fields(
    kind: &'static Kind,
    value: &mut Value,
    validation: FieldValidation,
) -> Result<Vec<String>, ApiError> {
    check_type(kind, value)?;
    if validation == FieldValidation::Ignore {
        return Ok(Vec::new());
    }
    let unknown = validate::unknown_fields(kind, value);
    if validation == FieldValidation::Strict && !unknown.is_empty() {
        let list: Vec<String> = unknown
            .iter()
            .map(|field| format!("unknown field {field:?}"))
            .collect();
        return Err(ApiError::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: strict decoding error: {}",
            kind.kind,
            kind.version,
            kind.kind,
            list.join(", ")
        )));
    }
    let mut warnings: Vec<String> = unknown
        .iter()
        .map(|field| format!("unknown field {field:?}"))
        .collect();
    warnings.extend(validate::not_honoured(kind, value));
    Ok(warnings)
}

/// The body's `apiVersion` and `kind`: filled in where they are left out, refused where they are others.
fn check_type(kind: &Kind, value: &mut Value) -> Result<(), ApiError> {
    let expected = [
        ("apiVersion", kind.api_version(), "API version"),
        ("kind", kind.kind.to_owned(), "kind"),
    ];
    let Some(fields) = value.as_object_mut() else {
        return Err(ApiError::bad_request(format!(
            "the body is no object; expected a {}",
            kind.kind
        )));
    };
    for (field, wanted, what) in expected {
        match fields
            .get(field)
            .map(|found| found.as_str().unwrap_or_default())
        {
            None | Some("") => {
                fields.insert(field.to_owned(), json!(wanted));
            }
            Some(found) if found != wanted => {
                return Err(ApiError::bad_request(format!(
                    "the {what} in the data ({found}) does not match the expected {what} ({wanted})"
                )));
            }
            Some(_) => {}
        }
    }
    if fields
        .get("metadata")
        .is_some_and(|metadata| !metadata.is_object() && !metadata.is_null())
    {
        return Err(ApiError::bad_request("metadata is not an object"));
    }
    Ok(())
}

/// Completes a new object.
///
/// # Errors
///
/// 403 for a class of priority or runtime that does not exist or does not fit.
pub async fn create(api: &Api, kind: &'static Kind, value: &mut Value) -> Result<(), ApiError> {
    if kind.kind == "Pod" {
        set_priority(api, kind, value).await?;
        set_pull_secrets(api, value).await?;
        runtime_class::complete(api, kind, value).await?;
    }
    defaults::set_defaults(kind, value);
    Ok(())
}

/// Completes a changed object.
pub fn update(kind: &'static Kind, current: &Value, next: &mut Value) {
    if kind.kind == "Pod" {
        // What the server filled in at the creation stays where a client leaves it out.
        for field in ["priority", "preemptionPolicy", "nodeName"] {
            if next["spec"][field].is_null() && !current["spec"][field].is_null() {
                next["spec"][field] = current["spec"][field].clone();
            }
        }
    }
    defaults::set_defaults(kind, next);
}

/// A pod's priority is the number behind the name of its class, at the time of its creation.
async fn set_priority(api: &Api, kind: &'static Kind, value: &mut Value) -> Result<(), ApiError> {
    if !value["spec"].is_object() {
        return Ok(());
    }
    let Some(classes) = by_plural("scheduling.k8s.io", "priorityclasses") else {
        return Ok(());
    };
    let named = value["spec"]["priorityClassName"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let class = if named.is_empty() {
        let all = api.cache.snapshot(classes, None)?.objects;
        let mut defaults = Vec::new();
        for class in all {
            let class = class.value()?;
            if class["globalDefault"].as_bool().unwrap_or(false) {
                defaults.push(class);
            }
        }
        // With several defaults the lowest counts, as in Kubernetes.
        defaults
            .into_iter()
            .min_by_key(|class| class["value"].as_i64())
    } else {
        let found = find_class(api, classes, &named).await?;
        if found.is_none() {
            let why = format!("no PriorityClass with name {named} was found");
            return Err(ApiError::forbidden(kind, object::name(value), &why));
        }
        found
    };
    let (priority, policy) = match &class {
        Some(class) => (
            class["value"].as_i64().unwrap_or(0),
            class["preemptionPolicy"].clone(),
        ),
        None => (0, Value::Null),
    };
    if let Some(asked) = value["spec"]["priority"]
        .as_i64()
        .filter(|asked| *asked != priority)
    {
        let why = format!(
            "the integer value of priority ({asked}) must not be provided in pod spec; priority admission controller \
             computed {priority} from the given PriorityClass name"
        );
        return Err(ApiError::forbidden(kind, object::name(value), &why));
    }
    if let Some(class) = class.filter(|_| named.is_empty()) {
        value["spec"]["priorityClassName"] = class["metadata"]["name"].clone();
    }
    value["spec"]["priority"] = json!(priority);
    if value["spec"]["preemptionPolicy"].is_null() {
        value["spec"]["preemptionPolicy"] = if policy.is_string() {
            policy
        } else {
            json!("PreemptLowerPriority")
        };
    }
    Ok(())
}

/// A class that a pod names; `None` where nobody made it.
async fn find_class(
    api: &Api,
    classes: &'static Kind,
    name: &str,
) -> Result<Option<Value>, ApiError> {
    let place = Place {
        kind: classes,
        namespace: String::new(),
        name: name.to_owned(),
    };
    match api.read(&place).await {
        Ok(class) => Ok(Some(class.value)),
        Err(error) if error.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

/// A pod that names no secrets for its images has those of its service account, as they
/// are at the time of its creation. One without an account has none.
async fn set_pull_secrets(api: &Api, value: &mut Value) -> Result<(), ApiError> {
    let spec = &value["spec"];
    let holds = |list: &Value| list.as_array().is_some_and(|list| !list.is_empty());
    let Some(accounts) = by_plural("", "serviceaccounts") else {
        return Ok(());
    };
    if !spec.is_object() || holds(&spec["imagePullSecrets"]) {
        return Ok(());
    }
    let named = |field: &str| spec[field].as_str().filter(|name| !name.is_empty());
    let account = named("serviceAccountName").or_else(|| named("serviceAccount"));
    let place = Place {
        kind: accounts,
        namespace: object::namespace(value).to_owned(),
        name: account.unwrap_or("default").to_owned(),
    };
    match api.read(&place).await {
        Ok(found) if holds(&found.value["imagePullSecrets"]) => {
            value["spec"]["imagePullSecrets"] = found.value["imagePullSecrets"].clone();
            Ok(())
        }
        Ok(_) => Ok(()),
        Err(error) if error.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}

/// Every broken rule of a new object.
#[must_use]
pub fn validate_create(kind: &'static Kind, value: &Value) -> Vec<FieldError> {
    validate::create(kind, value)
}

/// Every broken rule of an object of which a part was changed.
#[must_use]
pub fn validate_update(
    kind: &'static Kind,
    part: Part,
    current: &Value,
    next: &Value,
) -> Vec<FieldError> {
    match part {
        Part::Resize => validate::resize(kind, next, current),
        _ => validate::update(kind, next, current),
    }
}

/// Notes in `metadata.managedFields` who wrote which field.
pub fn track(
    kind: &'static Kind,
    before: Option<&Value>,
    after: &mut Value,
    options: &WriteOptions,
    part: Part,
) {
    if options.account == Account::Kept {
        return;
    }
    let writer = Writer {
        manager: options.manager.clone(),
        operation: Operation::Update,
        subresource: part.subresource().map(Subresource::path),
        now: Timestamp::now(),
    };
    managed::track(kind, before, after, &writer);
}
