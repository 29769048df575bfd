//! Extended regular expressions of the C library, regex(7): those that crun takes.

use std::ffi::CString;
use std::mem::MaybeUninit;

/// A compiled expression.
pub struct Regex {
    compiled: libc::regex_t,
}

impl Regex {
    /// `int regcomp(regex_t *, const char *, REG_EXTENDED | REG_NOSUB)`.
    ///
    /// # Errors
    ///
    /// The C library's words for what is wrong with the expression.
    pub fn compile(expression: &str) -> Result<Regex, String> {
        let text = CString::new(expression).map_err(|_| "a zero byte".to_owned())?;
        let mut compiled = MaybeUninit::<libc::regex_t>::zeroed();
        let flags = libc::REG_EXTENDED | libc::REG_NOSUB;
        // SAFETY: the text ends with a zero byte and both places outlive the call.
        let failed = unsafe { libc::regcomp(compiled.as_mut_ptr(), text.as_ptr(), flags) };
        if failed != 0 {
            return Err(words(failed, &compiled));
        }
        // SAFETY: regcomp(3) returned 0, so it has filled the structure in.
        let compiled = unsafe { compiled.assume_init() };
        Ok(Regex { compiled })
    }

    /// `int regexec(const regex_t *, const char *, 0, NULL, 0)`: whether any part of
    /// the text matches.
    pub fn matches(&self, text: &str) -> bool {
        let Ok(text) = CString::new(text) else {
            return false;
        };
        // SAFETY: the expression was compiled, the text ends with a zero byte, and no
        // place for parts that match is asked for.
        let status = unsafe {
            libc::regexec(
                &raw const self.compiled,
                text.as_ptr(),
                0,
                std::ptr::null_mut(),
                0,
            )
        };
        status == 0
    }
}

impl Drop for Regex {
    fn drop(&mut self) {
        // SAFETY: it was compiled, and this is the only place that frees it.
        unsafe { libc::regfree(&raw mut self.compiled) };
    }
}

/// `size_t regerror(int, const regex_t *, char *, size_t)`.
fn words(status: libc::c_int, compiled: &MaybeUninit<libc::regex_t>) -> String {
    let mut text = [0u8; 128];
    // SAFETY: the length handed over is that of the place for the text; regerror(3)
    // takes what regcomp(3) refused, too.
    let length = unsafe {
        libc::regerror(
            status,
            compiled.as_ptr(),
            text.as_mut_ptr().cast(),
            text.len(),
        )
    };
    // The length counts the zero byte at the end.
    let length = length.saturating_sub(1).min(text.len() - 1);
    String::from_utf8_lossy(&text[..length]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::Regex;

    #[test]
    fn any_part_of_a_name_may_match() {
        let one = Regex::compile("^web-[0-9]+$").expect("it is one");
        assert!(one.matches("web-12"));
        assert!(!one.matches("web-12a"));
        assert!(Regex::compile("b|x").expect("it is one").matches("abc"));
        assert!(Regex::compile("(").is_err_and(|words| !words.is_empty()));
    }
}
