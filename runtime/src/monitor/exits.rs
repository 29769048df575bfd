//! Exit records on disk: `POD_DIR/exits/ID.json`.
//!
//! A record appears whole or not at all, also across a crash of the machine
//! ([`whole_file::replace_synced`]).

use std::path::{Path, PathBuf};

use super::failure::{Context as _, MonitorError, named};
use super::protocol::{EXITS_FOLDER, ExitRecord};
use crate::whole_file;

/// Writes a container's exit record.
///
/// # Errors
///
/// Which step failed; then no record of that name has appeared.
pub fn write_exit(pod_dir: &Path, record: &ExitRecord) -> Result<(), MonitorError> {
    let folder = pod_dir.join(EXITS_FOLDER);
    let path = exit_path(pod_dir, &record.id);
    let text = serde_json::to_vec(record)
        .map_err(std::io::Error::from)
        .during(|| "write down an exit".into())?;
    std::fs::create_dir_all(&folder).during(|| named("make", &folder))?;
    whole_file::replace_synced(&path, &text).during(|| named("write", &path))
}

/// A container's exit record, if it has ended; for an engine whose monitor is
/// gone.
///
/// # Errors
///
/// When there is a file that cannot be read.
pub fn read_exit(pod_dir: &Path, id: &str) -> Result<Option<ExitRecord>, MonitorError> {
    let path = exit_path(pod_dir, id);
    match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|source| MonitorError::Syntax { path, source }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).during(|| named("read", &path)),
    }
}

fn exit_path(pod_dir: &Path, id: &str) -> PathBuf {
    pod_dir.join(EXITS_FOLDER).join(format!("{id}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_leaves_no_draft() {
        let pod_dir = tempfile::tempdir().unwrap();
        let record = ExitRecord {
            id: "web".into(),
            exit_code: 137,
            signal: Some(9),
            oom_killed: true,
            started_at: 1,
            finished_at: 2,
        };
        assert_eq!(read_exit(pod_dir.path(), "web").unwrap(), None);
        write_exit(pod_dir.path(), &record).unwrap();
        assert_eq!(read_exit(pod_dir.path(), "web").unwrap(), Some(record));
        let files = std::fs::read_dir(pod_dir.path().join(EXITS_FOLDER)).unwrap();
        assert_eq!(files.count(), 1);
    }
}
