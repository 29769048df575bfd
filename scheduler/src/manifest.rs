//! Manifests: text in, Kubernetes objects out, or every mistake at once.
//!
//! A manifest is YAML or JSON (which is YAML too), one or several documents.
//! Reading it takes five passes, each in a file of its own:
//!
//! ```text
//! text ─▶ tree ─▶ schema ─▶ defaults ─▶ validate ─▶ Manifests
//!         nodes    fields,    what the    names, ports,
//!         with     types,     API server  references,
//!         places   typos      fills in    quantities
//! ```
//!
//! The Kubernetes types ignore an unknown field when they are deserialized, so
//! a misspelt `readinesProbe` would be a pod without a probe. The schema pass
//! walks the tree beside the schema that those same types publish and finds
//! such a field, with its line and the name that was meant. The table in
//! `fields` adds what berth does with each field: honour, warn, refuse.
//!
//! Read more: the API conventions of Kubernetes, "Validation"; YAML 1.2, ch. 10.

use std::fmt;

use k8s_openapi::api::{
    apps::v1::Deployment,
    batch::v1::Job,
    core::v1::{ConfigMap, Pod, Secret},
};

/// What the API server fills in where a manifest is silent.
pub mod defaults;
/// Which fields berth honours, warns of and refuses.
pub mod fields;
/// Kubernetes' numbers with suffixes: `500m`, `64Mi`.
pub mod quantity;
/// The tree against the schema: unknown fields, wrong types, missing fields.
mod schema;
/// YAML as a tree in which each node knows its line and column.
mod tree;
/// Rules that no schema can say: names, ports, references between fields.
mod validate;

pub use tree::Position;

/// Everything that a source held, in the order of its documents.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Manifests {
    /// Pods, with Kubernetes' defaults filled in.
    pub pods: Vec<Pod>,
    /// Deployments, their templates with defaults filled in.
    pub deployments: Vec<Deployment>,
    /// Jobs, their templates with defaults filled in.
    pub jobs: Vec<Job>,
    /// Configuration that the pods refer to.
    pub config_maps: Vec<ConfigMap>,
    /// Secrets that the pods refer to.
    pub secrets: Vec<Secret>,
    /// Fields that were read and will not be honoured.
    pub warnings: Vec<Warning>,
}

impl Manifests {
    /// Adds what another source held, such as a second `-f`.
    pub fn append(&mut self, mut other: Manifests) {
        self.pods.append(&mut other.pods);
        self.deployments.append(&mut other.deployments);
        self.jobs.append(&mut other.jobs);
        self.config_maps.append(&mut other.config_maps);
        self.secrets.append(&mut other.secrets);
        self.warnings.append(&mut other.warnings);
    }
}

/// A field that was read and is not honoured on one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The source's name.
    pub source_name: String,
    /// Where the field stands.
    pub position: Position,
    /// The field, as `spec.containers[0].name`.
    pub path: String,
    /// What happens instead.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{}:{}: {}: {}",
            self.source_name, self.position, self.path, self.message
        )
    }
}

/// One mistake in a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it stands.
    pub position: Position,
    /// The field, as `spec.containers[0].name`; empty for the document itself.
    pub path: String,
    /// What is wrong and what was expected.
    pub message: String,
}

/// All mistakes of one source; nothing of it was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestError {
    /// The source's name.
    pub source_name: String,
    /// The mistakes, in the order of their lines; never empty.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(out)?;
            }
            write!(out, "{}:{}: ", self.source_name, problem.position)?;
            if !problem.path.is_empty() {
                write!(out, "{}: ", problem.path)?;
            }
            write!(out, "{}", problem.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for ManifestError {}

/// Reads every document of `text`; `source_name` goes into messages.
///
/// # Errors
///
/// Every mistake of every document together. A syntax error ends the reading
/// and stands alone, because nothing after it can be trusted.
pub fn read_manifests(text: &str, source_name: &str) -> Result<Manifests, ManifestError> {
    let mut reading = Reading::new(source_name);
    match tree::read_documents(text) {
        Ok(documents) => documents
            .into_iter()
            .for_each(|document| reading.document(document)),
        Err(problem) => reading.problems.push(problem),
    }
    if reading.problems.is_empty() {
        reading.between_objects();
    }
    reading.finish()
}

/// What has been read so far of one source.
struct Reading {
    source_name: String,
    manifests: Manifests,
    problems: Vec<Problem>,
    /// Kind, namespace and name of each object, and where it began.
    seen: Vec<(String, Position)>,
}

impl Reading {
    fn new(source_name: &str) -> Reading {
        Reading {
            source_name: source_name.to_owned(),
            manifests: Manifests::default(),
            problems: Vec::new(),
            seen: Vec::new(),
        }
    }

    /// Reads one document, or each item of a `List`.
    fn document(&mut self, document: tree::Node) {
        let header = match schema::read_header(&document) {
            Ok(header) => header,
            Err(problem) => return self.problems.push(problem),
        };
        if header.kind == "List" {
            return match schema::list_items(document) {
                Ok(items) => items.into_iter().for_each(|item| self.document(item)),
                Err(problem) => self.problems.push(problem),
            };
        }
        match (header.api_version.as_str(), header.kind.as_str()) {
            ("v1", "Pod") => self.object::<Pod>(&document, |manifests| &mut manifests.pods),
            ("apps/v1", "Deployment") => {
                self.object::<Deployment>(&document, |manifests| &mut manifests.deployments);
            }
            ("batch/v1", "Job") => self.object::<Job>(&document, |manifests| &mut manifests.jobs),
            ("v1", "ConfigMap") => {
                self.object::<ConfigMap>(&document, |manifests| &mut manifests.config_maps);
            }
            ("v1", "Secret") => {
                self.object::<Secret>(&document, |manifests| &mut manifests.secrets);
            }
            _ => self.problems.push(schema::unknown_kind(&document, &header)),
        }
    }

    /// Reads one object of a known kind into its list.
    fn object<K: Readable>(&mut self, node: &tree::Node, list: fn(&mut Manifests) -> &mut Vec<K>) {
        let mut checked = schema::check::<K>(node);
        self.manifests
            .warnings
            .extend(checked.warnings.drain(..).map(|problem| Warning {
                source_name: self.source_name.clone(),
                position: problem.position,
                path: problem.path,
                message: problem.message,
            }));
        if !checked.problems.is_empty() {
            self.problems.append(&mut checked.problems);
            return;
        }
        let mut object: K = match serde_json::from_value(checked.value) {
            Ok(object) => object,
            // The schema passed it and the type did not: rare (a date's text,
            // base64), so the line of the object is all there is to say.
            Err(error) => {
                return self.problems.push(Problem {
                    position: node.at,
                    path: String::new(),
                    message: format!("not a valid {}: {error}", K::KIND),
                });
            }
        };
        object.fill_defaults();
        let places = validate::Places::new(node.at, checked.places);
        let mut problems = validate::Problems::new(&places);
        object.validate(&mut problems);
        self.problems.append(&mut problems.found);
        self.note_name(&object, node.at);
        list(&mut self.manifests).push(object);
    }

    /// Two objects of one kind and name are a mistake, not an update.
    fn note_name<K: Readable>(&mut self, object: &K, position: Position) {
        let metadata = object.metadata();
        let Some(name) = &metadata.name else { return };
        let namespace = metadata.namespace.as_deref().unwrap_or("default");
        let identity = format!("{} {namespace}/{name}", K::KIND);
        if let Some((_, first)) = self.seen.iter().find(|(seen, _)| *seen == identity) {
            self.problems.push(Problem {
                position,
                path: "metadata.name".to_owned(),
                message: format!(
                    "{identity} stands twice; the first is at line {}",
                    first.line
                ),
            });
        }
        self.seen.push((identity, position));
    }

    /// Checks that need all documents.
    fn between_objects(&mut self) {
        let manifests = &self.manifests;
        let nothing = manifests.pods.is_empty()
            && manifests.deployments.is_empty()
            && manifests.jobs.is_empty()
            && manifests.config_maps.is_empty()
            && manifests.secrets.is_empty();
        if nothing {
            self.problems.push(Problem {
                position: Position { line: 1, column: 1 },
                path: String::new(),
                message: "no object: expected a Pod, Deployment, Job, ConfigMap or Secret"
                    .to_owned(),
            });
        }
    }

    fn finish(mut self) -> Result<Manifests, ManifestError> {
        if self.problems.is_empty() {
            return Ok(self.manifests);
        }
        self.problems.sort_by_key(|problem| problem.position);
        Err(ManifestError {
            source_name: self.source_name,
            problems: self.problems,
        })
    }
}

/// A kind that a manifest may hold.
trait Readable:
    schemars::JsonSchema
    + serde::de::DeserializeOwned
    + k8s_openapi::Metadata<Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>
    + k8s_openapi::Resource
    + defaults::Defaults
    + validate::Validate
{
}

impl Readable for Pod {}
impl Readable for Deployment {}
impl Readable for Job {}
impl Readable for ConfigMap {}
impl Readable for Secret {}

#[cfg(test)]
mod tests;
