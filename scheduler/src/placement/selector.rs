//! Selectors of labels, compiled to numbers.
//!
//! The same four operators select pods and nodes; nodes have `Gt` and `Lt` too.
//! As in Kubernetes a missing label satisfies `NotIn` and `DoesNotExist`, a
//! missing selector selects nothing, and an empty one everything.
//!
//! Read more: "Labels and Selectors" in the Kubernetes documentation.

use k8s_openapi::{
    api::core::v1::NodeSelectorRequirement, apimachinery::pkg::apis::meta::v1::LabelSelector,
};

use crate::placement::symbol::{Labels, Symbol, Symbols};

/// What is asked of one label.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Operator {
    /// One of these values.
    In(Vec<Symbol>),
    /// None of these values, or no such label.
    NotIn(Vec<Symbol>),
    /// Any value.
    Exists,
    /// No such label.
    DoesNotExist,
    /// A whole number above this one.
    Above(i64),
    /// A whole number below this one.
    Below(i64),
    /// An operator that nobody knows: the API refuses it, and nothing fits it.
    Unknown,
}

/// A demand on one label.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Requirement {
    /// The label's key.
    pub key: Symbol,
    /// What its value must be.
    pub operator: Operator,
}

impl Requirement {
    /// A label with exactly this value.
    pub fn equal(key: Symbol, value: Symbol) -> Requirement {
        Requirement {
            key,
            operator: Operator::In(vec![value]),
        }
    }

    /// As an object of the API writes it.
    pub fn read(
        symbols: &mut Symbols,
        key: &str,
        operator: &str,
        values: Option<&[String]>,
    ) -> Requirement {
        let values = values.unwrap_or_default();
        let mut listed = || {
            let mut all: Vec<Symbol> = values.iter().map(|value| symbols.intern(value)).collect();
            all.sort_unstable();
            all
        };
        let number = values.first().and_then(|value| value.parse::<i64>().ok());
        let operator = match (operator, number) {
            ("In", _) => Operator::In(listed()),
            ("NotIn", _) => Operator::NotIn(listed()),
            ("Exists", _) => Operator::Exists,
            ("DoesNotExist", _) => Operator::DoesNotExist,
            ("Gt", Some(number)) => Operator::Above(number),
            ("Lt", Some(number)) => Operator::Below(number),
            _ => Operator::Unknown,
        };
        Requirement {
            key: symbols.intern(key),
            operator,
        }
    }

    /// A node's requirement.
    pub fn of_node(symbols: &mut Symbols, source: &NodeSelectorRequirement) -> Requirement {
        Requirement::read(
            symbols,
            &source.key,
            &source.operator,
            source.values.as_deref(),
        )
    }

    /// Whether labels satisfy it.
    pub fn matches(&self, labels: &Labels, symbols: &Symbols) -> bool {
        self.admits(labels.value(self.key), symbols)
    }

    /// Whether a value, or none, satisfies it.
    pub fn admits(&self, value: Option<Symbol>, symbols: &Symbols) -> bool {
        let number = || value.and_then(|value| symbols.text(value).parse::<i64>().ok());
        match &self.operator {
            Operator::In(values) => value.is_some_and(|value| values.contains(&value)),
            Operator::NotIn(values) => value.is_none_or(|value| !values.contains(&value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Above(bound) => number().is_some_and(|number| number > *bound),
            Operator::Below(bound) => number().is_some_and(|number| number < *bound),
            Operator::Unknown => false,
        }
    }
}

/// A selector of labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Selector {
    /// Selects nothing: the object had no selector.
    Nothing,
    /// Selects what satisfies every requirement; none means everything.
    All(Vec<Requirement>),
}

impl Selector {
    /// An object's selector.
    pub fn read(symbols: &mut Symbols, source: Option<&LabelSelector>) -> Selector {
        let Some(source) = source else {
            return Selector::Nothing;
        };
        let mut all: Vec<Requirement> = source
            .match_labels
            .iter()
            .flatten()
            .map(|(key, value)| Requirement::equal(symbols.intern(key), symbols.intern(value)))
            .collect();
        all.extend(source.match_expressions.iter().flatten().map(|wanted| {
            Requirement::read(
                symbols,
                &wanted.key,
                &wanted.operator,
                wanted.values.as_deref(),
            )
        }));
        Selector::All(all)
    }

    /// Whether labels satisfy it.
    pub fn matches(&self, labels: &Labels, symbols: &Symbols) -> bool {
        match self {
            Selector::Nothing => false,
            Selector::All(all) => all.iter().all(|one| one.matches(labels, symbols)),
        }
    }

    /// Narrows the selector by one more requirement.
    pub fn require(&mut self, requirement: Requirement) {
        if let Selector::All(all) = self
            && !all.contains(&requirement)
        {
            all.push(requirement);
        }
    }

    /// A label that everything selected has with this value, if one is sure.
    ///
    /// Selectors are found by it: a pod is only compared with those whose pair
    /// it carries, and with the few that have none.
    pub fn sure_pair(&self) -> Option<(Symbol, Symbol)> {
        let Selector::All(all) = self else {
            return None;
        };
        all.iter().find_map(|one| match &one.operator {
            Operator::In(values) if values.len() == 1 => Some((one.key, values[0])),
            _ => None,
        })
    }
}
