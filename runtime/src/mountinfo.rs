//! The kernel's list of mounts: lines of `/proc/PID/mountinfo`.
//!
//! ```text
//! 36 35 98:0 /root /mount/point rw,noatime shared:1 - type source options
//! ```
//!
//! Fields are separated by a blank, so a blank inside a path is written as `\040`,
//! and tabs, line ends and backslashes likewise. Paths need not be UTF-8. Pure:
//! the caller reads the file, of the process whose mounts it wants.
//!
//! Read more: proc_pid_mountinfo(5), `fs/proc_namespace.c::show_mountinfo`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

/// One line, its fields as they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mount<'a> {
    /// The mount's number.
    pub id: &'a [u8],
    /// The number of the mount that it stands on.
    pub parent: &'a [u8],
    /// Which directory of the filesystem is its top.
    pub root: &'a [u8],
    /// Where it stands, seen from the process's root.
    pub mount_point: &'a [u8],
    /// The filesystem's type.
    pub filesystem: &'a [u8],
    /// Options of the filesystem, not of this mount.
    pub super_options: &'a [u8],
}

/// The mounts of a table, in the order of mounting. What is no mount's line is passed over.
pub fn parse(table: &[u8]) -> impl Iterator<Item = Mount<'_>> {
    table.split(|byte| *byte == b'\n').filter_map(parse_line)
}

/// The mount points of a table, in the order of mounting.
pub fn mount_points(table: &[u8]) -> impl Iterator<Item = PathBuf> {
    parse(table).map(|mount| unescape(mount.mount_point))
}

/// A field that is a path, with its escapes read.
pub fn unescape(field: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..3).filter(|_| *first == b'\\');
        let value = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        plain.push(value.unwrap_or(*first));
        rest = match value {
            Some(_) => &tail[3..],
            None => tail,
        };
    }
    PathBuf::from(OsString::from_vec(plain))
}

fn parse_line(line: &[u8]) -> Option<Mount<'_>> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = fields.next()?;
    let parent = fields.next()?;
    let _device = fields.next()?;
    let root = fields.next()?;
    let mount_point = fields.next()?;
    // Optional fields in any number end with a lone dash.
    fields.find(|field| *field == b"-")?;
    let filesystem = fields.next()?;
    let _source = fields.next()?;
    let super_options = fields.next()?;
    Some(Mount {
        id,
        parent,
        root,
        mount_point,
        filesystem,
        super_options,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_from_the_table() {
        let table = b"30 25 0:26 / /sys ro - tmpfs tmpfs ro\n\
                      31 30 0:27 / /a\\040b\\134c rw shared:9 - overlay overlay rw\n";
        let points: Vec<PathBuf> = mount_points(table).collect();
        assert_eq!(points, [PathBuf::from("/sys"), PathBuf::from("/a b\\c")]);
    }

    #[test]
    fn what_only_looks_like_an_escape_stays() {
        for text in [r"/a\b", r"/a\9zz", r"/end\", r"/end\04"] {
            assert_eq!(unescape(text.as_bytes()), PathBuf::from(text));
        }
    }
}
