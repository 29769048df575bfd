//! OCI runtimes, by the names of their handlers.
//!
//! A Kubernetes RuntimeClass names a handler, and a kubelet passes the name on
//! with `RunPodSandbox`. The pod's record keeps what it stood for, so that a
//! change of the names never gives a pod's containers to another program.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::error::Error;

/// An OCI runtime's program and how it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OciRuntime {
    /// The program.
    pub program: PathBuf,
    /// Given to it before the verb.
    pub arguments: Vec<String>,
}

/// All that an operator has named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Runtimes {
    /// Which of them a pod has that names none; empty is berth's own.
    pub default_handler: String,
    /// By their names.
    pub named: BTreeMap<String, OciRuntime>,
}

/// The runtime of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Its handler's name; empty for berth's own. States of containers are kept
    /// by it, for two runtimes write different files.
    pub name: String,
    /// How it is called.
    pub runtime: OciRuntime,
}

impl Runtimes {
    /// What a `runtime_handler` stands for; empty is the default one.
    ///
    /// # Errors
    ///
    /// `Invalid` for an unknown name, with the known ones.
    pub fn choose(&self, handler: &str, own: &Path) -> Result<Chosen, Error> {
        let name = match handler {
            "" => &self.default_handler,
            named => named,
        };
        if let Some(runtime) = self.named.get(name) {
            return Ok(Chosen {
                name: name.to_owned(),
                runtime: runtime.clone(),
            });
        }
        if name.is_empty() {
            return Ok(Chosen {
                name: String::new(),
                runtime: OciRuntime {
                    program: own.to_owned(),
                    arguments: Vec::new(),
                },
            });
        }
        let known: Vec<&str> = self.named.keys().map(String::as_str).collect();
        Err(Error::invalid(format!(
            "runtime_handler: {name:?} is not configured; known are: {}",
            match known.as_slice() {
                [] => "only the default one".to_owned(),
                known => known.join(", "),
            }
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::error::ErrorKind;

    fn runtimes(default_handler: &str) -> Runtimes {
        let runc = OciRuntime {
            program: "/usr/bin/runc".into(),
            arguments: vec!["--debug".to_owned()],
        };
        Runtimes {
            default_handler: default_handler.to_owned(),
            named: [("runc".to_owned(), runc)].into(),
        }
    }

    #[test]
    fn a_handler_is_known_or_refused() {
        let own = Path::new("/usr/bin/berth-oci");
        let chosen = runtimes("").choose("", own).unwrap();
        assert_eq!(
            (chosen.name.as_str(), chosen.runtime.program.as_path()),
            ("", own)
        );
        let chosen = runtimes("").choose("runc", own).unwrap();
        assert_eq!(chosen.name, "runc");
        assert_eq!(chosen.runtime.arguments, ["--debug"]);
        // The empty name is a name for the operator's choice.
        assert_eq!(runtimes("runc").choose("", own).unwrap(), chosen);
        let error = runtimes("").choose("kata", own).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("known are: runc"), "{error}");
        let none = Runtimes::default().choose("kata", own).unwrap_err();
        assert!(none.to_string().ends_with("only the default one"), "{none}");
    }
}
