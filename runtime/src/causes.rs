//! An error with its causes as one line of text.
//!
//! An error's own text does not hold its source's, so that each is told once;
//! whoever prints, or hands the text to another process, joins them here.

/// An error and its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        // Transparent errors repeat their source.
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::chain;
    use std::io;

    #[derive(Debug, thiserror::Error)]
    enum Outer {
        #[error("cannot open the door")]
        Step(#[source] io::Error),
        #[error(transparent)]
        Same(io::Error),
    }

    #[test]
    fn every_cause_is_told_once() {
        let cause = || io::Error::other("it is locked");
        let told = "cannot open the door: it is locked";
        assert_eq!(chain(&Outer::Step(cause())), told);
        assert_eq!(chain(&io::Error::other(Outer::Step(cause()))), told);
        assert_eq!(chain(&Outer::Same(cause())), "it is locked");
    }
}
