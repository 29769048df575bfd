//! A request's path and parameters as values.
//!
//! ```text
//!   /api/v1/namespaces/NS/pods/NAME/SUBRESOURCE        the core group
//!   /apis/GROUP/VERSION/namespaces/NS/PLURAL/NAME/…    the others
//!   /apis/GROUP/VERSION/PLURAL                         all namespaces, or kinds of the cluster
//! ```

use std::time::Duration;

use http::Uri;

use crate::api::{
    error::ApiError,
    kind::{self, Kind, Subresource},
    list::{ListQuery, Selection, Version},
    selector,
    watch::{Bookmarks, Start, WatchQuery},
    write::{FieldValidation, Mode},
};

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The kind.
    pub kind: &'static Kind,
    /// The namespace, unless it names all or the kind has none.
    pub namespace: Option<String>,
    /// The object, unless it names the collection.
    pub name: Option<String>,
    /// A part of the object or an action on it.
    pub subresource: Option<Subresource>,
}

/// The parameters behind the question mark.
#[derive(Debug, Clone, Default)]
pub struct Parameters(Vec<(String, String)>);

/// Reads a path; `None` if it names nothing that is served.
#[must_use]
pub fn parse_path(path: &str) -> Option<Target> {
    let decoded = path.trim_matches('/').split('/').map(percent_decode);
    let steps: Vec<String> = decoded.collect::<Option<_>>()?;
    let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
    let (group, version, rest) = match steps.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        // A namespace's own subresources look like its content.
        ["namespaces", _, "status" | "finalize"] => (None, rest),
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some(*namespace), rest),
        rest => (None, rest),
    };
    let (plural, name, below) = match rest {
        [plural] => (plural, None, None),
        [plural, name] => (plural, Some(*name), None),
        [plural, name, below] => (plural, Some(*name), Some(*below)),
        _ => return None,
    };
    let kind = kind::by_plural(group, plural).filter(|kind| kind.version == version)?;
    let is_placed =
        kind.namespaced() == namespace.is_some() || (kind.namespaced() && name.is_none());
    if !is_placed || name == Some("") {
        return None;
    }
    let subresource = match below {
        None => None,
        Some(below) => Some(*kind.subresources.iter().find(|one| one.path() == below)?),
    };
    Some(Target {
        kind,
        namespace: namespace.map(str::to_owned),
        name: name.map(str::to_owned),
        subresource,
    })
}

/// Undoes `%2F` and the like; `None` for what is not UTF-8 after that.
fn percent_decode(step: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(step.len());
    let mut rest = step.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

impl Parameters {
    /// Reads the parameters of an address.
    ///
    /// # Errors
    ///
    /// 400 if they are not of the form `a=b&c=d`.
    pub fn read(uri: &Uri) -> Result<Self, ApiError> {
        let read = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri);
        read.map(|query| Self(query.0))
            .map_err(|error| ApiError::bad_request(format!("the query cannot be read: {error}")))
    }

    /// The first value of a parameter that says something.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(key, _)| key == name)?;
        Some(found.1.as_str()).filter(|value| !value.is_empty())
    }

    /// Whether a parameter is set and does not say no.
    #[must_use]
    pub fn is_true(&self, name: &str) -> bool {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.is_some_and(|(_, value)| {
            !matches!(
                value.as_str(),
                "false" | "0" | "False" | "f" | "F" | "FALSE"
            )
        })
    }

    fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        let number = text.parse();
        number.map(Some).map_err(|_| {
            ApiError::bad_request(format!("{name} is {text:?}; expected a whole number"))
        })
    }

    /// `dryRun`.
    ///
    /// # Errors
    ///
    /// 400 for a word other than `All`.
    pub fn mode(&self) -> Result<Mode, ApiError> {
        match self.text("dryRun") {
            None => Ok(Mode::Write),
            Some("All") => Ok(Mode::DryRun),
            Some(other) => Err(ApiError::bad_request(format!(
                "dryRun is {other:?}; expected All"
            ))),
        }
    }

    /// `fieldValidation`.
    ///
    /// # Errors
    ///
    /// 400 for an unknown word.
    pub fn field_validation(&self) -> Result<FieldValidation, ApiError> {
        match self.text("fieldValidation") {
            None | Some("Warn") => Ok(FieldValidation::Warn),
            Some("Ignore") => Ok(FieldValidation::Ignore),
            Some("Strict") => Ok(FieldValidation::Strict),
            Some(other) => Err(ApiError::bad_request(format!(
                "fieldValidation is {other:?}; expected Ignore, Warn or Strict"
            ))),
        }
    }

    /// `labelSelector` and `fieldSelector`.
    ///
    /// # Errors
    ///
    /// 400 for selectors that cannot be read.
    pub fn selection(&self, kind: &Kind) -> Result<Selection, ApiError> {
        Ok(Selection {
            labels: selector::parse_labels(self.text("labelSelector").unwrap_or_default())?,
            fields: selector::parse_fields(kind, self.text("fieldSelector").unwrap_or_default())?,
        })
    }

    /// The parameters of a list.
    ///
    /// # Errors
    ///
    /// 400 for values that cannot be read or do not go together.
    pub fn list(&self, target: &Target) -> Result<ListQuery, ApiError> {
        let limit = self.number("limit")?.filter(|limit| *limit > 0);
        let limit = limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let version = match (
            self.number("resourceVersion")?,
            self.text("resourceVersionMatch"),
        ) {
            (None, None) => Version::Newest,
            (Some(0), None | Some("NotOlderThan")) => Version::Any,
            (Some(0), Some("Exact")) => {
                return Err(ApiError::bad_request(
                    "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"",
                ));
            }
            // A page of a moment, as clients asked for it before there was a word for it.
            (Some(revision), None) if limit.is_some() => Version::Exact(revision),
            (Some(revision), None | Some("NotOlderThan")) => Version::AtLeast(revision),
            (Some(revision), Some("Exact")) => Version::Exact(revision),
            (None, Some(_)) => {
                return Err(ApiError::bad_request(
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                ));
            }
            (_, Some(other)) => {
                return Err(ApiError::bad_request(format!(
                    "resourceVersionMatch is {other:?}; expected NotOlderThan or Exact"
                )));
            }
        };
        let token = self.text("continue").map(str::to_owned);
        if token.is_some() && !matches!(version, Version::Newest | Version::Any) {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        Ok(ListQuery {
            kind: target.kind,
            namespace: target.namespace.clone(),
            selection: self.selection(target.kind)?,
            limit,
            token,
            version,
        })
    }

    /// The parameters of a watch; `longest` where the client does not say how long.
    ///
    /// # Errors
    ///
    /// 400 for values that cannot be read or do not go together.
    pub fn watch(&self, target: &Target, longest: Duration) -> Result<WatchQuery, ApiError> {
        let initial = self.is_true("sendInitialEvents");
        let wants_bookmarks = self.is_true("allowWatchBookmarks");
        match self.text("resourceVersionMatch") {
            Some("NotOlderThan") if self.text("sendInitialEvents").is_some() => {}
            None if self.text("sendInitialEvents").is_none() => {}
            None => {
                return Err(ApiError::bad_request(
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                ));
            }
            Some(_) => {
                return Err(ApiError::bad_request(
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                ));
            }
        }
        let revision = self.number("resourceVersion")?;
        let start = match (revision, initial) {
            (None, true) => Start::Everything(Version::Newest),
            (None, false) if self.text("sendInitialEvents").is_none() => {
                Start::Everything(Version::Newest)
            }
            (Some(0), false) if self.text("sendInitialEvents").is_some() => Start::Now,
            (Some(0), _) => Start::Everything(Version::Any),
            (Some(revision), true) => Start::Everything(Version::AtLeast(revision)),
            (Some(revision), false) => Start::After(revision),
            (None, false) => Start::Now,
        };
        let bookmarks = match (wants_bookmarks, initial) {
            (false, _) => Bookmarks::None,
            (true, false) => Bookmarks::Sometimes,
            (true, true) => Bookmarks::AfterInitial,
        };
        let mut selection = self.selection(target.kind)?;
        if let Some(name) = &target.name {
            let only = selector::parse_fields(target.kind, &format!("metadata.name={name}"))?;
            selection.fields.requirements.extend(only.requirements);
        }
        Ok(WatchQuery {
            kind: target.kind,
            namespace: target.namespace.clone(),
            selection,
            start,
            bookmarks,
            timeout: self
                .number("timeoutSeconds")?
                .filter(|seconds| *seconds > 0)
                .map_or(longest, Duration::from_secs),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::parse_path;
    use crate::api::kind::Subresource;

    #[test]
    fn paths_name_kinds_objects_and_what_is_below() {
        let log = parse_path("/api/v1/namespaces/a/pods/b/log").unwrap();
        assert_eq!(
            (log.kind.kind, log.subresource),
            ("Pod", Some(Subresource::Log))
        );
        assert_eq!(
            (log.namespace.as_deref(), log.name.as_deref()),
            (Some("a"), Some("b"))
        );
        let all = parse_path("/apis/apps/v1/deployments").unwrap();
        assert_eq!(
            (all.kind.kind, all.namespace, all.name),
            ("Deployment", None, None)
        );
        let namespace = parse_path("/api/v1/namespaces/a/finalize").unwrap();
        assert_eq!(
            (namespace.kind.kind, namespace.name.as_deref()),
            ("Namespace", Some("a"))
        );
        assert_eq!(
            parse_path("/api/v1/namespaces/a").unwrap().kind.kind,
            "Namespace"
        );
    }

    #[test]
    fn what_is_not_served_has_no_target() {
        for path in [
            "/api/v1",
            "/api/v2/pods",
            "/apis/apps/v1/namespaces/a/nodes",
            "/api/v1/pods/b",
            "/api/v1/namespaces/a/nodes/b",
            "/api/v1/namespaces/a/pods/b/scale",
            "/api/v1/namespaces/a/pods/b/log/c",
        ] {
            assert_eq!(parse_path(path), None, "{path}");
        }
    }
}
