//! Texts as small numbers, so that comparing two labels compares two integers.
//!
//! A cluster of 5,000 nodes and 100,000 pods repeats a few thousand label keys
//! and values. Each is kept once; everything else holds its number. Numbers are
//! never given back: the loop builds a new snapshot when there are far more of
//! them than anything alive still names (`Snapshot::is_worn`).

use std::{collections::HashMap, sync::Arc};

/// The number of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Symbol(u32);

/// All texts that were given a number.
#[derive(Debug, Default)]
pub struct Symbols {
    texts: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, Symbol>,
}

impl Symbols {
    /// The number of a text, a new one if it has none.
    ///
    /// # Panics
    ///
    /// After four thousand million texts.
    pub fn intern(&mut self, text: &str) -> Symbol {
        if let Some(known) = self.numbers.get(text) {
            return *known;
        }
        let symbol = Symbol(u32::try_from(self.texts.len()).expect("fewer than 2^32 texts"));
        let text: Arc<str> = text.into();
        self.texts.push(text.clone());
        self.numbers.insert(text, symbol);
        symbol
    }

    /// The number of a text that may have none.
    pub fn find(&self, text: &str) -> Option<Symbol> {
        self.numbers.get(text).copied()
    }

    /// The text of a number.
    pub fn text(&self, symbol: Symbol) -> &str {
        &self.texts[symbol.0 as usize]
    }

    /// How many texts have a number.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether no text has one.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }
}

/// Labels in the order of their keys' numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Labels(Box<[(Symbol, Symbol)]>);

impl Labels {
    /// The labels of an object.
    pub fn read<'a>(
        symbols: &mut Symbols,
        labels: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> Labels {
        let mut pairs: Vec<(Symbol, Symbol)> = labels
            .into_iter()
            .map(|(key, value)| (symbols.intern(key), symbols.intern(value)))
            .collect();
        pairs.sort_unstable();
        Labels(pairs.into())
    }

    /// The value of a key.
    pub fn value(&self, key: Symbol) -> Option<Symbol> {
        // Objects have a handful of labels: a scan beats a search.
        self.0
            .iter()
            .find(|(known, _)| *known == key)
            .map(|(_, value)| *value)
    }

    /// Keys with their values.
    pub fn pairs(&self) -> &[(Symbol, Symbol)] {
        &self.0
    }
}
