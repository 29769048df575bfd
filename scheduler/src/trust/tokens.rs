//! Join tokens as the cluster keeps them: Secrets in `kube-system`, in the form of
//! Kubernetes' bootstrap tokens, so `kubectl get secrets -n kube-system` shows them.
//!
//! A token that may be used n times is spent with the API's own optimistic
//! concurrency: of two machines that use the last one at once, one is refused.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams};

use super::TrustError;
use super::join::Role;
use super::token::Invitation;

/// The namespace of the cluster's own objects.
pub const NAMESPACE: &str = "kube-system";
/// The type of a token's Secret.
pub const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
const NAME_PREFIX: &str = "bootstrap-token-";
const USES_LEFT: &str = "uses-left";
const FOR_SERVERS: &str = "usage-berth-server";
/// How often one spending is tried again where another changed the Secret meanwhile.
const ATTEMPTS: usize = 16;

/// What a new token allows.
#[derive(Debug, Clone, Default)]
pub struct Allowance {
    /// Until when; `None` is for ever.
    pub expires: Option<Timestamp>,
    /// How often; `None` is any number.
    pub uses: Option<u32>,
    /// Whom it lets in.
    pub role: Role,
    /// What it is for, in the words of who made it.
    pub description: String,
}

impl Allowance {
    /// Any number of times within a time; a time of zero is for ever.
    pub fn within(ttl: SignedDuration) -> Allowance {
        Allowance {
            expires: (!ttl.is_zero()).then(|| Timestamp::now() + ttl),
            ..Allowance::default()
        }
    }
}

/// A token of the cluster.
#[derive(Debug, Clone)]
pub struct KnownToken {
    /// Its words but for the authority's hash.
    pub invitation: Invitation,
    /// What it allows still.
    pub allowance: Allowance,
}

impl KnownToken {
    /// Whether it lets nobody in any more, and why.
    pub fn ended(&self, now: Timestamp) -> Option<Refusal> {
        if let Some(expired) = self.allowance.expires.filter(|expires| *expires <= now) {
            return Some(Refusal::Expired { expired });
        }
        (self.allowance.uses == Some(0)).then_some(Refusal::Spent)
    }

    /// Whether its holder may come in as that.
    ///
    /// # Errors
    ///
    /// [`Refusal::NodesOnly`].
    pub fn admits(&self, role: Role) -> Result<(), Refusal> {
        match (role, self.allowance.role) {
            (Role::Server, Role::Node) => Err(Refusal::NodesOnly),
            _ => Ok(()),
        }
    }
}

/// Why a token lets nobody in. An unknown one and a wrong secret are told apart by
/// nobody: the names of tokens are not to be found out by trying.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No such token, or another secret.
    #[error(
        "the token is not one of this cluster: it was never made, was revoked, or is mistyped; make one with 'berth cluster token create'"
    )]
    Unknown,
    /// It is too late.
    #[error("the token expired at {expired}; make one with 'berth cluster token create'")]
    Expired {
        /// When.
        expired: Timestamp,
    },
    /// It was used as often as it may be.
    #[error(
        "the token is spent: it was used as often as it may be; make one with 'berth cluster token create'"
    )]
    Spent,
    /// It is for nodes, and a server wants to come in.
    #[error(
        "the token lets in nodes and no servers: a server gets the authority's key; make a token for one with 'berth cluster token create --server'"
    )]
    NodesOnly,
    /// The API could not be asked.
    #[error("ask the API")]
    Api(#[source] Box<kube::Error>),
}

impl From<kube::Error> for Refusal {
    fn from(error: kube::Error) -> Refusal {
        Refusal::Api(Box::new(error))
    }
}

/// Makes a token.
///
/// # Errors
///
/// [`TrustError::Api`].
pub async fn create(
    client: &kube::Client,
    allowance: &Allowance,
) -> Result<Invitation, TrustError> {
    let invitation = Invitation::create();
    let secret = secret_of(&invitation, allowance);
    api(client).create(&PostParams::default(), &secret).await?;
    Ok(invitation)
}

/// All tokens, those that have ended too.
///
/// # Errors
///
/// [`TrustError::Api`].
pub async fn list(client: &kube::Client) -> Result<Vec<KnownToken>, TrustError> {
    let secrets = api(client).list(&ListParams::default()).await?;
    Ok(secrets.iter().filter_map(token_of).collect())
}

/// Takes a token back; whether there was one.
///
/// # Errors
///
/// [`TrustError::Api`].
pub async fn revoke(client: &kube::Client, id: &str) -> Result<bool, TrustError> {
    let name = format!("{NAME_PREFIX}{id}");
    match api(client).delete(&name, &DeleteParams::default()).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The token of its holder. Nothing is spent.
///
/// # Errors
///
/// [`Refusal`].
pub async fn check(client: &kube::Client, id: &str, secret: &str) -> Result<KnownToken, Refusal> {
    let (_, known) = prove(&api(client), id, secret).await?;
    Ok(known)
}

/// Lets the holder of a token in once.
///
/// # Errors
///
/// [`Refusal`].
pub async fn spend(client: &kube::Client, id: &str, secret: &str) -> Result<(), Refusal> {
    let secrets = api(client);
    for _ in 0..ATTEMPTS {
        let (mut less, known) = prove(&secrets, id, secret).await?;
        let Some(uses) = known.allowance.uses else {
            return Ok(());
        };
        let name = less.metadata.name.clone().unwrap_or_default();
        let left = (uses - 1).to_string().into_bytes();
        less.data
            .get_or_insert_default()
            .insert(USES_LEFT.to_owned(), ByteString(left));
        // The object carries the version that was read: a use in between is a conflict.
        match secrets.replace(&name, &PostParams::default(), &less).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Refusal::Spent)
}

/// The token's Secret, for one who knows its secret while it is good.
async fn prove(
    secrets: &Api<Secret>,
    id: &str,
    secret: &str,
) -> Result<(Secret, KnownToken), Refusal> {
    let presented = Invitation::new(id, secret).map_err(|_| Refusal::Unknown)?;
    let name = format!("{NAME_PREFIX}{}", presented.id);
    let object = secrets.get_opt(&name).await?.ok_or(Refusal::Unknown)?;
    let known = token_of(&object).ok_or(Refusal::Unknown)?;
    // The secret first: who does not know it learns nothing of the token.
    if !known.invitation.is_proved_by(secret) {
        return Err(Refusal::Unknown);
    }
    match known.ended(Timestamp::now()) {
        Some(refusal) => Err(refusal),
        None => Ok((object, known)),
    }
}

fn api(client: &kube::Client) -> Api<Secret> {
    Api::namespaced(client.clone(), NAMESPACE)
}

fn secret_of(invitation: &Invitation, allowance: &Allowance) -> Secret {
    let mut data = BTreeMap::from([
        ("token-id", invitation.id.clone()),
        ("token-secret", invitation.secret().to_owned()),
        ("usage-bootstrap-authentication", "true".to_owned()),
    ]);
    if let Some(expires) = allowance.expires {
        let expires = expires.round(jiff::Unit::Second).unwrap_or(expires);
        data.insert("expiration", expires.to_string());
    }
    if let Some(uses) = allowance.uses {
        data.insert(USES_LEFT, uses.to_string());
    }
    if allowance.role == Role::Server {
        data.insert(FOR_SERVERS, "true".to_owned());
    }
    if !allowance.description.is_empty() {
        data.insert("description", allowance.description.clone());
    }
    let bytes = |(key, value): (&str, String)| (key.to_owned(), ByteString(value.into_bytes()));
    Secret {
        metadata: ObjectMeta {
            name: Some(format!("{NAME_PREFIX}{}", invitation.id)),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        type_: Some(SECRET_TYPE.to_owned()),
        data: Some(data.into_iter().map(bytes).collect()),
        ..Secret::default()
    }
}

/// The token that a Secret is. A time or a number that cannot be read lets nobody in.
fn token_of(secret: &Secret) -> Option<KnownToken> {
    if secret.type_.as_deref() != Some(SECRET_TYPE) {
        return None;
    }
    let data = secret.data.as_ref()?;
    let text = |key: &str| {
        let bytes = data.get(key)?;
        String::from_utf8(bytes.0.clone()).ok()
    };
    let invitation = Invitation::new(&text("token-id")?, &text("token-secret")?).ok()?;
    if text("usage-bootstrap-authentication").as_deref() != Some("true") {
        return None;
    }
    let expires = match text("expiration") {
        Some(words) => Some(words.parse().ok()?),
        None => None,
    };
    let uses = match text(USES_LEFT) {
        Some(words) => Some(words.parse().ok()?),
        None => None,
    };
    Some(KnownToken {
        invitation,
        allowance: Allowance {
            expires,
            uses,
            role: match text(FOR_SERVERS).as_deref() {
                Some("true") => Role::Server,
                _ => Role::Node,
            },
            description: text("description").unwrap_or_default(),
        },
    })
}
