//! The name of content: `sha256:` and 64 hexadecimal digits.
//!
//! Everything in the store is named by what it holds, so a name that came from
//! a trusted manifest is also the proof of the bytes (OCI image-spec,
//! descriptor.md#digests). The proof counts only once the *last* byte was
//! hashed: until then nothing may carry the name.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::images::error::{Error, ErrorKind};

/// A SHA-256 digest in its written form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

const PREFIX: &str = "sha256:";

impl Digest {
    /// The digest of bytes at hand.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest::from_hash(Sha256::digest(bytes).as_slice())
    }

    /// The 64 hexadecimal digits, as they name a file.
    pub fn hex(&self) -> &str {
        &self.0[PREFIX.len()..]
    }

    /// `sha256:` and the digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Checks bytes against this name.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`] when they have another digest.
    pub fn verify(&self, found: &Digest, what: &str) -> Result<(), Error> {
        if self == found {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Corrupt,
            format!("{what} should have the digest {self} but has {found}; it was not kept"),
        ))
    }

    fn from_hash(hash: &[u8]) -> Digest {
        use fmt::Write as _;
        let mut text = String::with_capacity(PREFIX.len() + 64);
        text.push_str(PREFIX);
        for byte in hash {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        Digest(text)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Digest, Error> {
        let is_hex = |hex: &str| {
            hex.len() == 64
                && hex
                    .bytes()
                    .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        match text.strip_prefix(PREFIX) {
            Some(hex) if is_hex(hex) => Ok(Digest(text.to_owned())),
            Some(_) => Err(Error::new(
                ErrorKind::InvalidInput,
                format!("the digest {text:?} must have 64 lower-case hexadecimal digits"),
            )),
            None => Err(Error::new(
                ErrorKind::Unsupported,
                format!("the digest {text:?} is not a sha256 digest, the only kind that is read"),
            )),
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;

    fn try_from(text: String) -> Result<Digest, Error> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Hashes and counts what passes through it.
pub(crate) struct HashingReader<R> {
    inner: R,
    hash: Sha256,
    bytes: u64,
}

impl<R: Read> HashingReader<R> {
    pub(crate) fn new(inner: R) -> HashingReader<R> {
        HashingReader {
            inner,
            hash: Sha256::new(),
            bytes: 0,
        }
    }

    /// Reads what is left, for a digest covers all of a stream and a parser
    /// stops where its format ends.
    pub(crate) fn finish(mut self) -> io::Result<(Digest, u64, R)> {
        let mut rest = vec![0; 64 * 1024];
        while self.read(&mut rest)? > 0 {}
        Ok((
            Digest::from_hash(self.hash.finalize().as_slice()),
            self.bytes,
            self.inner,
        ))
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        self.bytes += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_nothing_is_the_known_one() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").as_str(), empty);
        let (digest, bytes, _) = HashingReader::new(io::empty()).finish().unwrap();
        assert_eq!((digest.as_str(), bytes), (empty, 0));
    }

    #[test]
    fn digests_that_could_name_another_file_are_refused() {
        let long = format!("sha256:{}", "a".repeat(65));
        let upper = format!("sha256:{}", "A".repeat(64));
        let path = format!("sha256:../{}", "a".repeat(61));
        for text in ["", "sha256:", "sha256", &long, &upper, &path, "md5:aa"] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_rest_of_a_stream_belongs_to_its_digest() {
        let mut reader = HashingReader::new(&b"abcdef"[..]);
        let mut head = [0; 2];
        reader.read_exact(&mut head).unwrap();
        let (digest, bytes, _) = reader.finish().unwrap();
        assert_eq!((digest, bytes), (Digest::of(b"abcdef"), 6));
    }
}
