//! From bytes to the specification's types.
//!
//! The types are a library's. Where it spells a word otherwise than the
//! specification does, the specification's word is put right here, and only
//! once a first reading has failed: a configuration without such a word is read
//! as it is.

use serde::de::DeserializeOwned;

/// The specification's word, and the library's.
const MISSPELT: &[(&str, &str)] = &[
    ("\"SCHED_FLAG_RESET_ON_FORK\"", "\"SCHED_RESET_ON_FORK\""),
    ("\"SCHED_FLAG_DL_OVERRUN\"", "\"SCHED_FLAG_D_L_OVERRUN\""),
];

/// Reads a configuration or a part of one.
///
/// # Errors
///
/// That of the first reading, in the words of serde_json: field, line, column.
pub fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(bytes).or_else(|error| respelt(bytes).ok_or(error))
}

fn respelt<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let mut text = std::str::from_utf8(bytes).ok()?.to_owned();
    for (ours, theirs) in MISSPELT {
        text = text.replace(ours, theirs);
    }
    serde_json::from_str(&text).ok()
}
