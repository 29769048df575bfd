//! Archives that a friend or an enemy might write, unpacked into a temporary
//! directory. Needs root: owners, devices and the overlay's attributes do.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::PathBuf;

use super::*;

/// A tar archive written by hand, for the tar crate's own writer refuses the
/// names that matter here.
#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn entry(mut self, kind: u8, name: &str, link: &str, content: &[u8]) -> Archive {
        let mut header = [0u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..107].copy_from_slice(b"0000755");
        header[108..115].copy_from_slice(b"0000000");
        header[116..123].copy_from_slice(b"0000000");
        write!(&mut header[124..136], "{:011o}", content.len()).unwrap();
        header[136..147].copy_from_slice(b"00000000000");
        header[148..156].fill(b' ');
        header[156] = kind;
        header[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        write!(&mut header[148..155], "{sum:06o}\0").unwrap();
        self.0.extend(header);
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, content: &str) -> Archive {
        self.entry(b'0', name, "", content.as_bytes())
    }

    fn directory(self, name: &str) -> Archive {
        self.entry(b'5', name, "", b"")
    }

    fn link(self, name: &str, target: &str) -> Archive {
        self.entry(b'2', name, target, b"")
    }

    fn hard_link(self, name: &str, target: &str) -> Archive {
        self.entry(b'1', name, target, b"")
    }

    /// A record of the extended header that belongs to the next entry.
    fn record(self, key: &str, value: &[u8]) -> Archive {
        let body = key.len() + value.len() + 3;
        let digits = (body + body.to_string().len()).to_string().len();
        let mut record = format!("{} {key}=", body + digits).into_bytes();
        record.extend(value);
        record.push(b'\n');
        self.entry(b'x', "extended", "", &record)
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

struct Sandbox {
    directory: tempfile::TempDir,
}

impl Sandbox {
    fn new() -> Sandbox {
        let sandbox = Sandbox {
            directory: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(sandbox.layer()).unwrap();
        fs::create_dir(sandbox.outside()).unwrap();
        fs::write(sandbox.outside().join("file"), "untouched").unwrap();
        sandbox
    }

    fn layer(&self) -> PathBuf {
        self.directory.path().join("layer")
    }

    fn outside(&self) -> PathBuf {
        self.directory.path().join("outside")
    }

    fn unpack(&self, archive: Archive) -> Result<Written, Error> {
        let bytes = archive.finish();
        let digest = Digest::of(&bytes);
        let expected = Expected {
            digest: digest.clone(),
            diff_id: digest,
        };
        let unpacked = unpack(&bytes[..], &expected, &self.layer());
        let outside: Vec<_> = fs::read_dir(self.outside()).unwrap().collect();
        assert_eq!(outside.len(), 1, "something was made outside");
        let file = fs::read_to_string(self.outside().join("file")).unwrap();
        assert_eq!(file, "untouched");
        unpacked
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.layer().join(path)).unwrap()
    }

    fn is_whiteout(&self, path: &str) -> bool {
        let metadata = fs::symlink_metadata(self.layer().join(path)).unwrap();
        metadata.file_type().is_char_device() && metadata.rdev() == 0
    }

    fn attribute(&self, path: &str, name: &str) -> Option<Vec<u8>> {
        let mut value = [0; 64];
        let path = self.layer().join(path);
        let count = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
        Some(value[..count].to_vec())
    }
}

#[test]
fn names_that_climb_are_refused() {
    for name in ["../outside/file", "a/../../outside/file", ".."] {
        let error = Sandbox::new().unpack(Archive::default().file(name, "x"));
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Corrupt, "{name}");
    }
    let climbing = Archive::default().hard_link("mine", "../outside/file");
    let error = Sandbox::new().unpack(climbing).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn links_lead_nowhere_but_into_the_layer() {
    let sandbox = Sandbox::new();
    let outside = sandbox.outside().to_str().unwrap().to_owned();
    let archive = Archive::default()
        .link("absolute", &outside)
        .file("absolute/file", "mine")
        .link("climbing", "../../../../../../outside")
        .file("climbing/file", "mine too")
        .hard_link("stolen", "absolute/file")
        .file("/rooted", "below the layer");
    sandbox.unpack(archive).unwrap();
    let inside = outside.trim_start_matches('/').to_owned() + "/file";
    assert_eq!(sandbox.read(&inside), "mine");
    assert_eq!(sandbox.read("outside/file"), "mine too");
    assert_eq!(sandbox.read("stolen"), "mine");
    assert_eq!(sandbox.read("rooted"), "below the layer");
}

#[test]
fn a_file_replaces_a_link_and_not_what_it_leads_to() {
    let sandbox = Sandbox::new();
    let target = sandbox.outside().join("file");
    let archive = Archive::default()
        .link("a", target.to_str().unwrap())
        .file("a", "replaced")
        .link("d", sandbox.outside().to_str().unwrap())
        .file("d/x", "through the link")
        .directory("d")
        .file("d/file", "in a directory of our own");
    sandbox.unpack(archive).unwrap();
    assert_eq!(sandbox.read("a"), "replaced");
    assert_eq!(sandbox.read("d/file"), "in a directory of our own");
    assert!(!sandbox.layer().join("d").is_symlink());
}

#[test]
fn links_in_a_circle_end() {
    let archive = Archive::default()
        .link("a", "b")
        .link("b", "a")
        .file("a/file", "x");
    assert!(Sandbox::new().unpack(archive).is_err());
}

#[test]
fn whiteouts_take_the_overlays_form() {
    let sandbox = Sandbox::new();
    let archive = Archive::default()
        .directory("etc")
        .file("etc/.wh.gone", "")
        .file("etc/.wh.replaced", "")
        .file("etc/replaced", "new")
        .file("etc/kept", "of this layer")
        .file("etc/.wh.kept", "")
        .directory("cache")
        .file("cache/.wh..wh..opq", "")
        .file(".wh.tree", "")
        .directory("tree")
        .file(".wh..wh.plnk", "");
    let written = sandbox.unpack(archive).unwrap();
    assert!(sandbox.is_whiteout("etc/gone"));
    assert_eq!(sandbox.read("etc/replaced"), "new");
    assert_eq!(sandbox.read("etc/kept"), "of this layer");
    let opaque = "trusted.overlay.opaque";
    assert_eq!(sandbox.attribute("cache", opaque).unwrap(), b"y");
    // A directory that came back after its whiteout shows nothing from below.
    assert_eq!(sandbox.attribute("tree", opaque).unwrap(), b"y");
    assert!(!sandbox.layer().join(".wh..wh.plnk").exists());
    assert!(!written.hides_all_below);
    let all = Archive::default().file(".wh..wh..opq", "");
    assert!(Sandbox::new().unpack(all).unwrap().hides_all_below);
}

#[test]
fn attributes_arrive_except_the_overlays_own() {
    let sandbox = Sandbox::new();
    // cap_net_raw+ep, as setcap(8) writes it.
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let archive = Archive::default()
        .record("SCHILY.xattr.security.capability", &capability)
        .file("ping", "program")
        .record("SCHILY.xattr.trusted.overlay.redirect", b"/etc")
        .directory("sly")
        .record("mtime", b"1700000000.25")
        .file("timed", "");
    sandbox.unpack(archive).unwrap();
    let kept = sandbox.attribute("ping", "security.capability").unwrap();
    assert_eq!(kept, capability);
    assert_eq!(sandbox.attribute("sly", "trusted.overlay.redirect"), None);
    let timed = fs::metadata(sandbox.layer().join("timed")).unwrap();
    assert_eq!(
        (timed.mtime(), timed.mtime_nsec()),
        (1_700_000_000, 250_000_000)
    );
}

#[test]
fn what_is_cut_or_changed_is_corrupt() {
    let content = "text that does not repeat itself: 0123456789".repeat(3000);
    let plain = Archive::default().file("file", &content).finish();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let zstd = zstd::encode_all(&plain[..], 1).unwrap();
    for blob in [plain.clone(), gzip.finish().unwrap(), zstd] {
        let expected = Expected {
            digest: Digest::of(&blob),
            diff_id: Digest::of(&plain),
        };
        let mut changed = blob.clone();
        changed[blob.len() / 2] ^= 1;
        for wrong in [&blob[..blob.len() / 2], &changed, &[]] {
            let sandbox = Sandbox::new();
            let error = unpack(wrong, &expected, &sandbox.layer()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(
                error.to_string().contains(expected.digest.as_str()),
                "{error}"
            );
        }
        unpack(&blob[..], &expected, &Sandbox::new().layer()).unwrap();
        let other = Expected {
            diff_id: Digest::of(b"something else"),
            ..expected
        };
        let error = unpack(&blob[..], &other, &Sandbox::new().layer()).unwrap_err();
        assert!(error.to_string().contains("archive"), "{error}");
    }
}

#[test]
fn several_gzip_members_are_one_stream() {
    let plain = Archive::default().file("file", "content").finish();
    let mut blob = Vec::new();
    for part in plain.chunks(700) {
        let mut member = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        member.write_all(part).unwrap();
        blob.extend(member.finish().unwrap());
    }
    let expected = Expected {
        digest: Digest::of(&blob),
        diff_id: Digest::of(&plain),
    };
    let sandbox = Sandbox::new();
    unpack(&blob[..], &expected, &sandbox.layer()).unwrap();
    assert_eq!(sandbox.read("file"), "content");
}

#[test]
fn what_a_layer_leaves_open_is_completed_from_below() {
    let lower = Sandbox::new();
    fs::create_dir(lower.layer().join("tmp")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
    fs::set_permissions(lower.layer().join("tmp"), mode).unwrap();
    fs::write(lower.layer().join("program"), "of the lower layer").unwrap();
    symlink("program", lower.layer().join("name")).unwrap();
    let upper = Sandbox::new();
    let archive = Archive::default()
        .file("tmp/new/file", "x")
        .hard_link("alias", "program")
        .hard_link("other", "name");
    let mut written = upper.unpack(archive).unwrap();
    let implied: Vec<&[u8]> = written.implied.iter().map(Vec::as_slice).collect();
    assert_eq!(implied, [&b"tmp"[..], b"tmp/new"]);
    below::complete(&upper.layer(), &mut written, &[lower.layer()]).unwrap();
    let tmp = fs::metadata(upper.layer().join("tmp")).unwrap();
    assert_eq!(tmp.mode() & 0o7777, 0o1777);
    assert_eq!(upper.read("alias"), "of the lower layer");
    let other = fs::read_link(upper.layer().join("other")).unwrap();
    assert_eq!(other.to_str(), Some("program"));
    let hidden = Sandbox::new();
    hidden
        .unpack(Archive::default().file(".wh.program", ""))
        .unwrap();
    let again = Sandbox::new();
    let mut written = again
        .unpack(Archive::default().hard_link("alias", "program"))
        .unwrap();
    let error = below::complete(
        &again.layer(),
        &mut written,
        &[hidden.layer(), lower.layer()],
    );
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn what_an_opaque_directory_hides_is_no_file_to_link() {
    let lower = Sandbox::new();
    fs::create_dir_all(lower.layer().join("a/b")).unwrap();
    fs::write(lower.layer().join("a/b/hidden"), "x").unwrap();
    let middle = Sandbox::new();
    let archive = Archive::default()
        .directory("a")
        .file("a/.wh..wh..opq", "")
        .directory("a/b")
        .file("a/b/shown", "y");
    middle.unpack(archive).unwrap();
    let below = [middle.layer(), lower.layer()];
    for (name, is_there) in [("a/b/shown", true), ("a/b/hidden", false)] {
        let upper = Sandbox::new();
        let archive = Archive::default().hard_link("alias", name);
        let mut written = upper.unpack(archive).unwrap();
        let completed = below::complete(&upper.layer(), &mut written, &below);
        assert_eq!(completed.is_ok(), is_there, "{name}");
    }
}
