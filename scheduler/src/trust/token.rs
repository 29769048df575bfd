//! The words of a join token.
//!
//! ```text
//! berth-1-k3v9xq.8zq2m4c7w1n5b0tj-e3b0c44298fc1c14…
//!       │ │      │                └ SHA-256 of the authority's public key, 64 hex digits
//!       │ │      └ the secret: 16 of a-z0-9, 82 bits
//!       │ └ the token's own name: 6 of a-z0-9, no secret
//!       └ the form's version
//! ```
//!
//! `k3v9xq.8zq2m4c7w1n5b0tj` alone is a bootstrap token as `kubeadm` has it.

use std::fmt;
use std::str::FromStr;

use rand::RngExt as _;
use subtle::ConstantTimeEq as _;

use super::credential::hexadecimal;

const PREFIX: &str = "berth-1-";
const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;
const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// What is wrong with the words of a token. It never holds the words themselves.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token of this form.
    #[error(
        "the token is not one: expected berth-1-ID.SECRET-HASH as 'berth cluster token create' prints it, and {0}"
    )]
    Form(&'static str),
    /// A form of a later berth.
    #[error("the token has form {0}; this berth reads form 1")]
    Version(String),
}

/// What proves to a server that a machine was invited.
#[derive(Clone, PartialEq, Eq)]
pub struct Invitation {
    /// The token's name, which is no secret.
    pub id: String,
    secret: String,
}

/// A secret is not for logs.
impl fmt::Debug for Invitation {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "Invitation({})", self.id)
    }
}

impl Invitation {
    /// Makes a new one.
    pub fn create() -> Invitation {
        Invitation {
            id: word(ID_LENGTH),
            secret: word(SECRET_LENGTH),
        }
    }

    /// The invitation of these words.
    ///
    /// # Errors
    ///
    /// They have another length or other letters.
    pub fn new(id: &str, secret: &str) -> Result<Invitation, TokenError> {
        if !is_word(id, ID_LENGTH) {
            return Err(TokenError::Form("ID to be 6 of a-z0-9"));
        }
        if !is_word(secret, SECRET_LENGTH) {
            return Err(TokenError::Form("SECRET to be 16 of a-z0-9"));
        }
        Ok(Invitation {
            id: id.to_owned(),
            secret: secret.to_owned(),
        })
    }

    /// What only the cluster and the invited know.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// Whether this is the secret, in a time that does not depend on where they differ.
    pub fn is_proved_by(&self, secret: &str) -> bool {
        self.secret.as_bytes().ct_eq(secret.as_bytes()).into()
    }
}

/// An invitation and the cluster that it is for.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// What proves that a machine was invited.
    pub invitation: Invitation,
    /// The SHA-256 of the public key of the cluster's authority.
    pub authority: [u8; 32],
}

/// A secret is not for logs.
impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(
            formatter,
            "Token({}, {})",
            self.invitation.id,
            hexadecimal(&self.authority)
        )
    }
}

impl Token {
    /// The words to tell another machine. They hold the secret.
    pub fn words(&self) -> String {
        format!(
            "{PREFIX}{}.{}-{}",
            self.invitation.id,
            self.invitation.secret,
            hexadecimal(&self.authority)
        )
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(words: &str) -> Result<Token, TokenError> {
        let words = words.trim();
        let Some(rest) = words.strip_prefix(PREFIX) else {
            let version = words.strip_prefix("berth-").and_then(|rest| {
                let (version, _) = rest.split_once('-')?;
                let digits = version.bytes().all(|byte| byte.is_ascii_digit());
                (digits && !version.is_empty()).then(|| version.to_owned())
            });
            return Err(match version {
                Some(version) => TokenError::Version(version),
                None => TokenError::Form("it to begin with berth-1-"),
            });
        };
        let (invitation, hash) = rest
            .split_once('-')
            .ok_or(TokenError::Form("a '-' before the hash"))?;
        let (id, secret) = invitation
            .split_once('.')
            .ok_or(TokenError::Form("a '.' between ID and SECRET"))?;
        Ok(Token {
            invitation: Invitation::new(id, secret)?,
            authority: parse_hash(hash)
                .ok_or(TokenError::Form("HASH to be 64 hexadecimal digits"))?,
        })
    }
}

fn parse_hash(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut hash = [0; 32];
    for (place, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * place..2 * place + 2)?, 16).ok()?;
    }
    Some(hash)
}

fn is_word(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| ALPHABET.contains(&byte))
}

fn word(length: usize) -> String {
    let mut random = rand::rng();
    (0..length)
        .map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())]))
        .collect()
}
