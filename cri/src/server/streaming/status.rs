//! How a program ended, in the words of the client's protocol.
//!
//! Version 4 and 5 of the protocol send a `Status` object of the Kubernetes API
//! on the error stream, so that a client can tell "the program ended with 7" from
//! "the program was not started". Versions 1 to 3 send a sentence, and nothing
//! when all went well.

use serde_json::{Value, json};

use crate::engine::error::Error;

/// How an exec or attach is told that it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wording {
    /// Nothing, or one sentence (v1 to v3).
    Sentence,
    /// A `Status` object (v4, v5).
    Object,
}

/// What goes over the error stream. Pure.
pub fn plan_report(wording: Wording, outcome: &Result<i32, Error>) -> Vec<u8> {
    let message = match outcome {
        Ok(0) => None,
        Ok(code) => Some(format!("command terminated with non-zero exit code {code}")),
        Err(error) => Some(format!("Internal error occurred: {}", error.chain())),
    };
    match (wording, message) {
        (Wording::Sentence, message) => message.unwrap_or_default().into_bytes(),
        (Wording::Object, None) => object(json!({ "metadata": {}, "status": "Success" })),
        (Wording::Object, Some(message)) => object(failure(outcome, &message)),
    }
}

fn failure(outcome: &Result<i32, Error>, message: &str) -> Value {
    match outcome {
        Ok(code) => json!({
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": "NonZeroExitCode",
            "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
        }),
        Err(error) => json!({
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": "InternalError",
            "details": { "causes": [{ "message": error.chain() }] },
            "code": 500,
        }),
    }
}

fn object(value: Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::error::ErrorKind;

    fn told(wording: Wording, outcome: Result<i32, Error>) -> String {
        String::from_utf8(plan_report(wording, &outcome)).unwrap()
    }

    #[test]
    fn old_clients_get_a_sentence_and_only_of_failures() {
        assert_eq!(told(Wording::Sentence, Ok(0)), "");
        assert!(told(Wording::Sentence, Ok(7)).ends_with("code 7"));
    }

    #[test]
    fn new_clients_find_the_exit_code_where_they_look_for_it() {
        let success: Value = serde_json::from_str(&told(Wording::Object, Ok(0))).unwrap();
        assert_eq!(success["status"], "Success");
        let seven: Value = serde_json::from_str(&told(Wording::Object, Ok(7))).unwrap();
        assert_eq!(seven["reason"], "NonZeroExitCode");
        assert_eq!(seven["details"]["causes"][0]["reason"], "ExitCode");
        assert_eq!(seven["details"]["causes"][0]["message"], "7");
        let error = Error::new(ErrorKind::Runtime, "no such program \"x\"");
        let failed: Value = serde_json::from_str(&told(Wording::Object, Err(error))).unwrap();
        assert_eq!(failed["reason"], "InternalError");
        assert_eq!(failed["code"], 500);
    }
}
