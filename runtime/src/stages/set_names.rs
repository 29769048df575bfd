//! Stage `set-names`: the UTS namespace has the container's names.

use crate::init::Init;
use crate::stage::{Run, Stage, StageError};
use crate::sys::process;

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "set-names",
    effect: "host name and domain name are the container's",
    after: &["join-spaces"],
    see: &["uts_namespaces(7)", "sethostname(2)"],
    run: Run::Init(set_names),
};

/// The plan holds names only where there is a UTS namespace to hold them.
fn set_names(init: &mut Init) -> Result<(), StageError> {
    if let Some(name) = &init.plan.hostname {
        process::set_hostname(name)?;
    }
    if let Some(name) = &init.plan.domainname {
        process::set_domainname(name)?;
    }
    Ok(())
}
