//! Annotations that change what is done: crun's, for callers that use them.
//!
//! docs/oci.md lists every annotation of crun's and runc's, and what becomes of it.

use std::collections::HashMap;
use std::path::PathBuf;

use super::SpecError;
use crate::seccomp::plan::Unknown;
use crate::sys::seccomp::{BpfProgram, Instruction};

/// The agent for `SCMP_ACT_NOTIFY`, in place of `linux.seccomp.listenerPath`.
pub const SECCOMP_RECEIVER: &str = "run.oci.seccomp.receiver";
const KEEP_GROUPS: &str = "run.oci.keep_original_groups";
const PIDFD_RECEIVER: &str = "run.oci.pidfd_receiver";
const FAIL_UNKNOWN: &str = "run.oci.seccomp_fail_unknown_syscall";
const RAW_FILTER: &str = "run.oci.seccomp_bpf_data";

/// What they ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnnotationPlan {
    /// The program keeps the caller's other groups.
    pub keep_groups: bool,
    /// A socket that gets a descriptor of init.
    pub pidfd_receiver: Option<PathBuf>,
    /// What becomes of calls that libseccomp does not know.
    pub unknown_calls: Unknown,
    /// A filter in place of the profile.
    pub raw_filter: Option<BpfProgram>,
}

/// Plans all of them.
///
/// # Errors
///
/// A filter that is none.
pub fn plan_annotations(all: &HashMap<String, String>) -> Result<AnnotationPlan, SpecError> {
    let is_set = |name: &str| all.get(name).is_some_and(|value| value != "0");
    Ok(AnnotationPlan {
        keep_groups: is_set(KEEP_GROUPS),
        pidfd_receiver: all.get(PIDFD_RECEIVER).map(PathBuf::from),
        unknown_calls: match is_set(FAIL_UNKNOWN) {
            true => Unknown::Refuse,
            false => Unknown::Ignore,
        },
        raw_filter: all
            .get(RAW_FILTER)
            .map(|text| plan_filter(text))
            .transpose()?,
    })
}

/// Instructions of classic BPF, eight bytes each, in base64 (RFC 4648).
fn plan_filter(text: &str) -> Result<BpfProgram, SpecError> {
    let field = format!("annotations[{RAW_FILTER:?}]");
    let Some(bytes) = decode_base64(text) else {
        return Err(SpecError::new(field, "expected base64, found another text"));
    };
    if bytes.is_empty() || bytes.len() % size_of::<Instruction>() != 0 {
        let found = bytes.len();
        let reason = format!("expected instructions of 8 bytes, found {found} bytes");
        return Err(SpecError::new(field, reason));
    }
    let (eights, _) = bytes.as_chunks::<8>();
    let instructions = eights.iter().map(|eight| Instruction {
        code: u16::from_ne_bytes([eight[0], eight[1]]),
        jump_true: eight[2],
        jump_false: eight[3],
        constant: u32::from_ne_bytes([eight[4], eight[5], eight[6], eight[7]]),
    });
    Ok(BpfProgram {
        instructions: instructions.collect(),
        flags: 0,
    })
}

/// `None` for a letter that is not of the alphabet, or a length that cannot be.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim().trim_end_matches('=');
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0_u32, 0);
    for letter in text.bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            // The eight bits above those that are left.
            bytes.push((bits >> count) as u8);
        }
    }
    (text.len() % 4 != 1).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::{AnnotationPlan, decode_base64, plan_annotations};

    fn plan(name: &str, value: &str) -> Result<AnnotationPlan, String> {
        let all = HashMap::from([(name.to_owned(), value.to_owned())]);
        plan_annotations(&all).map_err(|error| error.to_string())
    }

    #[test]
    fn base64_is_read() {
        for (text, bytes) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg", "foob"),
        ] {
            assert_eq!(decode_base64(text).expect(text), bytes.as_bytes());
        }
        assert_eq!(decode_base64("Zm9v!"), None);
        assert_eq!(decode_base64("Z"), None);
    }

    #[test]
    fn a_filter_is_made_of_instructions() {
        // ret ALLOW
        let program = plan("run.oci.seccomp_bpf_data", "BgAAAAAA/38=").expect("one instruction");
        let program = program.raw_filter.expect("a filter");
        assert_eq!(program.instructions[0].constant, 0x7fff_0000);
        let error = plan("run.oci.seccomp_bpf_data", "BgAAAAAA").expect_err("too short");
        assert!(
            error.contains("run.oci.seccomp_bpf_data") && error.contains("6 bytes"),
            "{error}"
        );
    }

    #[test]
    fn zero_means_no() {
        assert!(
            plan("run.oci.keep_original_groups", "1")
                .expect("sound")
                .keep_groups
        );
        assert!(
            !plan("run.oci.keep_original_groups", "0")
                .expect("sound")
                .keep_groups
        );
        assert_eq!(
            plan("other", "1").expect("sound"),
            AnnotationPlan::default()
        );
    }
}
