//! Files out of ConfigMaps, Secrets and the pod itself, as data.
//!
//! A path in a volume comes out of a manifest and becomes a path on the node,
//! so each is checked here: relative, without `..`, and not of the names that
//! the writer keeps for itself.

use std::collections::BTreeMap;

use k8s_openapi::{
    ByteString,
    api::core::v1::{
        ConfigMapVolumeSource, DownwardAPIVolumeFile, DownwardAPIVolumeSource, KeyToPath,
        ProjectedVolumeSource, SecretVolumeSource,
    },
};

use crate::pod::plan::{ConfigError, config_error, facts::PodFacts};

/// Files by their path in the volume.
pub type FileTree = BTreeMap<String, ProjectedFile>;

/// One file.
#[derive(Clone, PartialEq, Eq)]
pub struct ProjectedFile {
    /// What it holds.
    pub content: Vec<u8>,
    /// Its permissions.
    pub mode: u32,
    /// Its owner, root if none is named.
    pub owner: Option<u32>,
}

impl std::fmt::Debug for ProjectedFile {
    /// Without the content: it may be a secret, and plans are printed.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            out,
            "ProjectedFile({} bytes, mode {:o}, owner {:?})",
            self.content.len(),
            self.mode,
            self.owner
        )
    }
}

/// Mode and owner of the files that do not name their own.
#[derive(Debug, Clone, Copy)]
struct FileDefaults {
    mode: i32,
    owner: Option<i64>,
}

impl FileDefaults {
    /// What a volume says; Kubernetes' own mode where it says none.
    fn of(mode: Option<i32>, owner: Option<i64>) -> FileDefaults {
        FileDefaults {
            mode: mode.unwrap_or(0o644),
            owner,
        }
    }
}

/// Keys and values of one object, or why there are none.
struct Source<'a> {
    kind: &'static str,
    name: &'a str,
    optional: bool,
    keys: Option<BTreeMap<String, Vec<u8>>>,
}

/// The files of a ConfigMap volume.
pub fn plan_config_map(
    facts: &PodFacts<'_>,
    source: &ConfigMapVolumeSource,
) -> Result<FileTree, ConfigError> {
    let defaults = FileDefaults::of(source.default_mode, source.default_user);
    let optional = source.optional == Some(true);
    let object = config_map(facts, &source.name, optional);
    project(&object, source.items.as_deref(), defaults)
}

/// The files of a Secret volume.
pub fn plan_secret(
    facts: &PodFacts<'_>,
    source: &SecretVolumeSource,
) -> Result<FileTree, ConfigError> {
    let defaults = FileDefaults::of(source.default_mode, source.default_user);
    let name = source.secret_name.as_deref().unwrap_or_default();
    let object = secret(facts, name, source.optional == Some(true));
    project(&object, source.items.as_deref(), defaults)
}

/// The files of a downward API volume.
pub fn plan_downward(
    facts: &PodFacts<'_>,
    source: &DownwardAPIVolumeSource,
) -> Result<FileTree, ConfigError> {
    let defaults = FileDefaults::of(source.default_mode, source.default_user);
    downward(facts, source.items.as_deref().unwrap_or_default(), defaults)
}

/// The files of a projected volume; where two sources have one path, the later wins.
pub fn plan_projected(
    facts: &PodFacts<'_>,
    source: &ProjectedVolumeSource,
) -> Result<FileTree, ConfigError> {
    let defaults = FileDefaults::of(source.default_mode, source.default_user);
    let mut tree = FileTree::new();
    for projection in source.sources.iter().flatten() {
        if let Some(part) = &projection.config_map {
            let object = config_map(facts, &part.name, part.optional == Some(true));
            tree.extend(project(&object, part.items.as_deref(), defaults)?);
        }
        if let Some(part) = &projection.secret {
            let object = secret(facts, &part.name, part.optional == Some(true));
            tree.extend(project(&object, part.items.as_deref(), defaults)?);
        }
        if let Some(part) = &projection.downward_api {
            let items = part.items.as_deref().unwrap_or_default();
            tree.extend(downward(facts, items, defaults)?);
        }
    }
    Ok(tree)
}

fn config_map<'a>(facts: &PodFacts<'_>, name: &'a str, optional: bool) -> Source<'a> {
    let object = facts.objects.find_config_map(facts.namespace(), name);
    Source {
        kind: "configmap",
        name,
        optional,
        keys: object.map(|map| {
            let texts = map.data.iter().flatten();
            let binaries = map.binary_data.iter().flatten();
            texts
                .map(|(key, text)| (key.clone(), text.clone().into_bytes()))
                .chain(binaries.map(|(key, ByteString(bytes))| (key.clone(), bytes.clone())))
                .collect()
        }),
    }
}

fn secret<'a>(facts: &PodFacts<'_>, name: &'a str, optional: bool) -> Source<'a> {
    let object = facts.objects.find_secret(facts.namespace(), name);
    Source {
        kind: "secret",
        name,
        optional,
        keys: object.map(|secret| {
            let data = secret.data.iter().flatten();
            data.map(|(key, ByteString(bytes))| (key.clone(), bytes.clone()))
                .collect()
        }),
    }
}

/// All keys of an object under their own names, or the named ones at their paths.
fn project(
    source: &Source<'_>,
    items: Option<&[KeyToPath]>,
    defaults: FileDefaults,
) -> Result<FileTree, ConfigError> {
    let Some(keys) = &source.keys else {
        return if source.optional {
            Ok(FileTree::new())
        } else {
            Err(config_error(format!(
                "{} {:?} not found",
                source.kind, source.name
            )))
        };
    };
    let mut tree = FileTree::new();
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        for (key, content) in keys {
            let file = file(content.clone(), None, None, defaults)?;
            tree.insert(check_path(key)?.to_owned(), file);
        }
        return Ok(tree);
    };
    for item in items {
        let Some(content) = keys.get(&item.key) else {
            if source.optional {
                continue;
            }
            return Err(config_error(format!(
                "{} {:?} references non-existent key: {}",
                source.kind, source.name, item.key
            )));
        };
        let file = file(content.clone(), item.mode, item.user, defaults)?;
        tree.insert(check_path(&item.path)?.to_owned(), file);
    }
    Ok(tree)
}

fn downward(
    facts: &PodFacts<'_>,
    items: &[DownwardAPIVolumeFile],
    defaults: FileDefaults,
) -> Result<FileTree, ConfigError> {
    let mut tree = FileTree::new();
    for item in items {
        let content = match (&item.field_ref, &item.resource_field_ref) {
            (Some(selector), _) => facts.field(selector)?,
            (None, Some(selector)) => facts.resource(selector, "")?,
            (None, None) => String::new(),
        };
        let file = file(content.into_bytes(), item.mode, item.user, defaults)?;
        tree.insert(check_path(&item.path)?.to_owned(), file);
    }
    Ok(tree)
}

fn file(
    content: Vec<u8>,
    own_mode: Option<i32>,
    own_user: Option<i64>,
    defaults: FileDefaults,
) -> Result<ProjectedFile, ConfigError> {
    let owner = own_user
        .or(defaults.owner)
        .map(|user| {
            u32::try_from(user).map_err(|_| config_error(format!("{user} is no user's number")))
        })
        .transpose()?;
    Ok(ProjectedFile {
        content,
        mode: mode(own_mode.unwrap_or(defaults.mode)),
        owner,
    })
}

/// Permission bits of a manifest's number, without what is no permission.
pub fn mode(value: i32) -> u32 {
    u32::try_from(value).unwrap_or(0) & 0o7777
}

/// A path that stays in its volume.
///
/// Names that begin with `..` are the writer's own (`..data`), and would let a
/// key of a Secret redirect the whole volume.
fn check_path(path: &str) -> Result<&str, ConfigError> {
    let stays = !path.is_empty()
        && !path.starts_with('/')
        && !path.starts_with("..")
        && path
            .split('/')
            .all(|part| !part.is_empty() && part != ".." && part != ".");
    if stays {
        Ok(path)
    } else {
        Err(config_error(format!(
            "path {path:?}: expected a relative path without '..' that does not begin with '..'"
        )))
    }
}
