//! One-time tokens: who holds the URL may do what was asked for, once.
//!
//! The kubelet asks over a socket that only root may open, and gets a URL that
//! anybody on the machine could try. 128 random bits, a minute and a single use
//! make trying hopeless.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::engine::error::{Error, ErrorKind};

/// How long a URL is good for.
pub const TOKEN_LIFE: Duration = Duration::from_secs(60);
/// URLs that may wait to be used.
pub const TOKEN_LIMIT: usize = 1000;

/// Requests that wait for their client.
#[derive(Debug)]
pub struct Tokens<T> {
    waiting: Mutex<Vec<Waiting<T>>>,
}

#[derive(Debug)]
struct Waiting<T> {
    token: String,
    until: Instant,
    request: T,
}

impl<T> Default for Tokens<T> {
    fn default() -> Self {
        Self {
            waiting: Mutex::new(Vec::new()),
        }
    }
}

impl<T> Tokens<T> {
    /// A token for a request, made at this time.
    ///
    /// # Errors
    ///
    /// `Unavailable` while too many wait.
    pub fn issue(&self, now: Instant, request: T) -> Result<String, Error> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|entry| entry.until > now);
        if waiting.len() >= TOKEN_LIMIT {
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!(
                    "{TOKEN_LIMIT} streaming requests wait for their clients already; no URL was made"
                ),
            ));
        }
        let token = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>());
        waiting.push(Waiting {
            token: token.clone(),
            until: now + TOKEN_LIFE,
            request,
        });
        Ok(token)
    }

    /// The request of a token, which is of no use from then on.
    pub fn redeem(&self, now: Instant, token: &str) -> Option<T> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|entry| entry.until > now);
        // All are compared, each to its end: the time taken tells nothing of how
        // much of a guess was right.
        let mut found = None;
        for (place, entry) in waiting.iter().enumerate() {
            if same(entry.token.as_bytes(), token.as_bytes()) {
                found = Some(place);
            }
        }
        found.map(|place| waiting.swap_remove(place).request)
    }
}

fn same(left: &[u8], right: &[u8]) -> bool {
    let differences = left
        .iter()
        .zip(right)
        .fold(0, |differences, (a, b)| differences | (a ^ b));
    // Hidden from the optimiser, which could leave the fold at the first difference.
    left.len() == right.len() && std::hint::black_box(differences) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_once_and_for_a_minute() {
        let now = Instant::now();
        let tokens = Tokens::default();
        let token = tokens.issue(now, 7).unwrap();
        assert_eq!(token.len(), 22);
        assert_eq!(tokens.redeem(now, "x"), None);
        assert_eq!(tokens.redeem(now, ""), None);
        assert_eq!(tokens.redeem(now, &token[..21]), None);
        assert_eq!(tokens.redeem(now, &token), Some(7));
        assert_eq!(tokens.redeem(now, &token), None);
        let late = tokens.issue(now, 8).unwrap();
        assert_eq!(tokens.redeem(now + TOKEN_LIFE, &late), None);
    }

    #[test]
    fn a_thousand_may_wait() {
        let now = Instant::now();
        let tokens = Tokens::default();
        for number in 0..TOKEN_LIMIT {
            tokens.issue(now, number).unwrap();
        }
        let error = tokens.issue(now, 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        tokens.issue(now + TOKEN_LIFE, 0).unwrap();
    }
}
