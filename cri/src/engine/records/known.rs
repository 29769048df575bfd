//! Records that were read before, as long as their files are the same.
//!
//! A kubelet lists everything every second, and decoding a thousand records
//! takes longer than asking the kernel whether one of them changed. A record is
//! only ever replaced by a rename ([`Identity`]). The rename also changes the folder, as
//! does a file that is made or removed there: while the folder is the same, so is all in
//! it. A folder has the kernel's own stamp, and is trusted once that is old enough.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::ErrorKind as Io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::de::DeserializeOwned;

use super::files;
use crate::engine::error::Error;
use crate::file_identity::Identity;

/// What was read, by folder and name.
#[derive(Debug)]
pub(super) struct Known<R> {
    folders: Mutex<HashMap<String, Folder<R>>>,
}

#[derive(Debug)]
struct Folder<R> {
    entries: HashMap<String, Entry<R>>,
    /// All that is in it, in the order of names, and the folder's identity then.
    whole: Option<(Identity, Vec<Arc<R>>)>,
}

impl<R> Default for Folder<R> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            whole: None,
        }
    }
}

#[derive(Debug)]
struct Entry<R> {
    identity: Identity,
    record: Arc<R>,
}

/// What a folder was like before its records were read; nothing where it is too young to tell.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look(Option<Identity>);

impl<R> Default for Known<R> {
    fn default() -> Self {
        Self {
            folders: Mutex::default(),
        }
    }
}

impl<R: DeserializeOwned> Known<R> {
    /// The record in a file; none when there is no such file.
    ///
    /// # Errors
    ///
    /// `Storage` when the file is damaged, `Unsupported` for another format.
    pub fn read(
        &self,
        folder: &str,
        name: &str,
        path: &Path,
        format: u32,
    ) -> Result<Option<Arc<R>>, Error> {
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if matches!(error.kind(), Io::NotFound | Io::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(files::storage("read", path, error)),
        };
        let identity = Identity::of(&metadata);
        if let Some(record) = self.look_up(folder, name, identity) {
            return Ok(Some(record));
        }
        // Should the file be replaced here, the identity is one that no file has any more.
        let read = files::read_json::<R>(path, format)?.map(Arc::new);
        if let Some(record) = &read
            && identity.is_exact(SystemTime::now())
        {
            let record = record.clone();
            let mut folders = self.folders();
            let folder = folders.entry(folder.to_owned()).or_default();
            let entry = Entry { identity, record };
            folder.entries.insert(name.to_owned(), entry);
        }
        Ok(read)
    }

    fn folders(&self) -> MutexGuard<'_, HashMap<String, Folder<R>>> {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look_up(&self, folder: &str, name: &str, identity: Identity) -> Option<Arc<R>> {
        let folders = self.folders();
        let entry = folders.get(folder)?.entries.get(name)?;
        (entry.identity == identity).then(|| entry.record.clone())
    }

    /// All records of a folder, if nothing in it has changed since [`Self::keep_whole`]; else
    /// what to give that once they are read.
    pub fn whole(&self, folder: &str, path: &Path) -> Result<Vec<Arc<R>>, Look> {
        let Ok(metadata) = fs::metadata(path) else {
            return Err(Look(None));
        };
        let identity = Identity::of(&metadata);
        let folders = self.folders();
        let whole = folders.get(folder).and_then(|known| known.whole.as_ref());
        match whole {
            Some((then, records)) if *then == identity => Ok(records.clone()),
            _ => Err(Look(
                Some(identity).filter(|identity| identity.is_settled(SystemTime::now())),
            )),
        }
    }

    /// Keeps all records of a folder that were read after a look at it.
    pub fn keep_whole(&self, folder: &str, look: Look, records: &[Arc<R>]) {
        if let Look(Some(identity)) = look {
            let mut folders = self.folders();
            let known = folders.entry(folder.to_owned()).or_default();
            known.whole = Some((identity, records.to_vec()));
        }
    }

    /// The folder that a name was read in.
    pub fn folder_of(&self, name: &str) -> Option<String> {
        let folders = self.folders();
        let mut folders = folders.iter();
        let (folder, _) = folders.find(|(_, known)| known.entries.contains_key(name))?;
        Some(folder.clone())
    }

    /// Forgets what is no longer in a folder.
    pub fn keep_names(&self, folder: &str, names: &[String]) {
        let mut folders = self.folders();
        if let Some(known) = folders.get_mut(folder)
            && known.entries.len() > names.len()
        {
            let names: HashSet<&String> = names.iter().collect();
            known.entries.retain(|name, _| names.contains(name));
        }
    }

    /// Forgets folders that are gone.
    pub fn keep_folders(&self, names: &[String]) {
        let mut folders = self.folders();
        if folders.len() > names.len() {
            let names: HashSet<&String> = names.iter().collect();
            folders.retain(|name, _| names.contains(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file_identity::SETTLED;

    const FORMAT: u32 = 1;

    #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Record {
        format: u32,
        word: String,
    }

    fn record(word: &str) -> Record {
        Record {
            format: FORMAT,
            word: word.to_owned(),
        }
    }

    fn write(path: &Path, word: &str) {
        files::replace_json(path, &record(word)).unwrap();
    }

    #[test]
    fn a_replaced_file_is_read_again_and_an_old_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        let known = Known::<Record>::default();
        let read = || known.read("f", "a", &path, FORMAT).unwrap();
        assert_eq!(read(), None);
        for word in ["one", "two", "six"] {
            write(&path, word);
            assert_eq!(read(), Some(Arc::new(record(word))));
            let identity = Identity::of(&fs::metadata(&path).unwrap());
            assert_eq!(
                known.look_up("f", "a", identity),
                Some(Arc::new(record(word)))
            );
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(read(), None);
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write(&path, "one");
        let known = Known::<Record>::default();
        let identity = Identity::of(&fs::metadata(&path).unwrap());
        for (folder, name) in [("f", "a"), ("f", "b"), ("g", "a")] {
            known.read(folder, name, &path, FORMAT).unwrap();
        }
        known.keep_names("f", &["b".to_owned()]);
        assert_eq!(known.look_up("f", "a", identity), None);
        assert!(known.look_up("f", "b", identity).is_some());
        assert_eq!(known.folder_of("b").as_deref(), Some("f"));
        known.keep_folders(&["f".to_owned()]);
        assert_eq!(known.look_up("g", "a", identity), None);
    }

    #[test]
    fn a_folder_is_known_whole_until_anything_changes_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let known = Known::<Record>::default();
        let all = |words: &[&str]| -> Vec<_> {
            words.iter().map(|word| Arc::new(record(word))).collect()
        };
        write(&path.join("a.json"), "one");
        // The test may have stood still for so long that it is not young any more.
        if let young @ Look(None) = known.whole("f", path).unwrap_err() {
            known.keep_whole("f", young, &all(&["one"]));
        }
        let changes: [&dyn Fn(); 3] = [
            &|| write(&path.join("a.json"), "two"),
            &|| write(&path.join("b.json"), "new"),
            &|| fs::remove_file(path.join("b.json")).unwrap(),
        ];
        for change in changes {
            std::thread::sleep(SETTLED * 2);
            let look = known.whole("f", path).unwrap_err();
            known.keep_whole("f", look, &all(&["one"]));
            assert_eq!(known.whole("f", path).unwrap(), all(&["one"]));
            change();
            assert!(known.whole("f", path).is_err());
        }
        // What changes after the look is not taken for what was read.
        std::thread::sleep(SETTLED * 2);
        let look = known.whole("f", path).unwrap_err();
        write(&path.join("a.json"), "three");
        known.keep_whole("f", look, &all(&["two"]));
        assert!(known.whole("f", path).is_err());
    }

    #[test]
    fn a_damaged_file_is_an_error_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        fs::write(&path, "{").unwrap();
        let known = Known::<Record>::default();
        for _ in 0..2 {
            let error = known.read("f", "a", &path, FORMAT).unwrap_err();
            assert!(error.to_string().contains("a.json is damaged"), "{error}");
        }
    }
}
