//! Names and numbers of the CRI's stop signals.

use berth_cri::v1;

/// The CRI's number of `SIGTERM`, `SIGRTMIN+3` and the like.
pub fn from_name(name: &str) -> Option<v1::Signal> {
    let name = name.replace('+', "PLUS").replace("MAX-", "MAXMINUS");
    v1::Signal::from_str_name(&format!("SIGNAL_{name}"))
        .filter(|signal| *signal != v1::Signal::RuntimeDefault)
}

/// The name as the API writes it.
pub fn to_name(signal: v1::Signal) -> Option<String> {
    let name = signal.as_str_name().strip_prefix("SIGNAL_")?;
    (name != "RUNTIME_DEFAULT").then(|| name.replace("PLUS", "+").replace("MINUS", "-"))
}

#[cfg(test)]
mod tests {
    use super::{from_name, to_name};
    use berth_cri::v1::Signal;

    #[test]
    fn names_are_those_of_the_api() {
        assert_eq!(from_name("SIGTERM"), Some(Signal::Sigterm));
        assert_eq!(from_name("SIGRTMIN+3"), Some(Signal::Sigrtminplus3));
        assert_eq!(from_name("SIGRTMAX-2"), Some(Signal::Sigrtmaxminus2));
        assert_eq!(from_name("RUNTIME_DEFAULT"), None);
        assert_eq!(from_name("TERM"), None);
        assert_eq!(
            to_name(Signal::Sigrtminplus3).as_deref(),
            Some("SIGRTMIN+3")
        );
    }
}
