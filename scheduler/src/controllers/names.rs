//! Names that tell generated objects apart.

use rand::RngExt;
use serde::Serialize;
use sha2::{Digest, Sha256};

/// No vowels and nothing that looks like another letter: no word comes out by
/// chance, and nobody reads a name wrong.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The longest name of most objects, a label of DNS.
const LONGEST: usize = 63;

/// The longest prefix of a generated name: five letters follow.
const LONGEST_PREFIX: usize = LONGEST - 5;

/// `prefix` and five letters by chance.
pub fn generate(prefix: &str) -> String {
    let mut random = rand::rng();
    let letters = (0..5).map(|_| random.random_range(0..ALPHABET.len()));
    let suffix: String = letters.map(|at| char::from(ALPHABET[at])).collect();
    format!("{}{suffix}", cut(prefix, LONGEST_PREFIX))
}

/// `prefix`, a dash, and `suffix`, the prefix cut where both are too long.
pub fn joined(prefix: &str, suffix: &str) -> String {
    let room = LONGEST.saturating_sub(suffix.len() + 1);
    format!("{}-{suffix}", cut(prefix, room))
}

fn cut(text: &str, longest: usize) -> &str {
    let mut end = text.len().min(longest);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Ten letters that stand for a value, and for how often they already stood for
/// another one (`collisions`).
pub fn hash<T: Serialize>(value: &T, collisions: i32) -> String {
    let mut hasher = Sha256::new();
    // Struct fields and sorted maps: equal values are equal bytes.
    hasher.update(super::cluster::json_of(value).to_string());
    hasher.update(collisions.to_le_bytes());
    let digest = hasher.finalize();
    let letter = |byte: &u8| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]);
    digest[..10].iter().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::{generate, hash, joined};

    #[test]
    fn generated_names_differ_and_stay_within_a_label() {
        let (one, two) = (generate("web-"), generate("web-"));
        assert_ne!(one, two);
        assert_eq!(one.len(), 9);
        assert_eq!(generate(&"x".repeat(200)).len(), 63);
        assert_eq!(joined(&"x".repeat(200), "29384720").len(), 63);
        assert_eq!(joined("backup", "29384720"), "backup-29384720");
    }

    #[test]
    fn a_hash_is_of_the_value_and_the_collisions() {
        assert_eq!(hash(&["a"], 0), hash(&["a"], 0));
        assert_ne!(hash(&["a"], 0), hash(&["b"], 0));
        assert_ne!(hash(&["a"], 0), hash(&["a"], 1));
        assert_eq!(hash(&["a"], 0).len(), 10);
    }
}
