//! One endpoint, and the right to ask it.
//!
//! A registry that wants to know who asks answers 401 and says in
//! `WWW-Authenticate` what it wants (distribution, spec/auth/token.md):
//!
//! ```text
//! we ─ GET blobs/… ────────────────────────▶ registry
//!    ◀─ 401  Bearer realm="https://auth/token",service="r",scope="…:pull"
//! we ─ GET https://auth/token?service=r&scope=… (Basic me:secret) ─▶ auth
//!    ◀─ {"token": "…"}
//! we ─ GET blobs/…  Authorization: Bearer … ─▶ registry
//! ```
//!
//! or simply `Basic`. The answer is kept and used until the registry refuses it.

use std::time::Duration;

use base64::Engine as _;
use reqwest::header::{AUTHORIZATION, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::Trouble;
use super::clients::Clients;
use crate::images::error::{Error, ErrorKind};
use crate::images::registries::{Credentials, Endpoint};

/// An endpoint and one of its repositories.
#[derive(Debug)]
pub(crate) struct Session {
    client: Client,
    endpoint: Endpoint,
    repository: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The address that answered, of those that the endpoint may have.
    url: Option<String>,
    /// The header that the registry took.
    authorization: Option<String>,
}

/// What a registry wants, from `WWW-Authenticate`.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

impl Session {
    /// Prepares to ask; asks nothing yet.
    pub(crate) fn new(
        clients: &Clients,
        endpoint: Endpoint,
        repository: &str,
    ) -> Result<Session, Error> {
        Ok(Session {
            client: clients.client(&endpoint)?,
            endpoint,
            repository: repository.to_owned(),
            state: Mutex::default(),
        })
    }

    /// For messages.
    pub(crate) fn url(&self) -> &str {
        self.endpoint.urls.first().map_or("", String::as_str)
    }

    /// `GET /v2/REPOSITORY/PATH`; any status but 200 and 206 is trouble.
    pub(crate) async fn get(
        &self,
        path: &str,
        headers: &[(HeaderName, &str)],
    ) -> Result<Response, Trouble> {
        let sent_with = self.state.lock().await.authorization.clone();
        let response = self.send(path, headers, sent_with.as_deref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return self.judge(path, response).await;
        }
        let authorization = self.authorize(path, sent_with, response).await?;
        let response = self.send(path, headers, Some(&authorization)).await?;
        self.judge(path, response).await
    }

    async fn send(
        &self,
        path: &str,
        headers: &[(HeaderName, &str)],
        authorization: Option<&str>,
    ) -> Result<Response, Trouble> {
        let known = self.state.lock().await.url.clone();
        let urls = match &known {
            Some(url) => std::slice::from_ref(url),
            None => &self.endpoint.urls[..],
        };
        let mut failure = None;
        for url in urls {
            let address = format!("{url}/v2/{}/{path}", self.repository);
            let mut request = self.client.get(address);
            for (name, value) in headers {
                request = request.header(name, *value);
            }
            if let Some(authorization) = authorization {
                request = request.header(AUTHORIZATION, authorization);
            }
            match ask(request).await {
                Ok(response) => {
                    if known.is_none() {
                        self.state.lock().await.url = Some(url.clone());
                    }
                    return Ok(response);
                }
                Err(error) => failure = Some(error),
            }
        }
        let Some(failure) = failure else {
            let what = "the registry has no address";
            return Err(Trouble::Final(Error::new(ErrorKind::Unreachable, what)));
        };
        Err(self.unanswered(failure, known.is_some()))
    }

    /// Nobody answered. A registry that never did is probably not there, so the
    /// next endpoint gets its turn at once; one that did may come back.
    fn unanswered(&self, failure: reqwest::Error, answered_before: bool) -> Trouble {
        let hint = match self.endpoint.insecure || self.url().starts_with("http://") {
            true => "",
            false => {
                " by HTTPS with a trusted certificate \
                 (insecure = true in registries.toml allows less)"
            }
        };
        let what = format!("{} does not answer{hint}", self.url());
        let error = Error::caused(ErrorKind::Unreachable, what, failure.without_url());
        match answered_before {
            true => Trouble::passing(error),
            false => Trouble::Final(error),
        }
    }

    async fn judge(&self, path: &str, response: Response) -> Result<Response, Trouble> {
        let status = response.status();
        if matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
            return Ok(response);
        }
        let wait = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let what = format!(
            "{}/v2/{}/{path}: {status}{}",
            self.url(),
            self.repository,
            reason(response).await
        );
        let kind = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ErrorKind::Unauthorized,
            StatusCode::NOT_FOUND => ErrorKind::NotFound,
            StatusCode::RANGE_NOT_SATISFIABLE => ErrorKind::Corrupt,
            _ => ErrorKind::Unreachable,
        };
        let error = Error::new(kind, what);
        let passes = status.is_server_error()
            || matches!(
                status,
                StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
            );
        Err(match passes {
            true => Trouble::Passing { error, wait },
            false => Trouble::Final(error),
        })
    }

    /// Finds the header that the registry wants. Several layers may be refused
    /// at once when a token runs out; the first gets a new one for all.
    async fn authorize(
        &self,
        path: &str,
        refused: Option<String>,
        response: Response,
    ) -> Result<String, Trouble> {
        let challenge = response
            .headers()
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| parse_challenge(value.to_str().ok()?))
            .next();
        let mut state = self.state.lock().await;
        if let Some(fresh) = &state.authorization
            && refused.as_ref() != Some(fresh)
        {
            return Ok(fresh.clone());
        }
        let credentials = self.endpoint.credentials.as_ref();
        let authorization = match (challenge, credentials) {
            (_, Some(Credentials::RegistryToken(token))) if refused.is_none() => {
                format!("Bearer {token}")
            }
            (Some(Challenge::Basic), Some(Credentials::Password { username, password }))
                if refused.is_none() =>
            {
                basic(username, password)
            }
            (
                Some(Challenge::Bearer {
                    realm,
                    service,
                    scope,
                }),
                _,
            ) => {
                let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.repository));
                let token = self.token(&realm, service.as_deref(), &scope).await?;
                format!("Bearer {token}")
            }
            _ => {
                let hint = match credentials {
                    Some(_) => "it does not accept the credentials",
                    None => "it wants credentials and none are known",
                };
                return Err(Trouble::Final(Error::new(
                    ErrorKind::Unauthorized,
                    format!("{}/v2/{}/{path}: {hint}", self.url(), self.repository),
                )));
            }
        };
        state.authorization = Some(authorization.clone());
        Ok(authorization)
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: &str,
    ) -> Result<String, Trouble> {
        // A registry reached by HTTPS must not talk us into sending a password
        // in the clear.
        let clear = realm.starts_with("http://");
        if clear && !self.endpoint.insecure && !self.url().starts_with("http://") {
            return Err(Trouble::Final(Error::new(
                ErrorKind::Unauthorized,
                format!(
                    "{} wants the password sent to {realm}, in the clear",
                    self.url()
                ),
            )));
        }
        let mut fields = vec![("scope", scope)];
        if let Some(service) = service {
            fields.push(("service", service));
        }
        let request = match &self.endpoint.credentials {
            Some(Credentials::IdentityToken(token)) => {
                fields.extend([
                    ("grant_type", "refresh_token"),
                    ("client_id", "berth"),
                    ("refresh_token", token),
                ]);
                let body = encode_form(&fields);
                self.client
                    .post(realm)
                    .header("content-type", "application/x-www-form-urlencoded")
                    .body(body)
            }
            credentials => {
                let mark = if realm.contains('?') { '&' } else { '?' };
                let request = self
                    .client
                    .get(format!("{realm}{mark}{}", encode_form(&fields)));
                match credentials {
                    Some(Credentials::Password { username, password }) => {
                        request.header(AUTHORIZATION, basic(username, password))
                    }
                    _ => request,
                }
            }
        };
        let response = request.send().await.map_err(|error| {
            let what = format!("the token service {realm} does not answer");
            Trouble::passing(Error::caused(
                ErrorKind::Unreachable,
                what,
                error.without_url(),
            ))
        })?;
        if !response.status().is_success() {
            let status = response.status();
            let what = format!(
                "the token service {realm} answered {status}{}",
                reason(response).await
            );
            return Err(match status.is_server_error() {
                true => Trouble::passing(Error::new(ErrorKind::Unreachable, what)),
                false => Trouble::Final(Error::new(ErrorKind::Unauthorized, what)),
            });
        }
        let answer: TokenAnswer = response.json().await.map_err(|error| {
            let what = format!("the token service {realm} sent no token");
            Trouble::Final(Error::caused(
                ErrorKind::Unauthorized,
                what,
                error.without_url(),
            ))
        })?;
        answer.token.or(answer.access_token).ok_or_else(|| {
            let what = format!("the token service {realm} sent no token");
            Trouble::Final(Error::new(ErrorKind::Unauthorized, what))
        })
    }
}

/// Sends a request. A connection that was kept may end at the moment at which it is used
/// again, which says nothing about the registry: it is asked once more, by another.
async fn ask(request: RequestBuilder) -> reqwest::Result<Response> {
    let again = request.try_clone();
    match (request.send().await, again) {
        (Err(error), Some(again))
            if error.is_request() && !error.is_connect() && !error.is_timeout() =>
        {
            again.send().await
        }
        (answer, _) => answer,
    }
}

/// Whether a registry refused a range because its blob ends before.
pub(crate) fn is_beyond_end(error: &Error) -> bool {
    error.kind() == ErrorKind::Corrupt
}

#[derive(Debug, Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

/// What the registry says about a failure (distribution spec, "Error Codes").
async fn reason(response: Response) -> String {
    #[derive(Deserialize)]
    struct Failures {
        errors: Vec<Failure>,
    }
    #[derive(Deserialize)]
    struct Failure {
        code: String,
        #[serde(default)]
        message: String,
    }
    let body = response.text().await.unwrap_or_default();
    match serde_json::from_str::<Failures>(&body) {
        Ok(Failures { errors }) => errors
            .iter()
            .map(|failure| format!(", {} {}", failure.code, failure.message))
            .collect(),
        Err(_) => String::new(),
    }
}

fn basic(username: &str, password: &str) -> String {
    let text = format!("{username}:{password}");
    let encoded = base64::engine::general_purpose::STANDARD.encode(text);
    format!("Basic {encoded}")
}

/// `application/x-www-form-urlencoded`: all but RFC 3986's unreserved is escaped.
fn encode_form(fields: &[(&str, &str)]) -> String {
    let encode = |text: &str| -> String {
        text.bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    char::from(byte).to_string()
                }
                other => format!("%{other:02X}"),
            })
            .collect()
    };
    let pairs: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("{}={}", encode(name), encode(value)))
        .collect();
    pairs.join("&")
}

/// Reads `Bearer realm="…",service="…"` (RFC 9110, section 11.6.1).
fn parse_challenge(header: &str) -> Option<Challenge> {
    let (scheme, mut rest) = header.split_once(' ').unwrap_or((header, ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service, mut scope) = (None, None, None);
    // A value in quotes may hold commas: `scope="repository:a:pull,push"`.
    while let Some((name, after)) = rest.split_once('=') {
        let (value, left) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        let value = Some(value.to_owned());
        match name.trim_matches([' ', ',']).to_ascii_lowercase().as_str() {
            "realm" => realm = value,
            "service" => service = value,
            "scope" => scope = value,
            _ => {}
        }
        rest = left;
    }
    Some(Challenge::Bearer {
        realm: realm?,
        service,
        scope,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_with_commas_inside_quotes() {
        let header = r#"Bearer realm="https://a/token",service="r.example",scope="repository:a/b:pull,push""#;
        assert_eq!(
            parse_challenge(header),
            Some(Challenge::Bearer {
                realm: "https://a/token".to_owned(),
                service: Some("r.example".to_owned()),
                scope: Some("repository:a/b:pull,push".to_owned()),
            })
        );
        assert_eq!(parse_challenge("Basic realm=\"x\""), Some(Challenge::Basic));
        assert_eq!(parse_challenge("Negotiate"), None);
        assert_eq!(parse_challenge("Bearer service=\"x\""), None);
    }

    #[test]
    fn forms_escape_what_has_a_meaning() {
        let form = encode_form(&[("scope", "repository:a/b:pull"), ("q", "ä&=")]);
        assert_eq!(form, "scope=repository%3Aa%2Fb%3Apull&q=%C3%A4%26%3D");
    }
}
