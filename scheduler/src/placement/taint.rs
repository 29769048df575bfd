//! Taints of nodes and the tolerations that bear them.
//!
//! Read more: "Taints and Tolerations" in the Kubernetes documentation.

use k8s_openapi::api::core::v1 as api;

use crate::placement::symbol::{Symbol, Symbols};

/// What a taint does to pods that do not tolerate it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// They are not placed here.
    NoSchedule,
    /// They are placed here only where nothing else is left.
    PreferNoSchedule,
    /// They are not placed here, and those that run are evicted.
    NoExecute,
}

impl Effect {
    fn read(text: &str) -> Option<Effect> {
        match text {
            "NoSchedule" => Some(Effect::NoSchedule),
            "PreferNoSchedule" => Some(Effect::PreferNoSchedule),
            "NoExecute" => Some(Effect::NoExecute),
            _ => None,
        }
    }

    /// Whether it keeps pods away.
    pub fn repels(self) -> bool {
        self != Effect::PreferNoSchedule
    }
}

/// A node's taint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taint {
    /// Its key.
    pub key: Symbol,
    /// Its value, often empty.
    pub value: Symbol,
    /// What it does.
    pub effect: Effect,
}

impl Taint {
    /// A taint of a node's object; one with an unknown effect does nothing.
    pub fn read(symbols: &mut Symbols, source: &api::Taint) -> Option<Taint> {
        Some(Taint {
            effect: Effect::read(&source.effect)?,
            key: symbols.intern(&source.key),
            value: symbols.intern(source.value.as_deref().unwrap_or_default()),
        })
    }
}

/// A pod's toleration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toleration {
    /// The taint's key; unset tolerates every key.
    key: Option<Symbol>,
    value: Wanted,
    /// The taint's effect; unset tolerates every effect.
    effect: Option<Effect>,
    /// An effect or operator that nobody knows tolerates nothing.
    known: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    Any,
    Equal(Symbol),
}

impl Toleration {
    /// A toleration of a pod's object.
    pub fn read(symbols: &mut Symbols, source: &api::Toleration) -> Toleration {
        let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let effect = text(&source.effect);
        let operator = text(&source.operator);
        let read = effect.as_deref().and_then(Effect::read);
        let equal = matches!(operator.as_deref(), None | Some("Equal"));
        Toleration {
            key: text(&source.key).map(|key| symbols.intern(&key)),
            value: if equal {
                Wanted::Equal(symbols.intern(source.value.as_deref().unwrap_or_default()))
            } else {
                Wanted::Any
            },
            effect: read,
            known: effect.is_some() == read.is_some()
                && matches!(operator.as_deref(), None | Some("Equal" | "Exists")),
        }
    }

    /// Whether it bears a taint.
    pub fn bears(&self, taint: &Taint) -> bool {
        self.bears_parts(Some(taint.key), Some(taint.value), taint.effect)
    }

    /// The same of a taint whose texts may have no number, because nothing holds them.
    pub fn bears_parts(&self, key: Option<Symbol>, value: Option<Symbol>, effect: Effect) -> bool {
        self.known
            && self.effect.is_none_or(|wanted| wanted == effect)
            && self.key.is_none_or(|wanted| Some(wanted) == key)
            && match self.value {
                Wanted::Any => true,
                Wanted::Equal(wanted) => Some(wanted) == value,
            }
    }

    /// Whether it says something about taints that are only disliked.
    pub fn is_about_preference(&self) -> bool {
        self.effect
            .is_none_or(|effect| effect == Effect::PreferNoSchedule)
    }
}

/// Whether any toleration bears the taint.
pub fn is_borne(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|toleration| toleration.bears(taint))
}
