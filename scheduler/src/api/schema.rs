//! The types of the served kinds, small enough to be kept: fields, shapes, ways of merging.
//!
//! A program in Go has its types at hand when it merges or prunes an object.
//! Here objects are JSON inside the API, and this is the map that is laid beside
//! them: it says of each field whether it is a text, a list map, a quantity. It is
//! made once from the schemas that `k8s-openapi`'s types publish, without their
//! descriptions, and from the table of [`facts`].
//!
//! Who reads it: patches and server-side apply, the check for unknown fields and
//! wrong types, and the OpenAPI documents, so that these agree with each other.

use std::{
    collections::{BTreeMap, HashMap},
    sync::OnceLock,
};

use serde_json::{Map, Value};

use self::facts::{ATOMIC_TYPES, FACTS, KEY_DEFAULTS, Merge, PatchStrategy};
use super::kind::Kind;

/// What a type cannot say about itself: how its lists and maps are merged.
pub mod facts;
/// From JSON as a client sent it to JSON as it is kept.
pub mod settle;

/// The type of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// A string.
    Text,
    /// A whole number of 64 bits, or of 32.
    Integer {
        /// Whether 32 bits must hold it.
        narrow: bool,
    },
    /// Any number.
    Number,
    /// True or false.
    Boolean,
    /// A whole number or a string, as a Service's `targetPort`.
    IntOrString,
    /// `500m`, `64Mi`; a number is taken too.
    Quantity,
    /// A time as in RFC 3339.
    Time,
    /// Bytes in base64.
    Bytes,
    /// Whatever JSON can say.
    Anything,
    /// An object of a type with a name.
    Object(TypeId),
    /// Keys that the user chooses.
    Map(Box<Shape>),
    /// A list.
    List(Box<Shape>),
}

/// A place in [`Types`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypeId(usize);

/// A type with a name.
#[derive(Debug, Clone, Default)]
pub struct Type {
    /// Without `io.k8s.`, as `api.core.v1.PodSpec`.
    pub name: String,
    /// Its fields.
    pub fields: BTreeMap<String, Field>,
    /// Fields that the type cannot do without.
    pub required: Vec<String>,
    /// Whether one manager owns an object of this type as a whole.
    pub atomic: bool,
}

/// A field of a type.
#[derive(Debug, Clone)]
pub struct Field {
    /// Its value's type.
    pub shape: Shape,
    /// How server-side apply sees it.
    pub merge: Merge,
    /// How a strategic merge patch sees it.
    pub patch: PatchStrategy,
}

/// All types that the served kinds reach.
#[derive(Debug)]
pub struct Types {
    types: Vec<Type>,
    /// The shape of each type's objects, so that a walk can begin with a reference.
    shapes: Vec<Shape>,
    by_name: HashMap<String, TypeId>,
}

impl Types {
    /// The type at a place.
    #[must_use]
    pub fn at(&self, id: TypeId) -> &Type {
        &self.types[id.0]
    }

    /// The type with a name such as `api.core.v1.PodSpec`.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<TypeId> {
        self.by_name.get(name).copied()
    }

    /// The type of a kind's objects.
    ///
    /// # Panics
    ///
    /// Never for a kind of the table: a test asks for each.
    #[must_use]
    pub fn of(&self, kind: &Kind) -> TypeId {
        let name = definition(kind);
        self.named(&name)
            .unwrap_or_else(|| panic!("the types of every served kind are listed: {name}"))
    }

    /// The shape of a kind's objects.
    #[must_use]
    pub fn shape_of(&self, kind: &Kind) -> &Shape {
        &self.shapes[self.of(kind).0]
    }

    /// A field of the type at a place.
    #[must_use]
    pub fn field(&self, id: TypeId, name: &str) -> Option<&Field> {
        self.at(id).fields.get(name)
    }
}

/// The name of a kind's type without `io.k8s.`: `api.apps.v1.Deployment`.
#[must_use]
pub fn definition(kind: &Kind) -> String {
    let group = match kind.group.split('.').next() {
        Some("") | None => "core",
        Some(group) => group,
    };
    format!("api.{group}.{}.{}", kind.version, kind.kind)
}

/// What an entry of a list map is taken to have for a key that it leaves out.
#[must_use]
pub fn key_default(definition: &str, key: &str) -> Option<&'static str> {
    KEY_DEFAULTS
        .iter()
        .find(|(of, field, _)| *of == definition && *field == key)
        .map(|(_, _, default)| *default)
}

/// The types of all served kinds; made when first asked for.
#[must_use]
pub fn types() -> &'static Types {
    static TYPES: OnceLock<Types> = OnceLock::new();
    TYPES.get_or_init(|| Types::from_definitions(&definitions()))
}

/// The schemas of all served kinds as `k8s-openapi` publishes them, by name.
///
/// With their descriptions these are some megabytes: use and drop them.
#[must_use]
pub fn definitions() -> Map<String, Value> {
    use k8s_openapi::api;
    let mut generator = schemars::SchemaGenerator::default();
    macro_rules! with {
        ($($kind:ty),* $(,)?) => { $(generator.subschema_for::<$kind>();)* };
    }
    // A macro, because a list of types is no value.
    with!(
        api::core::v1::Binding,
        api::core::v1::ConfigMap,
        api::core::v1::Event,
        api::core::v1::Namespace,
        api::core::v1::Node,
        api::core::v1::Pod,
        api::core::v1::Secret,
        api::core::v1::Service,
        api::core::v1::ServiceAccount,
        api::apps::v1::ControllerRevision,
        api::apps::v1::DaemonSet,
        api::apps::v1::Deployment,
        api::apps::v1::ReplicaSet,
        api::autoscaling::v1::Scale,
        api::batch::v1::CronJob,
        api::batch::v1::Job,
        api::coordination::v1::Lease,
        api::discovery::v1::EndpointSlice,
        api::events::v1::Event,
        api::node::v1::RuntimeClass,
        api::policy::v1::Eviction,
        api::policy::v1::PodDisruptionBudget,
        api::scheduling::v1::PriorityClass,
        api::storage::v1::CSINode,
        k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions,
        k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta,
        k8s_openapi::apimachinery::pkg::apis::meta::v1::Status,
    );
    generator.take_definitions(true)
}

impl Types {
    fn from_definitions(definitions: &Map<String, Value>) -> Types {
        let named: Vec<(&String, &Value)> = definitions
            .iter()
            .filter(|(_, schema)| schema.get("properties").is_some())
            .collect();
        let by_name: HashMap<String, TypeId> = named
            .iter()
            .enumerate()
            .map(|(place, (name, _))| (short(name).to_owned(), TypeId(place)))
            .collect();
        let mut types = Types {
            types: Vec::new(),
            shapes: (0..by_name.len())
                .map(|place| Shape::Object(TypeId(place)))
                .collect(),
            by_name,
        };
        for (name, schema) in named {
            let made = types.read_type(short(name), schema, definitions);
            types.types.push(made);
        }
        types
    }

    fn read_type(&self, name: &str, schema: &Value, definitions: &Map<String, Value>) -> Type {
        let properties = schema["properties"].as_object();
        let fields = properties.into_iter().flatten().map(|(field, schema)| {
            let fact = FACTS
                .iter()
                .find(|fact| fact.definition == name && fact.field == field);
            let field_type = Field {
                shape: self.read_shape(schema, definitions),
                merge: fact.map(|fact| fact.list).unwrap_or_default(),
                patch: fact.map(|fact| fact.patch).unwrap_or_default(),
            };
            (field.clone(), field_type)
        });
        Type {
            name: name.to_owned(),
            fields: fields.collect(),
            required: schema["required"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|field| field.as_str().map(str::to_owned))
                .collect(),
            atomic: ATOMIC_TYPES.contains(&name),
        }
    }

    fn read_shape(&self, schema: &Value, definitions: &Map<String, Value>) -> Shape {
        if let Some(name) = reference(schema) {
            if name == "io.k8s.apimachinery.pkg.api.resource.Quantity" {
                return Shape::Quantity;
            }
            if let Some(id) = self.named(short(name)) {
                return Shape::Object(id);
            }
            return match definitions.get(name) {
                Some(schema) => self.read_shape(schema, definitions),
                None => Shape::Anything,
            };
        }
        if schema.get("x-kubernetes-int-or-string").is_some() {
            return Shape::IntOrString;
        }
        let format = schema["format"].as_str();
        match schema["type"].as_str() {
            Some("string") if format == Some("date-time") => Shape::Time,
            Some("string") if format == Some("byte") => Shape::Bytes,
            Some("string") => Shape::Text,
            Some("integer") => Shape::Integer {
                narrow: format == Some("int32"),
            },
            Some("number") => Shape::Number,
            Some("boolean") => Shape::Boolean,
            Some("array") => Shape::List(Box::new(self.read_shape(&schema["items"], definitions))),
            Some("object") => match schema.get("additionalProperties") {
                Some(values) if values.is_object() => {
                    Shape::Map(Box::new(self.read_shape(values, definitions)))
                }
                _ => Shape::Anything,
            },
            _ => Shape::Anything,
        }
    }
}

/// The definition that a schema refers to.
pub(super) fn reference(schema: &Value) -> Option<&str> {
    schema.get("$ref")?.as_str()?.strip_prefix("#/$defs/")
}

/// A definition's name without what all of them begin with.
fn short(name: &str) -> &str {
    name.strip_prefix("io.k8s.").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::{
        Shape,
        facts::{ATOMIC_TYPES, FACTS, KEY_DEFAULTS, Merge},
        types,
    };
    use crate::api::kind::KINDS;

    #[test]
    fn every_served_kind_has_a_type_with_metadata() {
        for kind in KINDS {
            let id = types().of(kind);
            assert!(
                types().field(id, "metadata").is_some(),
                "{} has no metadata",
                kind.kind
            );
        }
    }

    #[test]
    fn every_fact_is_about_a_field_that_exists() {
        for fact in FACTS {
            let id = types()
                .named(fact.definition)
                .unwrap_or_else(|| panic!("no type {}", fact.definition));
            let field = types().field(id, fact.field);
            let field = field.unwrap_or_else(|| panic!("no field {fact:?}"));
            if let Merge::Map(keys) = fact.list {
                let Shape::List(item) = &field.shape else {
                    panic!("{fact:?} is not a list");
                };
                let Shape::Object(item) = **item else {
                    panic!("{fact:?} has no objects");
                };
                for key in keys {
                    assert!(types().field(item, key).is_some(), "{fact:?} {key}");
                }
            }
        }
        for name in ATOMIC_TYPES {
            assert!(types().named(name).is_some(), "{name}");
        }
        for (name, field, _) in KEY_DEFAULTS {
            let id = types().named(name).unwrap();
            assert!(types().field(id, field).is_some());
        }
    }

    #[test]
    fn shapes_are_read_through_references() {
        let container = types().named("api.core.v1.Container").unwrap();
        let shape = |name: &str| types().field(container, name).unwrap().shape.clone();
        assert_eq!(shape("image"), Shape::Text);
        assert_eq!(shape("command"), Shape::List(Box::new(Shape::Text)));
        assert!(matches!(shape("resources"), Shape::Object(_)));
        let meta = types()
            .named("apimachinery.pkg.apis.meta.v1.ObjectMeta")
            .unwrap();
        let created = types().field(meta, "creationTimestamp").unwrap();
        assert_eq!(created.shape, Shape::Time);
        let resources = types().named("api.core.v1.ResourceRequirements").unwrap();
        assert_eq!(
            types().field(resources, "limits").unwrap().shape,
            Shape::Map(Box::new(Shape::Quantity))
        );
    }
}
