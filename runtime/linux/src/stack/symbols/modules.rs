//! The code that is mapped, and its call-frame information.

use std::fs::{self, File};
use std::ops::Range;

use framehop::{ExplicitModuleSectionInfo, Module};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Object, ObjectSection, ReadCache};

/// Where code is mapped, from which file.
struct Mapping {
    range: Range<u64>,
    offset: u64,
    path: String,
}

/// The executable mappings and their tables; those without a file, or with one that cannot be read, have none.
pub(super) fn of_this_process() -> Vec<Module<Vec<u8>>> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let program = fs::read_link("/proc/self/exe").map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    let modules = maps.lines().filter_map(mapping).map(|mapping| {
        // By this name also when it has been replaced meanwhile.
        let file = if mapping.path == program { "/proc/self/exe" } else { &mapping.path };
        let (bias, sections) = File::open(file).ok().and_then(|file| tables(&file, &mapping)).unwrap_or_default();
        Module::new(mapping.path.clone(), mapping.range.clone(), bias, sections)
    });
    modules.collect()
}

/// A line of `/proc/self/maps`, if it is one of code.
fn mapping(line: &str) -> Option<Mapping> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let executable = fields.next()?.contains('x');
    let offset = fields.next()?;
    let path = fields.nth(2)?.trim().to_owned();
    let number = |text| u64::from_str_radix(text, 16).ok();
    executable.then_some(Mapping { range: number(start)?..number(end)?, offset: number(offset)?, path })
}

/// By how much the file's addresses are moved, and its tables.
fn tables(file: &File, mapping: &Mapping) -> Option<(u64, ExplicitModuleSectionInfo<Vec<u8>>)> {
    let data = ReadCache::new(file);
    let elf = object::File::parse(&data).ok()?;
    let section = |name| {
        let section = elf.section_by_name(name)?;
        let range = section.address()..section.address() + section.size();
        Some((range, section.data().ok()?.to_vec()))
    };
    let ((eh_frame_svma, eh_frame), (eh_frame_hdr_svma, eh_frame_hdr)) =
        (section(".eh_frame").unzip(), section(".eh_frame_hdr").unzip());
    let sections = ExplicitModuleSectionInfo {
        eh_frame_svma,
        eh_frame,
        eh_frame_hdr_svma,
        eh_frame_hdr,
        got_svma: section(".got").map(|(range, _)| range),
        ..ExplicitModuleSectionInfo::default()
    };
    Some((bias(&data, mapping)?, sections))
}

fn bias(data: &ReadCache<&File>, mapping: &Mapping) -> Option<u64> {
    let header = object::elf::FileHeader64::<object::Endianness>::parse(data).ok()?;
    let endian = header.endian().ok()?;
    let segments = header.program_headers(endian, data).ok()?;
    let holds = |segment: &&object::elf::ProgramHeader64<_>| {
        let start = segment.p_offset(endian);
        // The mapping begins at a page, the segment perhaps within one.
        segment.p_type(endian) == object::elf::PT_LOAD
            && (mapping.offset..mapping.offset + (mapping.range.end - mapping.range.start)).contains(&start)
    };
    let segment = segments.iter().find(holds)?;
    let stated = segment.p_vaddr(endian).wrapping_sub(segment.p_offset(endian).wrapping_sub(mapping.offset));
    Some(mapping.range.start.wrapping_sub(stated))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_code_are_taken_whatever_their_name() {
        let line = "55d0c0a14000-55d0c0b2f000 r-xp 00014000 fe:00 1234   /usr/bin/a name (deleted)";
        let code = mapping(line).expect("code");
        assert_eq!((code.range, code.offset), (0x55d0_c0a1_4000..0x55d0_c0b2_f000, 0x14000));
        assert_eq!(code.path, "/usr/bin/a name (deleted)");
        assert!(mapping("7f00-7f10 rw-p 00000000 00:00 0 ").is_none());
        assert!(mapping("7ffe-7fff r-xp 00000000 00:00 0                  [vdso]").is_some());
        assert!(mapping("").is_none());
    }
}
