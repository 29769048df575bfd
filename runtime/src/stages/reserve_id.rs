//! Stage `reserve-id`: the container's name is taken, and nobody else gets it.
//!
//! `mkdir(2)` fails when the folder exists, so of two callers with one id
//! exactly one goes on. The folder is locked while the container is made; when
//! the maker is killed the kernel drops the lock, and `delete` sees that
//! whatever is there was never finished.

use crate::creation::{Creation, Undo};
use crate::notify;
use crate::stage::{Run, Stage, StageError};

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "reserve-id",
    effect: "the folder of the container's state exists, with its configuration",
    after: &[],
    see: &["runc(8)", "flock(2)", "OCI runtime.md#create"],
    run: Run::Runtime(reserve_id),
};

/// Makes the folder and keeps the configuration in it: from here on
/// `delete --force` can work out all that a killed `create` may leave.
fn reserve_id(creation: &mut Creation) -> Result<(), StageError> {
    let folder = creation.store.create_folder(&creation.plan.id)?;
    creation.undo.push(Undo::ReleaseId);
    let mut written = folder.write_config(&creation.config);
    if creation.wishes.notifies {
        written = written.and_then(|()| folder.make_folder(notify::FOLDER));
    }
    creation.folder = Some(folder);
    Ok(written?)
}
