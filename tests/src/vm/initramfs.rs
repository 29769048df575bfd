//! The archive that the kernel unpacks first: BusyBox and the drivers of the disk.
//!
//! The kernel takes a cpio archive of the form `newc`: an entry is the magic
//! number, thirteen numbers of eight hexadecimal digits, the name with its NUL,
//! and the bytes; name and bytes are filled up to a multiple of four.
//!
//! ```text
//! 070701 inode mode uid gid nlink mtime size devmajor devminor rdevmajor rdevminor namesize check
//! ```
//!
//! See the kernel's `driver-api/early-userspace/buffer-format.rst` and
//! `filesystems/ramfs-rootfs-initramfs.rst`.

/// The kernel's first program. It loads the drivers in the order of a list and hands
/// over to systemd on the disk. Asked by `berth.probe` on the kernel's command line
/// it says that it lives, and ends the machine.
pub const INIT: &str = "#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
grep -q berth.probe /proc/cmdline && { echo berth-vm: alive; poweroff -f; }
while read -r module; do insmod /modules/$module; done </modules/order
mount -t ext4 -o noatime,noinit_itable /dev/vda /root
umount /proc
exec switch_root /root /sbin/init
";

/// What the first program needs to reach the disk and the ports.
pub const MODULES: &[&str] = &[
    "crc32c_generic",
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "ext4",
];

/// One entry of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path without a leading slash.
    pub path: String,
    /// Kind and permissions as `stat(2)` has them.
    pub mode: u32,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// A folder for the archive.
pub fn folder(path: &str) -> Entry {
    let path = path.to_owned();
    Entry {
        path,
        mode: 0o040_755,
        bytes: Vec::new(),
    }
}

/// A file for the archive, which may be executed.
pub fn file(path: &str, bytes: Vec<u8>) -> Entry {
    let path = path.to_owned();
    Entry {
        path,
        mode: 0o100_755,
        bytes,
    }
}

/// The archive. Folders must come before what is in them.
pub fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        append(&mut archive, index + 1, entry);
    }
    append(
        &mut archive,
        0,
        &Entry {
            path: "TRAILER!!!".to_owned(),
            mode: 0,
            bytes: Vec::new(),
        },
    );
    archive
}

fn append(archive: &mut Vec<u8>, inode: usize, entry: &Entry) {
    let numbers = [
        inode,
        entry.mode as usize,
        0,
        0,
        1,
        0,
        entry.bytes.len(),
        0,
        0,
        0,
        0,
        entry.path.len() + 1,
        0,
    ];
    archive.extend(b"070701");
    for number in numbers {
        archive.extend(format!("{number:08x}").bytes());
    }
    archive.extend(entry.path.bytes());
    archive.push(0);
    fill_up(archive);
    archive.extend(&entry.bytes);
    fill_up(archive);
}

fn fill_up(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::{archive, file, folder};
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn another_program_unpacks_it() {
        let place = tempfile::tempdir().expect("a folder");
        let bytes = archive(&[folder("deep"), file("deep/word", b"hello".to_vec())]);
        let mut cpio = Command::new("busybox")
            .args(["cpio", "-i"])
            .current_dir(place.path())
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("busybox-static is installed");
        let mut stdin = cpio.stdin.take().expect("a pipe");
        stdin.write_all(&bytes).expect("it reads");
        drop(stdin);
        assert!(cpio.wait().expect("it ends").success());
        let word = std::fs::read(place.path().join("deep/word")).expect("unpacked");
        assert_eq!(word, b"hello");
    }
}
