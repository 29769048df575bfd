//! Header blocks: names and values, compressed.
//!
//! ```text
//! +------------------------------------+
//! | Number of Name/Value pairs (int32) |
//! +------------------------------------+
//! |     Length of name (int32)         |
//! +------------------------------------+
//! |           Name (string)            |
//! +------------------------------------+
//! |     Length of value  (int32)       |
//! +------------------------------------+
//! |          Value   (string)          |
//! +------------------------------------+
//! |           (repeats)                |
//! ```
//!
//! All blocks of one direction are one zlib stream: each ends with a sync flush,
//! and the next one may refer to words of the ones before. So a block that is of
//! no interest has to be inflated all the same, and one that is broken breaks
//! the connection. The limits below hold what comes *out*: a few bytes of
//! deflate can stand for megabytes.
//!
//! Read more: draft-mbelshe-httpbis-spdy-00, section 2.6.10.

use std::fmt;

use bytes::{Buf, BufMut, Bytes};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::dictionary::DICTIONARY;

/// The most that a block may hold once inflated.
pub const BLOCK_LIMIT_BYTES: usize = 64 << 10;
/// The most pairs in a block.
pub const PAIR_LIMIT: u32 = 128;

/// Names, in lower case, with their values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers {
    pairs: Vec<(String, String)>,
}

/// What is wrong with a header block. The connection cannot go on after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderError {
    /// Not a continuation of the zlib stream.
    Deflate,
    /// More than the limits allow.
    TooLong,
    /// It ends in the middle of a pair, or goes on after the last.
    Cut,
    /// A name that is empty, in upper case or there twice, or no UTF-8.
    Text(String),
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeaderError::Deflate => f.write_str("a SPDY header block that cannot be inflated"),
            HeaderError::TooLong => write!(
                f,
                "a SPDY header block of more than {} KiB or {PAIR_LIMIT} pairs",
                BLOCK_LIMIT_BYTES >> 10
            ),
            HeaderError::Cut => f.write_str("a SPDY header block whose lengths do not add up"),
            HeaderError::Text(what) => write!(f, "a SPDY header block with {what}"),
        }
    }
}

impl std::error::Error for HeaderError {}

impl Headers {
    /// Of pairs; the names must be in lower case.
    pub fn new(pairs: &[(&str, &str)]) -> Self {
        let pairs = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Self { pairs }
    }

    /// The value of a name, the first one where several are joined by NUL.
    pub fn value(&self, name: &str) -> Option<&str> {
        let (_, value) = self.pairs.iter().find(|(key, _)| key == name)?;
        value.split('\0').next()
    }

    fn write(&self) -> Vec<u8> {
        let mut plain = Vec::new();
        plain.put_u32(self.pairs.len() as u32);
        for (name, value) in &self.pairs {
            for text in [name, value] {
                plain.put_u32(text.len() as u32);
                plain.put_slice(text.as_bytes());
            }
        }
        plain
    }

    fn read(mut plain: &[u8]) -> Result<Self, HeaderError> {
        let count = plain.try_get_u32().map_err(|_| HeaderError::Cut)?;
        if count > PAIR_LIMIT {
            return Err(HeaderError::TooLong);
        }
        let mut pairs: Vec<(String, String)> = Vec::new();
        for _ in 0..count {
            let name = read_text(&mut plain)?;
            let value = read_text(&mut plain)?;
            if name.is_empty() || name.bytes().any(|byte| byte.is_ascii_uppercase()) {
                return Err(HeaderError::Text(format!(
                    "the name {name:?}, which is not in lower case"
                )));
            }
            if pairs.iter().any(|(other, _)| *other == name) {
                return Err(HeaderError::Text(format!("the name {name:?} twice")));
            }
            pairs.push((name, value));
        }
        if !plain.is_empty() {
            return Err(HeaderError::Cut);
        }
        Ok(Self { pairs })
    }
}

fn read_text(plain: &mut &[u8]) -> Result<String, HeaderError> {
    let length = plain.try_get_u32().map_err(|_| HeaderError::Cut)? as usize;
    let (text, rest) = plain.split_at_checked(length).ok_or(HeaderError::Cut)?;
    *plain = rest;
    String::from_utf8(text.to_vec())
        .map_err(|_| HeaderError::Text("bytes that are not UTF-8".to_owned()))
}

/// Inflates the blocks of one direction, in the order of their frames.
#[derive(Debug)]
pub struct Inflater {
    zlib: Decompress,
}

impl Default for Inflater {
    fn default() -> Self {
        Self {
            zlib: Decompress::new(true),
        }
    }
}

impl Inflater {
    /// The names and values of the next block.
    ///
    /// # Errors
    ///
    /// The block is broken or too long; all later ones are lost too.
    pub fn read(&mut self, block: &Bytes) -> Result<Headers, HeaderError> {
        let mut plain = Vec::with_capacity(4096);
        let begin = self.zlib.total_in();
        loop {
            let used = (self.zlib.total_in() - begin) as usize;
            let filled = plain.len();
            let input = block.get(used..).unwrap_or_default();
            let outcome = self
                .zlib
                .decompress_vec(input, &mut plain, FlushDecompress::Sync);
            match outcome {
                Ok(Status::StreamEnd) => return Err(HeaderError::Deflate),
                Ok(Status::Ok | Status::BufError) => {}
                // The head of the stream names the dictionary it was begun with.
                Err(error) if error.needs_dictionary().is_some() => {
                    self.zlib
                        .set_dictionary(&DICTIONARY)
                        .map_err(|_| HeaderError::Deflate)?;
                    continue;
                }
                Err(_) => return Err(HeaderError::Deflate),
            }
            if plain.len() > BLOCK_LIMIT_BYTES {
                return Err(HeaderError::TooLong);
            }
            let used_now = (self.zlib.total_in() - begin) as usize;
            if used_now == block.len() && plain.len() < plain.capacity() {
                return Headers::read(&plain);
            }
            if plain.len() == plain.capacity() {
                plain.reserve(4096);
            } else if used_now == used && plain.len() == filled {
                // Room on both sides, and yet nothing moves.
                return Err(HeaderError::Deflate);
            }
        }
    }
}

/// Deflates the blocks of one direction, in the order of their frames.
#[derive(Debug)]
pub struct Deflater {
    zlib: Compress,
}

impl Deflater {
    /// With the dictionary set.
    ///
    /// # Errors
    ///
    /// zlib does not take it.
    pub fn new() -> Result<Self, HeaderError> {
        let mut zlib = Compress::new(Compression::default(), true);
        zlib.set_dictionary(&DICTIONARY)
            .map_err(|_| HeaderError::Deflate)?;
        Ok(Self { zlib })
    }

    /// The next block.
    ///
    /// # Errors
    ///
    /// zlib fails.
    pub fn write(&mut self, headers: &Headers) -> Result<Bytes, HeaderError> {
        let plain = headers.write();
        let mut block = Vec::with_capacity(plain.len() + 64);
        let begin = self.zlib.total_in();
        loop {
            let used = (self.zlib.total_in() - begin) as usize;
            let input = plain.get(used..).unwrap_or_default();
            self.zlib
                .compress_vec(input, &mut block, FlushCompress::Sync)
                .map_err(|_| HeaderError::Deflate)?;
            // A flush is whole only if it left room in the output.
            if block.len() < block.capacity() {
                return Ok(block.into());
            }
            block.reserve(256);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_a_direction_are_one_stream() {
        let mut deflater = Deflater::new().unwrap();
        let mut inflater = Inflater::default();
        let mut sizes = Vec::new();
        for stream in ["stdin", "stdout", "stderr", "stdout"] {
            let headers = Headers::new(&[("streamtype", stream), ("x", &"y".repeat(5000))]);
            let block = deflater.write(&headers).unwrap();
            sizes.push(block.len());
            let read = inflater.read(&block).unwrap();
            assert_eq!(read, headers);
            assert_eq!(read.value("streamtype"), Some(stream));
        }
        assert!(sizes[3] < sizes[0], "{sizes:?}");
        let empty = deflater.write(&Headers::default()).unwrap();
        assert_eq!(inflater.read(&empty).unwrap(), Headers::default());
    }

    #[test]
    fn a_small_block_that_stands_for_much_is_refused() {
        let mut deflater = Deflater::new().unwrap();
        let headers = Headers::new(&[("bomb", &"a".repeat(4 << 20))]);
        let block = deflater.write(&headers).unwrap();
        assert!(block.len() < BLOCK_LIMIT_BYTES);
        assert_eq!(Inflater::default().read(&block), Err(HeaderError::TooLong));
    }

    #[test]
    fn names_that_http_would_join_are_refused() {
        for (pairs, word) in [
            (vec![("Upper", "x")], "lower case"),
            (vec![("", "x")], "lower case"),
            (vec![("a", "x"), ("a", "y")], "twice"),
        ] {
            let block = Deflater::new()
                .unwrap()
                .write(&Headers::new(&pairs))
                .unwrap();
            let error = Inflater::default().read(&block).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(block: Vec<u8>) {
            let _ = Inflater::default().read(&block.into());
        }

        #[test]
        fn no_plain_block_makes_it_panic(plain: Vec<u8>) {
            let _ = Headers::read(&plain);
        }
    }
}
