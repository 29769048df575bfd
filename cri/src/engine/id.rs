//! Names that the engine gives to sandboxes and containers.
//!
//! 128 random bits in hexadecimal. Shorter than the 256 bits of other
//! runtimes on purpose: the id is part of the path of the monitor's socket, and
//! the kernel's `sockaddr_un` takes 107 bytes (unix(7)).

use super::error::{Error, ErrorKind};

/// Characters of an id.
pub const ID_LENGTH: usize = 32;

/// A fresh id that nobody else has.
pub fn random_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Whether a text is a whole id or the beginning of one.
///
/// Ids become parts of paths, so nothing else may reach the file system.
pub fn is_id_prefix(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= ID_LENGTH
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// The one id among `known` that is `wanted` or begins with it.
///
/// # Errors
///
/// `Invalid` when several begin with it; which they are is in the text.
pub fn choose_id(what: &str, wanted: &str, known: &[String]) -> Result<Option<String>, Error> {
    if !is_id_prefix(wanted) {
        return Ok(None);
    }
    let matches: Vec<&String> = known.iter().filter(|id| id.starts_with(wanted)).collect();
    match matches.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some((*one).clone())),
        several => Err(Error::new(
            ErrorKind::Invalid,
            format!(
                "{what} {wanted}: {} ids begin with it ({} and {}); more characters are needed",
                several.len(),
                several[0],
                several[1]
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_of_one_length_and_differ() {
        let (one, two) = (random_id(), random_id());
        assert_eq!(one.len(), ID_LENGTH);
        assert!(is_id_prefix(&one));
        assert_ne!(one, two);
    }

    #[test]
    fn a_path_is_no_id() {
        for text in ["", "..", "../a", "a/b", "ABC", "g", &"a".repeat(33)] {
            assert!(!is_id_prefix(text), "{text:?}");
        }
    }

    #[test]
    fn a_prefix_finds_one_and_refuses_several() {
        let known = ["abc1", "abd2", "f00"].map(str::to_owned);
        assert_eq!(
            choose_id("sandbox", "f", &known).unwrap().as_deref(),
            Some("f00")
        );
        assert_eq!(choose_id("sandbox", "e", &known).unwrap(), None);
        assert_eq!(choose_id("sandbox", "../", &known).unwrap(), None);
        let error = choose_id("sandbox", "ab", &known).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("abc1 and abd2"), "{error}");
    }
}
