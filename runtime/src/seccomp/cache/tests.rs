use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use super::{HEADER, read, write};

const PROGRAM: [u8; 16] = [7; 16];

fn mode(path: &std::path::Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
}

#[test]
fn what_is_written_is_read() {
    let root = tempfile::tempdir().expect("a directory");
    let cache = root.path().join("cache");
    assert_eq!(read(&cache, "a"), None);
    write(&cache, "a", &PROGRAM);
    assert_eq!(read(&cache, "a"), Some(PROGRAM.to_vec()));
    write(&cache, "a", &[8; 8]);
    assert_eq!(read(&cache, "a"), Some(vec![8; 8]));
    let names: Vec<_> = fs::read_dir(&cache)
        .expect("a list")
        .flatten()
        .map(|e| e.file_name())
        .collect();
    assert_eq!(names, ["a"], "no temporary file stays");
    assert_eq!(
        fs::metadata(&cache).expect("made").permissions().mode() & 0o777,
        0o700
    );
}

#[test]
fn a_directory_of_others_is_neither_read_nor_written() {
    let root = tempfile::tempdir().expect("a directory");
    let cache = root.path().join("cache");
    write(&cache, "a", &PROGRAM);
    mode(&cache, 0o770);
    assert_eq!(read(&cache, "a"), None);
    write(&cache, "b", &PROGRAM);
    assert!(!cache.join("b").exists());
    mode(&cache, 0o700);
    std::os::unix::fs::chown(&cache, Some(12_345), None).expect("needs root");
    assert_eq!(read(&cache, "a"), None);
}

#[test]
fn links_are_not_followed() {
    let root = tempfile::tempdir().expect("a directory");
    let cache = root.path().join("cache");
    write(&cache, "a", &PROGRAM);
    symlink("a", cache.join("b")).expect("a link");
    assert_eq!(read(&cache, "b"), None);
    symlink("cache", root.path().join("other")).expect("a link");
    assert_eq!(read(&root.path().join("other"), "a"), None);
}

#[test]
fn a_file_that_is_not_ours_or_not_whole_is_not_believed() {
    let root = tempfile::tempdir().expect("a directory");
    let cache = root.path().join("cache");
    write(&cache, "a", &PROGRAM);
    let file = cache.join("a");
    mode(&file, 0o622);
    assert_eq!(read(&cache, "a"), None);
    mode(&file, 0o600);
    let whole = fs::read(&file).expect("readable");
    // Every shorter file, and every file with one other bit.
    for length in 0..whole.len() {
        fs::write(&file, &whole[..length]).expect("written");
        assert_eq!(read(&cache, "a"), None, "{length} bytes");
    }
    for position in 0..whole.len() {
        let mut other = whole.clone();
        other[position] ^= 1;
        fs::write(&file, &other).expect("written");
        assert_eq!(read(&cache, "a"), None, "byte {position}");
    }
    fs::write(&file, &whole).expect("written");
    assert_eq!(
        read(&cache, "a").map(|program| program.len()),
        Some(whole.len() - HEADER)
    );
    std::os::unix::fs::chown(&file, Some(12_345), None).expect("needs root");
    assert_eq!(read(&cache, "a"), None);
}
