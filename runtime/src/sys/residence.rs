//! Memory that a process holds and does not need: `VmRSS` in `/proc/PID/status`.
//!
//! A process that worked hard for a moment and then sleeps for weeks holds two
//! things for nothing: blocks that it has freed, which `free(3)` keeps for the
//! next `malloc(3)`, and pages of its program that it ran through once. The
//! latter are the page cache's, shared by all who run the program and read
//! again when needed; but the kernel counts them, and takes them back, one
//! process at a time.

use std::ops::Range;

/// `int malloc_trim(size_t pad);`
///
/// Gives free memory at the top of the heap, and whole free pages inside it,
/// back to the kernel.
pub fn malloc_trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes the allocator's own locks and touches only
    // blocks that are free; no argument of ours is read as a pointer.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The program's own code in this process's memory.
#[derive(Debug)]
pub struct ProgramText {
    range: Range<usize>,
}

impl ProgramText {
    /// Finds it in `/proc/self/maps`: the mapping that this function lies in.
    /// `None` when that cannot be read or is not what it should be.
    pub fn find() -> Option<ProgramText> {
        let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
        let here = ProgramText::find as *const () as usize;
        text_around(&maps, here).map(|range| ProgramText { range })
    }

    /// `int madvise(void *addr, size_t length, MADV_DONTNEED);`
    ///
    /// Takes the code's pages out of the process. The next instruction brings
    /// back the few that it needs, from the page cache.
    pub fn release(&self) {
        // SAFETY: the range is a mapping of a file, executable, not writable
        // and private (checked by `text_around`), and a program's own code is
        // never unmapped. Its pages hold what the file holds, so that those
        // read again are the same.
        unsafe {
            libc::madvise(
                std::ptr::with_exposed_provenance_mut(self.range.start),
                self.range.len(),
                libc::MADV_DONTNEED,
            );
        }
    }
}

/// The mapping of a file around `address`, if it is code that cannot have been
/// changed. Pure.
fn text_around(maps: &str, address: usize) -> Option<Range<usize>> {
    maps.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
        let is_code = fields.next()? == "r-xp";
        let is_file = fields.nth(2)? != "0";
        (is_code && is_file && range.contains(&address)).then_some(range)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unchangeable_code_of_a_file_is_found() {
        let maps = "\
00400000-00452000 r--p 00000000 08:02 173521 /bin/program
00452000-00500000 r-xp 00052000 08:02 173521 /bin/program
00500000-00510000 rw-p 00100000 08:02 173521 /bin/program
7f0000000000-7f0000001000 r-xp 00000000 00:00 0 [vdso]
";
        assert_eq!(text_around(maps, 0x46_0000), Some(0x45_2000..0x50_0000));
        assert_eq!(text_around(maps, 0x40_0000), None);
        assert_eq!(text_around(maps, 0x50_0000), None);
        assert_eq!(text_around(maps, 0x7f00_0000_0000), None);
    }

    #[test]
    fn the_program_runs_on_without_its_pages() {
        let text = ProgramText::find().unwrap();
        text.release();
        malloc_trim();
        text.release();
        assert!(
            text.range
                .contains(&(ProgramText::find as *const () as usize))
        );
    }
}
