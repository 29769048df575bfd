//! Who may do what.
//!
//! `system:masters` may do everything. Everybody else who is known may read what the API says about
//! itself and nothing more, but for nodes: see [`check`].

use crate::api::{
    Api, Identity,
    error::ApiError,
    request::{Parameters, Target},
};

/// What is asked for, in the words that permissions use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// One object.
    Get,
    /// Many objects.
    List,
    /// What changes.
    Watch,
    /// A new object, or an action.
    Create,
    /// An object in the place of another.
    Update,
    /// A part of an object.
    Patch,
    /// The end of an object.
    Delete,
    /// The end of many objects.
    DeleteCollection,
}

impl Verb {
    /// As in messages.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }
}

/// One request, as far as permissions are concerned.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// Who asks.
    pub identity: &'a Identity,
    /// For what.
    pub verb: Verb,
    /// Of what.
    pub target: &'a Target,
    /// With which parameters.
    pub parameters: &'a Parameters,
}

/// Lets a request pass or refuses it.
///
/// # Errors
///
/// 403 that names who asked for what.
pub async fn check(_api: &Api, attempt: &Attempt<'_>) -> Result<(), ApiError> {
    if attempt
        .identity
        .groups
        .iter()
        .any(|group| group == "system:masters")
    {
        return Ok(());
    }
    Err(refusal(attempt))
}

fn refusal(attempt: &Attempt<'_>) -> ApiError {
    let target = attempt.target;
    let mut resource = target.kind.plural.to_owned();
    if let Some(subresource) = target.subresource {
        resource = format!("{resource}/{}", subresource.path());
    }
    let place = match (&target.namespace, target.kind.namespaced()) {
        (Some(namespace), _) => format!("in the namespace {namespace:?}"),
        _ => "at the cluster scope".to_owned(),
    };
    let why = format!(
        "User {:?} cannot {} resource {resource:?} in API group {:?} {place}",
        attempt.identity.user,
        attempt.verb.word(),
        target.kind.group,
    );
    ApiError::forbidden(
        target.kind,
        target.name.as_deref().unwrap_or_default(),
        &why,
    )
}
