//! Failures as Kubernetes tells them: a `Status` object with a code, a reason for programs and a message for people.
//!
//! Clients decide by `reason` (`NotFound`, `Conflict`, `Expired`, …) whether to try again, list
//! anew or give up, and people know the messages by heart, so both follow the original's words.
//!
//! Read more: <https://github.com/kubernetes/community/blob/master/contributors/devel/sig-architecture/api-conventions.md#response-status-kind>

use std::fmt;

use serde_json::{Map, Value, json};

use crate::api::kind::Kind;

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    /// The HTTP status.
    pub code: u16,
    /// One word for programs.
    pub reason: &'static str,
    /// One line for people.
    pub message: String,
    /// What the request was about.
    pub details: Option<Box<Details>>,
}

/// The object a failure is about, and its single causes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Details {
    /// The API group.
    pub group: String,
    /// The kind or the plural, as Kubernetes puts it.
    pub kind: String,
    /// The object's name.
    pub name: String,
    /// The object's uid.
    pub uid: String,
    /// Fields that are wrong, or other single reasons.
    pub causes: Vec<Cause>,
    /// After how many seconds to try again; zero says nothing.
    pub retry_after_seconds: u32,
}

/// One of several reasons.
#[derive(Debug, Clone, PartialEq)]
pub struct Cause {
    /// One word for programs, as `FieldValueRequired`.
    pub reason: String,
    /// One line for people.
    pub message: String,
    /// The path of the field, as `spec.containers[0].name`.
    pub field: String,
}

/// What is wrong with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldReason {
    /// It must be set.
    Required,
    /// Its value is not allowed.
    Invalid,
    /// Its value is none of a small set.
    NotSupported,
    /// It stands twice in a list where each value may stand once.
    Duplicate,
    /// It must not be set here, or not be changed.
    Forbidden,
    /// It is longer than allowed.
    TooLong,
    /// There are more entries than allowed.
    TooMany,
    /// It names something that does not exist.
    NotFound,
    /// It is of another type.
    TypeInvalid,
}

impl FieldReason {
    /// As in a `Status` object.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::NotFound => "FieldValueNotFound",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }
}

/// One wrong field of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// The path of the field, as `spec.containers[0].name`.
    pub field: String,
    /// What kind of mistake.
    pub reason: FieldReason,
    /// The whole message without the path, as `Invalid value: "x": must be a number`.
    pub message: String,
}

impl FieldError {
    /// `Required value`, with what is expected where that helps.
    #[must_use]
    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        Self::with(field, FieldReason::Required, join("Required value", detail))
    }

    /// `Invalid value: "x": why`. `value` is printed as JSON.
    #[must_use]
    pub fn invalid(field: impl Into<String>, value: impl Into<Value>, detail: &str) -> Self {
        Self::with(
            field,
            FieldReason::Invalid,
            join(&format!("Invalid value: {}", value.into()), detail),
        )
    }

    /// `Unsupported value: "x": supported values: "a", "b"`.
    #[must_use]
    pub fn not_supported(
        field: impl Into<String>,
        value: impl Into<Value>,
        supported: &[&str],
    ) -> Self {
        let supported: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
        let message = format!(
            "Unsupported value: {}: supported values: {}",
            value.into(),
            supported.join(", ")
        );
        Self::with(field, FieldReason::NotSupported, message)
    }

    /// `Duplicate value: "x"`.
    #[must_use]
    pub fn duplicate(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::with(
            field,
            FieldReason::Duplicate,
            format!("Duplicate value: {}", value.into()),
        )
    }

    /// `Forbidden: why`.
    #[must_use]
    pub fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self::with(field, FieldReason::Forbidden, join("Forbidden", detail))
    }

    /// `Too long: may not be more than N bytes`.
    #[must_use]
    pub fn too_long(field: impl Into<String>, most_bytes: usize) -> Self {
        Self::with(
            field,
            FieldReason::TooLong,
            format!("Too long: may not be more than {most_bytes} bytes"),
        )
    }

    /// `Too many: N: must have at most M items`.
    #[must_use]
    pub fn too_many(field: impl Into<String>, found: usize, most: usize) -> Self {
        Self::with(
            field,
            FieldReason::TooMany,
            format!("Too many: {found}: must have at most {most} items"),
        )
    }

    /// `Not found: "x"`.
    #[must_use]
    pub fn not_found(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::with(
            field,
            FieldReason::NotFound,
            format!("Not found: {}", value.into()),
        )
    }

    fn with(field: impl Into<String>, reason: FieldReason, message: String) -> Self {
        Self {
            field: field.into(),
            reason,
            message,
        }
    }
}

fn join(head: &str, detail: &str) -> String {
    if detail.is_empty() {
        head.to_owned()
    } else {
        format!("{head}: {detail}")
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            out.write_str(&self.message)
        } else {
            write!(out, "{}: {}", self.field, self.message)
        }
    }
}

impl ApiError {
    /// 400: the request cannot be understood.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::plain(400, "BadRequest", message)
    }

    /// 401: nobody is known to be asking.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::plain(401, "Unauthorized", "Unauthorized")
    }

    /// 403: somebody asks who may not.
    #[must_use]
    pub fn forbidden(kind: &Kind, name: &str, why: &str) -> Self {
        let place = kind.qualified_plural();
        let message = if name.is_empty() {
            format!("{place} is forbidden: {why}")
        } else {
            format!("{place} {name:?} is forbidden: {why}")
        };
        Self::about(403, "Forbidden", message, kind, name)
    }

    /// 404: there is no such object.
    #[must_use]
    pub fn not_found(kind: &Kind, name: &str) -> Self {
        Self::about(
            404,
            "NotFound",
            format!("{} {name:?} not found", kind.qualified_plural()),
            kind,
            name,
        )
    }

    /// 404: there is no such path or kind.
    #[must_use]
    pub fn no_such_resource() -> Self {
        Self {
            details: Some(Box::default()),
            ..Self::plain(
                404,
                "NotFound",
                "the server could not find the requested resource",
            )
        }
    }

    /// 405: the path is served, but not for this verb.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        Self::plain(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    /// 406: the answer cannot be given in a form that the client takes.
    #[must_use]
    pub fn not_acceptable(message: impl Into<String>) -> Self {
        Self::plain(406, "NotAcceptable", message)
    }

    /// 409: the name is taken.
    #[must_use]
    pub fn already_exists(kind: &Kind, name: &str) -> Self {
        Self::about(
            409,
            "AlreadyExists",
            format!("{} {name:?} already exists", kind.qualified_plural()),
            kind,
            name,
        )
    }

    /// 409: the object is not what the request takes it for.
    #[must_use]
    pub fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: {why}",
            kind.qualified_plural()
        );
        Self::about(409, "Conflict", message, kind, name)
    }

    /// 409: somebody else wrote the object since it was read.
    #[must_use]
    pub fn modified(kind: &Kind, name: &str) -> Self {
        Self::conflict(
            kind,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 409: a server-side apply met fields of other managers. A cause is reason `FieldManagerConflict`.
    #[must_use]
    pub fn apply_conflict(message: impl Into<String>, causes: Vec<Cause>) -> Self {
        let details = Details {
            causes,
            ..Details::default()
        };
        Self {
            details: Some(Box::new(details)),
            ..Self::plain(409, "Conflict", message)
        }
    }

    /// 410: the history does not reach back to this revision; the client lists anew.
    #[must_use]
    pub fn expired(message: impl Into<String>) -> Self {
        Self::plain(410, "Expired", message)
    }

    /// 413: the body is larger than the server takes.
    #[must_use]
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::plain(413, "RequestEntityTooLarge", message)
    }

    /// 415: the body is in a form that the server does not read.
    #[must_use]
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::plain(415, "UnsupportedMediaType", message)
    }

    /// 422: the object has wrong fields.
    #[must_use]
    pub fn invalid(kind: &Kind, name: &str, errors: &[FieldError]) -> Self {
        let mut lines: Vec<String> = Vec::new();
        for error in errors {
            let line = error.to_string();
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        let list = if lines.len() == 1 {
            lines.remove(0)
        } else {
            format!("[{}]", lines.join(", "))
        };
        let qualified = if kind.group.is_empty() {
            kind.kind.to_owned()
        } else {
            format!("{}.{}", kind.kind, kind.group)
        };
        let mut error = Self::about(
            422,
            "Invalid",
            format!("{qualified} {name:?} is invalid: {list}"),
            kind,
            name,
        );
        if let Some(details) = &mut error.details {
            kind.kind.clone_into(&mut details.kind);
            details.causes = errors.iter().map(Cause::from).collect();
        }
        error
    }

    /// 422 without an object, as for a patch that cannot be applied.
    #[must_use]
    pub fn unprocessable(message: impl Into<String>) -> Self {
        Self::plain(422, "Invalid", message)
    }

    /// 429: not now; the client waits and tries again.
    #[must_use]
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let details = Details {
            retry_after_seconds,
            ..Details::default()
        };
        Self {
            details: Some(Box::new(details)),
            ..Self::plain(429, "TooManyRequests", message)
        }
    }

    /// 500: a fault of the server.
    #[must_use]
    pub fn internal(message: impl fmt::Display) -> Self {
        Self::plain(
            500,
            "InternalError",
            format!("Internal error occurred: {message}"),
        )
    }

    /// 503: a part that is needed cannot be reached.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::plain(503, "ServiceUnavailable", message)
    }

    /// 504: the answer would have taken too long.
    #[must_use]
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::plain(504, "Timeout", message)
    }

    /// The `metav1.Status` object.
    #[must_use]
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason,
        });
        if let Some(details) = &self.details {
            status["details"] = details.to_value();
        }
        status["code"] = json!(self.code);
        status
    }

    fn plain(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: None,
        }
    }

    fn about(code: u16, reason: &'static str, message: String, kind: &Kind, name: &str) -> Self {
        let details = Details {
            group: kind.group.to_owned(),
            kind: kind.plural.to_owned(),
            name: name.to_owned(),
            ..Details::default()
        };
        Self {
            code,
            reason,
            message,
            details: Some(Box::new(details)),
        }
    }
}

impl Details {
    fn to_value(&self) -> Value {
        let mut map = Map::new();
        for (key, text) in [
            ("name", &self.name),
            ("group", &self.group),
            ("kind", &self.kind),
            ("uid", &self.uid),
        ] {
            if !text.is_empty() {
                map.insert(key.to_owned(), json!(text));
            }
        }
        if !self.causes.is_empty() {
            let causes = self.causes.iter().map(Cause::to_value).collect();
            map.insert("causes".to_owned(), Value::Array(causes));
        }
        if self.retry_after_seconds > 0 {
            map.insert(
                "retryAfterSeconds".to_owned(),
                json!(self.retry_after_seconds),
            );
        }
        Value::Object(map)
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut cause = json!({ "reason": self.reason, "message": self.message });
        if !self.field.is_empty() {
            cause["field"] = json!(self.field);
        }
        cause
    }
}

impl From<&FieldError> for Cause {
    fn from(error: &FieldError) -> Self {
        Self {
            reason: error.reason.word().to_owned(),
            message: error.message.clone(),
            field: error.field.clone(),
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{ApiError, FieldError};
    use crate::api::kind::by_plural;

    #[test]
    fn wrong_fields_are_told_in_kubernetes_words() {
        let kind = by_plural("apps", "deployments").unwrap();
        let errors = [
            FieldError::required("spec.template", ""),
            FieldError::not_supported("spec.strategy.type", "x", &["Recreate", "RollingUpdate"]),
        ];
        let status = ApiError::invalid(kind, "web", &errors).to_status();
        assert_eq!(
            status["message"],
            "Deployment.apps \"web\" is invalid: [spec.template: Required value, \
             spec.strategy.type: Unsupported value: \"x\": supported values: \"Recreate\", \"RollingUpdate\"]"
        );
        assert_eq!(status["details"]["kind"], "Deployment");
        assert_eq!(
            status["details"]["causes"][0],
            json!({ "reason": "FieldValueRequired", "message": "Required value", "field": "spec.template" })
        );
    }

    #[test]
    fn a_status_reads_back_as_the_clients_type() {
        let kind = by_plural("", "pods").unwrap();
        let status: kube::core::Status =
            serde_json::from_value(ApiError::modified(kind, "a").to_status()).unwrap();
        assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
        assert_eq!(
            status.message,
            "Operation cannot be fulfilled on pods \"a\": the object has been modified; \
             please apply your changes to the latest version and try again"
        );
    }
}
