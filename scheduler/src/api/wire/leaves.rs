//! Types that have a JSON form of their own.
//!
//! ```text
//!  Time, MicroTime  { 1 seconds, 2 nanos }               "2026-01-02T03:04:05Z", null when empty
//!  Quantity         { 1 string }                         "500m"
//!  IntOrString      { 1 type, 2 intVal, 3 strVal }       80 or "http"
//!  Raw              { 1 bytes }                          the JSON that the bytes are
//! ```

use jiff::Timestamp;
use serde_json::Value;

use super::{WireError, scan::Scanner};
use crate::manifest::quantity as quantities;

/// A moment to the second.
///
/// # Errors
///
/// If it is none, or one that nobody can write down.
pub fn time(bytes: &[u8]) -> Result<Value, WireError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (seconds, _) = read_time(bytes)?;
    let moment = Timestamp::from_second(seconds)
        .map_err(|_| WireError::new(format!("{seconds} seconds are no time of the calendar")))?;
    Ok(Value::String(moment.to_string()))
}

/// A moment to the millionth of a second.
///
/// # Errors
///
/// If it is none, or one that nobody can write down.
pub fn micro_time(bytes: &[u8]) -> Result<Value, WireError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (seconds, nanos) = read_time(bytes)?;
    // Go cuts what is finer, towards zero, before it adds.
    let micros = i128::from(seconds) * 1_000_000 + i128::from(nanos / 1000);
    let moment = Timestamp::from_nanosecond(micros * 1000)
        .map_err(|_| WireError::new(format!("{seconds} seconds are no time of the calendar")))?;
    Ok(Value::String(format!("{moment:.6}")))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "negative numbers are sent in two's complement, those of 32 bits with 64"
)]
fn read_time(bytes: &[u8]) -> Result<(i64, i32), WireError> {
    let (mut seconds, mut nanos) = (0, 0);
    let mut scanner = Scanner::new(bytes);
    while let Some((number, content)) = scanner.next_field()? {
        match number {
            1 => seconds = content.number()? as i64,
            2 => nanos = content.number()? as i32,
            _ => {}
        }
    }
    Ok((seconds, nanos))
}

/// An amount, in its canonical form.
///
/// # Errors
///
/// If it is none.
pub fn quantity(bytes: &[u8]) -> Result<Value, WireError> {
    let mut text = "0".to_owned();
    let mut scanner = Scanner::new(bytes);
    while let Some((number, content)) = scanner.next_field()? {
        if number == 1 {
            text = content.text()?;
        }
    }
    quantities::canonical(&text)
        .map(Value::String)
        .ok_or_else(|| WireError::new(format!("{text:?} is no quantity such as 500m or 64Mi")))
}

/// A whole number or a string.
///
/// # Errors
///
/// If it is neither.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a negative number of 32 bits is sent with 64 of them"
)]
pub fn int_or_string(bytes: &[u8]) -> Result<Value, WireError> {
    let (mut kind, mut number, mut text) = (0, 0, String::new());
    let mut scanner = Scanner::new(bytes);
    while let Some((field, content)) = scanner.next_field()? {
        match field {
            1 => kind = content.number()?,
            2 => number = content.number()? as i32,
            3 => text = content.text()?,
            _ => {}
        }
    }
    match kind {
        0 => Ok(Value::from(number)),
        1 => Ok(Value::String(text)),
        other => Err(WireError::new(format!(
            "type {other} is neither a number (0) nor a string (1)"
        ))),
    }
}

/// The JSON that the bytes are.
///
/// # Errors
///
/// If they are none.
pub fn raw(bytes: &[u8]) -> Result<Value, WireError> {
    let mut text: &[u8] = &[];
    let mut scanner = Scanner::new(bytes);
    while let Some((number, content)) = scanner.next_field()? {
        if number == 1 {
            text = content.bytes()?;
        }
    }
    if text.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(text)
        .map_err(|error| WireError::new(format!("its bytes are not JSON: {error}")))
}
