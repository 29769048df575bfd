//! Where images are fetched from, and as whom.
//!
//! `registries.toml`:
//!
//! ```toml
//! [registry."docker.io"]
//! mirrors = ["https://mirror.example", "http://127.0.0.1:5000"]
//!
//! [registry."127.0.0.1:5000"]
//! insecure = true            # plain HTTP, or a certificate nobody signed
//! ca = "/etc/berth/ca.pem"   # trust this authority besides the system's
//! username = "me"
//! password = "secret"
//! ```
//!
//! Mirrors are asked in order and the registry itself last. Credentials that
//! are given for a registry never go to its mirrors: a mirror is another host.
//! What the file does not say is looked up in Docker's `config.json`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::images::error::{Context, Error, ErrorKind};
use crate::images::reference::DEFAULT_REGISTRY;

/// The file that is read when nothing else is said.
pub const DEFAULT_FILE: &str = "/etc/berth/registries.toml";
/// The variable that names another one.
pub const FILE_VARIABLE: &str = "BERTH_REGISTRIES_CONFIG";

/// The registries that something is said about, by host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistriesConfig {
    #[serde(default)]
    registry: BTreeMap<String, RegistryConfig>,
    /// The directory of Docker's `config.json`; none to read none.
    #[serde(skip)]
    docker_config: Option<PathBuf>,
}

/// What is said about one registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct RegistryConfig {
    #[serde(default)]
    mirrors: Vec<String>,
    #[serde(default)]
    insecure: bool,
    ca: Option<PathBuf>,
    username: Option<String>,
    password: Option<String>,
}

/// As whom to ask.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A user's name and password.
    Password {
        /// The name.
        username: String,
        /// The password.
        password: String,
    },
    /// A token to get tokens with (OAuth 2 refresh token).
    IdentityToken(String),
    /// A token that the registry takes as it is.
    RegistryToken(String),
}

impl fmt::Debug for Credentials {
    /// Never shows the secret: errors and traces are kept.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credentials::Password { username, .. } => write!(formatter, "Password({username})"),
            Credentials::IdentityToken(_) => formatter.write_str("IdentityToken"),
            Credentials::RegistryToken(_) => formatter.write_str("RegistryToken"),
        }
    }
}

/// One place to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Without `/v2`. Several, if the registry's protocol is to be found out.
    pub(crate) urls: Vec<String>,
    /// Whether any certificate will do.
    pub(crate) insecure: bool,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) credentials: Option<Credentials>,
}

impl RegistriesConfig {
    /// Reads the file that `BERTH_REGISTRIES_CONFIG` names, else
    /// `/etc/berth/registries.toml` if there is one, and has Docker's
    /// `config.json` looked up later.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfiguration`], with the file and the place in it.
    pub fn load() -> Result<RegistriesConfig, Error> {
        match std::env::var_os(FILE_VARIABLE) {
            Some(path) => RegistriesConfig::load_from(Path::new(&path)),
            None if Path::new(DEFAULT_FILE).exists() => {
                RegistriesConfig::load_from(Path::new(DEFAULT_FILE))
            }
            None => Ok(RegistriesConfig::default().with_docker()),
        }
    }

    /// Reads one file, and has Docker's `config.json` looked up later.
    ///
    /// # Errors
    ///
    /// As [`RegistriesConfig::load`].
    pub fn load_from(path: &Path) -> Result<RegistriesConfig, Error> {
        RegistriesConfig::read(path).map(RegistriesConfig::with_docker)
    }

    fn with_docker(mut self) -> RegistriesConfig {
        self.docker_config = std::env::var_os("DOCKER_CONFIG")
            .map(PathBuf::from)
            .or_else(|| Some(std::env::home_dir()?.join(".docker")));
        self
    }

    /// Reads one file and looks nowhere else.
    ///
    /// # Errors
    ///
    /// As [`RegistriesConfig::load`].
    pub fn read(path: &Path) -> Result<RegistriesConfig, Error> {
        let text = std::fs::read_to_string(path)
            .context(|| format!("the registries' file {} cannot be read", path.display()))?;
        RegistriesConfig::parse(&text).map_err(|error| error.within(path.display().to_string()))
    }

    /// Reads the text of such a file.
    ///
    /// # Errors
    ///
    /// As [`RegistriesConfig::load`].
    pub fn parse(text: &str) -> Result<RegistriesConfig, Error> {
        let config: RegistriesConfig = toml::from_str(text).map_err(|error| {
            Error::caused(
                ErrorKind::InvalidConfiguration,
                "the registries' file is not understood",
                error,
            )
        })?;
        for (host, registry) in &config.registry {
            let invalid = |what: String| {
                let what = format!("[registry.{host:?}] {what}");
                Err(Error::new(ErrorKind::InvalidConfiguration, what))
            };
            for mirror in &registry.mirrors {
                if url_host(mirror).is_none() {
                    return invalid(format!(
                        "mirrors: {mirror:?} must begin with http:// or https:// and name a host"
                    ));
                }
            }
            if registry.username.is_some() != registry.password.is_some() {
                return invalid("username and password: one is there without the other".into());
            }
        }
        Ok(config)
    }

    /// Where to ask for a repository of `registry`, in order. `credentials`
    /// are for the registry itself and go nowhere else.
    pub(crate) fn endpoints(
        &self,
        registry: &str,
        credentials: Option<&Credentials>,
    ) -> Result<Vec<Endpoint>, Error> {
        let mut endpoints = Vec::new();
        let mirrors = self
            .registry
            .get(registry)
            .map_or(&[][..], |section| &section.mirrors);
        for mirror in mirrors {
            let host = url_host(mirror).unwrap_or_default();
            let section = self.registry.get(host);
            endpoints.push(Endpoint {
                urls: vec![mirror.trim_end_matches('/').to_owned()],
                insecure: section.is_some_and(|section| section.insecure),
                ca: section.and_then(|section| section.ca.clone()),
                credentials: self.credentials(host)?,
            });
        }
        let section = self.registry.get(registry);
        let insecure = section.is_some_and(|section| section.insecure);
        let host = match registry {
            DEFAULT_REGISTRY => "registry-1.docker.io",
            host => host,
        };
        let mut urls = vec![format!("https://{host}")];
        if insecure {
            urls.push(format!("http://{host}"));
        }
        endpoints.push(Endpoint {
            urls,
            insecure,
            ca: section.and_then(|section| section.ca.clone()),
            credentials: match credentials {
                Some(credentials) => Some(credentials.clone()),
                None => self.credentials(registry)?,
            },
        });
        Ok(endpoints)
    }

    fn credentials(&self, registry: &str) -> Result<Option<Credentials>, Error> {
        let section = self.registry.get(registry);
        if let Some(section) = section
            && let (Some(username), Some(password)) = (&section.username, &section.password)
        {
            return Ok(Some(Credentials::Password {
                username: username.clone(),
                password: password.clone(),
            }));
        }
        match &self.docker_config {
            Some(directory) => docker_credentials(&directory.join("config.json"), registry),
            None => Ok(None),
        }
    }
}

/// What Docker's `config.json` knows about a registry, by its own text or by
/// the helper program that it names.
fn docker_credentials(file: &Path, registry: &str) -> Result<Option<Credentials>, Error> {
    use docker_credential::{CredentialRetrievalError as Failure, DockerCredential};
    // `docker login` writes Docker Hub under its first address.
    let names: &[&str] = match registry {
        DEFAULT_REGISTRY => &[
            "https://index.docker.io/v1/",
            "docker.io",
            "index.docker.io",
        ],
        other => &[other],
    };
    for name in names {
        let Ok(text) = std::fs::File::open(file) else {
            return Ok(None);
        };
        match docker_credential::get_credential_from_reader(text, name) {
            Ok(DockerCredential::IdentityToken(token)) => {
                return Ok(Some(Credentials::IdentityToken(token)));
            }
            Ok(DockerCredential::UsernamePassword(username, password)) => {
                return Ok(Some(Credentials::Password { username, password }));
            }
            // It knows nothing of this registry: ask as nobody.
            Err(
                Failure::NoCredentialConfigured
                | Failure::ConfigNotFound
                | Failure::HelperFailure { .. },
            ) => {}
            Err(error) => {
                return Err(Error::caused(
                    ErrorKind::InvalidConfiguration,
                    format!("{}: the entry of {name}", file.display()),
                    error,
                ));
            }
        }
    }
    Ok(None)
}

/// `host[:port]` of an http or https address.
fn url_host(url: &str) -> Option<&str> {
    let rest = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"))?;
    let host = rest.split('/').next()?;
    (!host.is_empty() && !host.contains('@')).then_some(host)
}

#[cfg(test)]
mod tests;
