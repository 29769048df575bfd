//! Lists: at which revision, which part, which objects.
//!
//! | `resourceVersion` | what is shown |
//! |---|---|
//! | not set | the newest state: the store says how far it is, and the list waits until it shows that |
//! | `0` | what is at hand |
//! | `n` (`NotOlderThan`) | what is at hand, once it is not older than n |
//! | `n` with `resourceVersionMatch=Exact`, or a `continue` token | the state at n, from the store's history |
//!
//! A `limit` cuts a list into pages. Their token names the revision and the last key, so all pages
//! show one moment, however long the client takes, or end in 410 once that moment is too long ago.
//!
//! Read more: <https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions>

use std::{sync::Arc, time::Duration};

use base64::Engine as _;
use serde::{Deserialize, Serialize};

use crate::{
    api::{
        Api,
        cache::{Snapshot, store_error, too_large_version},
        error::ApiError,
        kind::Kind,
        object::Object,
        selector::{FieldSelector, LabelSelector},
    },
    store,
};

/// How long a list waits for a revision before the client is told to try again.
const PATIENCE: Duration = Duration::from_secs(3);
/// How many entries are read from the store's history at once.
const CHUNK: usize = 500;

/// Which objects are meant.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// By labels.
    pub labels: LabelSelector,
    /// By fields.
    pub fields: FieldSelector,
}

impl Selection {
    /// Whether an object is meant.
    #[must_use]
    pub fn matches(&self, object: &Object) -> bool {
        self.labels.matches(&object.selectable) && self.fields.matches(&object.selectable)
    }

    /// Whether all are meant.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }
}

/// Which moment is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// No acknowledged write is missing.
    Newest,
    /// Any.
    Any,
    /// This revision or a newer one.
    AtLeast(u64),
    /// This revision.
    Exact(u64),
}

/// A question for a list.
#[derive(Debug, Clone)]
pub struct ListQuery {
    /// Of what.
    pub kind: &'static Kind,
    /// In one namespace, or in all.
    pub namespace: Option<String>,
    /// Which of them.
    pub selection: Selection,
    /// At most so many.
    pub limit: Option<usize>,
    /// The token of the page before.
    pub token: Option<String>,
    /// At which moment.
    pub version: Version,
}

/// A list, or a page of it.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The objects in the order of their keys.
    pub objects: Vec<Arc<Object>>,
    /// The moment that they show.
    pub revision: u64,
    /// The token of the next page, if there is one.
    pub token: Option<String>,
    /// How many objects follow, where that is known.
    pub remaining: Option<u64>,
}

/// What a `continue` token says.
#[derive(Debug, Serialize, Deserialize)]
struct Token {
    /// The version of this form.
    v: String,
    /// The revision that all pages show.
    rv: u64,
    /// The last key of the page before, without the kind's prefix.
    after: String,
}

impl Api {
    /// Lists objects.
    ///
    /// # Errors
    ///
    /// 410 for a moment that is too long ago, 504 for one that has not come, 400 for a bad token.
    pub async fn list(&self, query: &ListQuery) -> Result<Listed, ApiError> {
        if let Some(token) = &query.token {
            let token = read_token(token)?;
            let listed = self
                .list_store(query, Some(token.rv), Some(token.after))
                .await;
            return listed.map_err(|error| match error.code {
                410 => ApiError::expired(
                    "The provided continue parameter is too old to display a consistent list result. \
                     You must start a new list without the continue parameter.",
                ),
                _ => error,
            });
        }
        match query.version {
            Version::Exact(revision) => self.list_store(query, Some(revision), None).await,
            Version::Any => self.list_cache(query),
            Version::AtLeast(revision) => {
                if !self.cache.reaches(revision, PATIENCE).await {
                    return Err(too_large_version(revision, self.cache.revision()));
                }
                self.list_cache(query)
            }
            Version::Newest => {
                if self.is_current().await? {
                    self.list_cache(query)
                } else {
                    self.list_store(query, None, None).await
                }
            }
        }
    }

    /// Waits until everything that is acknowledged now is known here; false if that takes too long.
    ///
    /// # Errors
    ///
    /// What the store says.
    pub async fn is_current(&self) -> Result<bool, ApiError> {
        let revision = self
            .store
            .read("/registry/")
            .await
            .map_err(store_error)?
            .revision;
        Ok(self
            .cache
            .reaches(revision, Duration::from_millis(500))
            .await)
    }

    /// All objects at a moment as new as can be, for the start of a watch.
    ///
    /// # Errors
    ///
    /// 504 where that takes too long.
    pub async fn snapshot(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        version: Version,
    ) -> Result<Snapshot, ApiError> {
        let wanted = match version {
            Version::Any => 0,
            Version::AtLeast(revision) | Version::Exact(revision) => revision,
            Version::Newest => {
                self.store
                    .read("/registry/")
                    .await
                    .map_err(store_error)?
                    .revision
            }
        };
        if !self.cache.reaches(wanted, PATIENCE).await {
            return Err(too_large_version(wanted, self.cache.revision()));
        }
        self.cache.snapshot(kind, namespace)
    }

    fn list_cache(&self, query: &ListQuery) -> Result<Listed, ApiError> {
        let snapshot = self
            .cache
            .snapshot(query.kind, query.namespace.as_deref())?;
        let mut objects = snapshot.objects;
        if !query.selection.is_empty() {
            objects.retain(|object| query.selection.matches(object));
        }
        let limit = query.limit.unwrap_or(usize::MAX);
        let left = objects.len().saturating_sub(limit);
        objects.truncate(limit);
        let last = objects.last().map(|object| rest_of(query.kind, object));
        let token = last
            .filter(|_| left > 0)
            .map(|after| write_token(snapshot.revision, after));
        let remaining = (left > 0 && query.selection.is_empty()).then_some(left as u64);
        Ok(Listed {
            objects,
            revision: snapshot.revision,
            token,
            remaining,
        })
    }

    async fn list_store(
        &self,
        query: &ListQuery,
        revision: Option<u64>,
        after: Option<String>,
    ) -> Result<Listed, ApiError> {
        let kind_prefix = query.kind.prefix();
        let limit = query.limit.unwrap_or(usize::MAX);
        let mut request = store::ListRequest {
            prefix: query.kind.prefix_in(query.namespace.as_deref()),
            after: after.map(|after| format!("{kind_prefix}{after}")),
            limit: Some(CHUNK),
            revision,
        };
        let mut listed = Listed {
            objects: Vec::new(),
            revision: 0,
            token: None,
            remaining: None,
        };
        loop {
            let page = self
                .store
                .list(request.clone())
                .await
                .map_err(store_error)?;
            listed.revision = page.revision;
            request.revision = Some(page.revision);
            let count = page.entries.len();
            for (at, entry) in page.entries.iter().enumerate() {
                let rest = entry.key.strip_prefix(&kind_prefix).unwrap_or(&entry.key);
                let object = self.shared_object(query.kind, rest, entry)?;
                if !query.selection.matches(&object) {
                    continue;
                }
                listed.objects.push(object);
                let left = page.remaining + (count - at - 1) as u64;
                if listed.objects.len() == limit && left > 0 {
                    listed.token = Some(write_token(page.revision, rest.to_owned()));
                    listed.remaining = query.selection.is_empty().then_some(left);
                    return Ok(listed);
                }
            }
            request.after = page.entries.last().map(|entry| entry.key.clone());
            if !page.more {
                return Ok(listed);
            }
        }
    }

    /// The decoded object of an entry, the shared one if it is the same.
    ///
    /// # Errors
    ///
    /// A fault of the server where the entry is not a JSON object.
    pub fn shared_object(
        &self,
        kind: &'static Kind,
        rest: &str,
        entry: &store::Entry,
    ) -> Result<Arc<Object>, ApiError> {
        match self.cache.object(kind, rest)? {
            Some(object) if object.modified == entry.modified => Ok(object),
            _ => Object::from_entry(kind, entry),
        }
    }
}

fn rest_of(kind: &Kind, object: &Object) -> String {
    crate::api::cache::rest_of_key(kind, &object.namespace, &object.name)
}

fn write_token(revision: u64, after: String) -> String {
    let token = serde_json::json!(Token {
        v: "berth.dev/v1".into(),
        rv: revision,
        after
    });
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(token.to_string())
}

fn read_token(text: &str) -> Result<Token, ApiError> {
    let wrong =
        || ApiError::bad_request("continue key is not valid: it is not a token of this server");
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| wrong())?;
    let token: Token = serde_json::from_slice(&bytes).map_err(|_| wrong())?;
    if token.v == "berth.dev/v1" {
        Ok(token)
    } else {
        Err(wrong())
    }
}
