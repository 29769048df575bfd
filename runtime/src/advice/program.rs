//! Why a program that was found and may be executed does not run.
//!
//! `execve(2)` answers `ENOENT` when not the program but its *interpreter* is
//! missing: the one in the first line of a script, or the dynamic linker that
//! an ELF file names in its `PT_INTERP` header. An image built for another C
//! library, or with `\r\n` at the end of its scripts' lines, shows it. And
//! `ENOEXEC` says that the file is of no form that the kernel knows, most often
//! the right form for another processor. See elf(5) and execve(2).
//!
//! The file is the image's, so nothing in it is believed: each read has its
//! bounds, and what is shown is quoted.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::statvfs::{FsFlags, statvfs};

/// As much of a script's first line as the kernel reads (`BINPRM_BUF_SIZE`).
const FIRST_LINE_BYTES: usize = 256;
const PT_INTERP: u32 = 3;
/// More headers than any linker writes.
const HEADERS_LIMIT: u16 = 64;
/// `PATH_MAX`.
const PATH_LIMIT_BYTES: u64 = 4096;

/// `e_machine` of elf(5), of what containers are built for.
const MACHINES: &[(u16, &str)] = &[
    (3, "i386"),
    (8, "mips"),
    (20, "powerpc"),
    (21, "ppc64le"),
    (22, "s390x"),
    (40, "arm"),
    (62, "x86_64"),
    (183, "aarch64"),
    (243, "riscv64"),
    (258, "loongarch64"),
];

/// What a look at the file says about the kernel's refusal to execute it.
pub fn look(program: &Path, errno: Errno) -> Option<String> {
    match errno {
        Errno::ENOENT => missing_interpreter(program),
        Errno::ENOEXEC => wrong_form(program),
        Errno::EACCES => forbidden(program),
        _ => None,
    }
}

fn missing_interpreter(program: &Path) -> Option<String> {
    let mut file = File::open(program).ok()?;
    let interpreter = match read_head(&mut file)? {
        Head::Script(line) => line,
        Head::Elf(elf) => elf.read_interpreter(&mut file)?,
        Head::Other => return None,
    };
    if Path::new(&interpreter).exists() {
        return None;
    }
    let why = match interpreter.ends_with('\r') {
        true => "the first line ends with \\r\\n: save the script with \\n alone",
        false => "put it into the image, or use a program that needs none",
    };
    Some(format!(
        "the program is there, its interpreter {interpreter:?} is not: {why}"
    ))
}

fn wrong_form(program: &Path) -> Option<String> {
    let mut file = File::open(program).ok()?;
    Some(match read_head(&mut file)? {
        Head::Elf(elf) => {
            let known = MACHINES.iter().find(|(number, _)| *number == elf.machine);
            let other = known.map_or_else(
                || format!("machine {}", elf.machine),
                |(_, name)| (*name).to_owned(),
            );
            format!(
                "the program is for {other}, this machine is {}: choose the image for it, or register an emulator (binfmt_misc)",
                std::env::consts::ARCH
            )
        }
        Head::Script(_) => "the interpreter in the program's first line is itself of no form that the kernel knows".to_owned(),
        Head::Other => "the program is neither an ELF file nor a script that begins with #!: give it a first line such as #!/bin/sh, or name the shell in process.args".to_owned(),
    })
}

fn forbidden(program: &Path) -> Option<String> {
    let mounted = statvfs(program).ok()?;
    if mounted.flags().contains(FsFlags::ST_NOEXEC) {
        return Some("it lies on a mount with the option noexec: take that option away".to_owned());
    }
    let mut file = File::open(program).ok()?;
    match read_head(&mut file)? {
        Head::Script(interpreter) if Path::new(&interpreter).exists() => Some(format!(
            "its interpreter {interpreter:?} may not be executed by process.user"
        )),
        _ => None,
    }
}

/// What a file begins with.
enum Head {
    /// `#!` and the interpreter's path.
    Script(String),
    Elf(Elf),
    Other,
}

/// What is needed of an ELF header.
struct Elf {
    machine: u16,
    wide: bool,
    big_endian: bool,
    headers_at: u64,
    header_bytes: u16,
    headers: u16,
}

fn read_head(file: &mut File) -> Option<Head> {
    let mut head = Vec::with_capacity(FIRST_LINE_BYTES);
    file.take(FIRST_LINE_BYTES as u64)
        .read_to_end(&mut head)
        .ok()?;
    if let Some(rest) = head.strip_prefix(b"#!") {
        let line = rest.split(|byte| *byte == b'\n').next().unwrap_or(rest);
        let text = String::from_utf8_lossy(line);
        let words = text.trim_matches([' ', '\t']);
        let path = words.split([' ', '\t']).next().unwrap_or("");
        return Some(Head::Script(path.to_owned()));
    }
    Some(Elf::parse(&head).map_or(Head::Other, Head::Elf))
}

impl Elf {
    fn parse(head: &[u8]) -> Option<Elf> {
        if !head.starts_with(b"\x7fELF") {
            return None;
        }
        let wide = *head.get(4)? == 2;
        let mut elf = Elf {
            machine: 0,
            wide,
            big_endian: *head.get(5)? == 2,
            headers_at: 0,
            header_bytes: 0,
            headers: 0,
        };
        elf.machine = elf.number(head, 18, 2)? as u16;
        let (offset, length, size, count) = if wide {
            (32, 8, 54, 56)
        } else {
            (28, 4, 42, 44)
        };
        elf.headers_at = elf.number(head, offset, length)?;
        elf.header_bytes = elf.number(head, size, 2)? as u16;
        elf.headers = (elf.number(head, count, 2)? as u16).min(HEADERS_LIMIT);
        Some(elf)
    }

    fn number(&self, bytes: &[u8], at: usize, length: usize) -> Option<u64> {
        let field = bytes.get(at..at.checked_add(length)?)?;
        let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        Some(match self.big_endian {
            true => field.iter().fold(0, add),
            false => field.iter().rev().fold(0, add),
        })
    }

    fn read_interpreter(&self, file: &mut File) -> Option<String> {
        let mut table = vec![0; usize::from(self.header_bytes) * usize::from(self.headers)];
        file.seek(SeekFrom::Start(self.headers_at)).ok()?;
        file.read_exact(&mut table).ok()?;
        let mut rows = table.chunks_exact(usize::from(self.header_bytes).max(1));
        let row = rows.find(|row| self.number(row, 0, 4) == Some(u64::from(PT_INTERP)))?;
        let (offset, size, length) = if self.wide { (8, 32, 8) } else { (4, 16, 4) };
        let at = self.number(row, offset, length)?;
        let bytes = self.number(row, size, length)?.min(PATH_LIMIT_BYTES);
        file.seek(SeekFrom::Start(at)).ok()?;
        let mut path = Vec::new();
        file.take(bytes).read_to_end(&mut path).ok()?;
        let end = path
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(path.len());
        Some(String::from_utf8_lossy(&path[..end]).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{Errno, look};

    fn file(folder: &Path, bytes: &[u8]) -> PathBuf {
        let path = folder.join("program");
        std::fs::write(&path, bytes).expect("a file in a folder of ours");
        path
    }

    fn told(bytes: &[u8], errno: Errno) -> Option<String> {
        let folder = tempfile::tempdir().expect("a folder");
        look(&file(folder.path(), bytes), errno)
    }

    /// An ELF file of 64 bits with one header, for an interpreter.
    fn elf(machine: u16, interpreter: &str) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[32..40].copy_from_slice(&64u64.to_le_bytes());
        bytes[54..56].copy_from_slice(&56u16.to_le_bytes());
        bytes[56..58].copy_from_slice(&1u16.to_le_bytes());
        bytes[64..68].copy_from_slice(&3u32.to_le_bytes());
        bytes[72..80].copy_from_slice(&120u64.to_le_bytes());
        bytes[96..104].copy_from_slice(&(interpreter.len() as u64).to_le_bytes());
        bytes.extend_from_slice(interpreter.as_bytes());
        bytes
    }

    #[test]
    fn a_missing_interpreter_is_named() {
        let script = told(b"#! /nonesuch/python -u\nprint()\n", Errno::ENOENT);
        assert!(script.is_some_and(|text| text.contains("\"/nonesuch/python\"")));
        let windows = told(b"#!/bin/sh\r\necho\r\n", Errno::ENOENT);
        assert!(windows.is_some_and(|text| text.contains("\\r\\n")));
        let linked = told(&elf(62, "/nonesuch/ld.so\0"), Errno::ENOENT);
        assert!(linked.is_some_and(|text| text.contains("\"/nonesuch/ld.so\"")));
    }

    #[test]
    fn another_machines_program_is_recognized() {
        let text = told(&elf(243, ""), Errno::ENOEXEC);
        assert!(text.is_some_and(|text| text.contains("for riscv64")));
        let text = told(b"echo hello\n", Errno::ENOEXEC);
        assert!(text.is_some_and(|text| text.contains("#!/bin/sh")));
    }

    #[test]
    fn nonsense_is_no_trouble() {
        for bytes in [
            &b""[..],
            b"#!",
            b"\x7fELF",
            &elf(62, "")[..70],
            &[0xff; 300],
        ] {
            let _ = told(bytes, Errno::ENOENT);
            let _ = told(bytes, Errno::ENOEXEC);
        }
        let mut wild = elf(62, "/x\0");
        wild[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(told(&wild, Errno::ENOENT), None);
    }
}
