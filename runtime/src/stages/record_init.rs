//! Stage `record-init`: who init is, is on disk before init has done anything.
//!
//! It is written while init builds its surroundings, so it costs no time. Should
//! the runtime be killed now, `delete --force` finds init and its cgroups. Until
//! `publish-state` lets go of the folder's lock the container counts as being
//! created.

use crate::creation::Creation;
use crate::stage::{Run, Stage, StageError};
use crate::state::InitRecord;

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "record-init",
    effect: "state.json names init and its cgroups",
    after: &["clone-init"],
    see: &["OCI runtime.md#state"],
    run: Run::Runtime(record_init),
};

fn record_init(creation: &mut Creation) -> Result<(), StageError> {
    record(creation)
}

/// Writes down who init is; once more when another process has gone on in its place.
///
/// # Errors
///
/// The disk is full.
pub fn record(creation: &mut Creation) -> Result<(), StageError> {
    let (pid, _) = creation.init.as_ref().expect("clone-init made it");
    match InitRecord::observe(*pid) {
        Ok(init) => creation.record.init = Some(init),
        // It has failed already, and await-init hears why.
        Err(_) => return Ok(()),
    }
    if let Some(folder) = &creation.folder {
        folder.write_record(&creation.record)?;
    }
    Ok(())
}
