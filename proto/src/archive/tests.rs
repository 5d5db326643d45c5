use std::io::{Read, Write};

use tar::{EntryType, Header};

use super::*;
use crate::manifest::Compression;

/// Builds a tar stream with whatever headers a test wants; the names are not checked by anyone.
#[derive(Default, Clone)]
struct Tar(Vec<u8>);

impl Tar {
    fn entry(mut self, kind: u8, path: &[u8], target: &[u8], content: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..path.len()].copy_from_slice(path);
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target);
        header.set_entry_type(EntryType::new(kind));
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.content(content)
    }
    fn content(mut self, content: &[u8]) -> Self {
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }
    fn file(self, path: &str, content: &[u8]) -> Self {
        self.entry(b'0', path.as_bytes(), b"", content)
    }
    fn dir(self, path: &str) -> Self {
        self.entry(b'5', path.as_bytes(), b"", b"")
    }
    fn link(self, path: &str, target: &str) -> Self {
        self.entry(b'2', path.as_bytes(), target.as_bytes(), b"")
    }
    fn pax(self, kind: u8, records: &[(&str, &[u8])]) -> Self {
        let mut block = Vec::new();
        for (key, value) in records {
            let bare = key.len() + value.len() + 3;
            let length = (1..5).map(|digits| bare + digits).find(|l| l.to_string().len() + bare == *l).expect("short record");
            block.extend_from_slice(format!("{length} {key}=").as_bytes());
            block.extend_from_slice(value);
            block.push(b'\n');
        }
        self.entry(kind, b"pax", b"", &block)
    }
    fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

fn read(tar: &[u8], rules: ArchiveRules) -> Result<(Vec<Entry>, Totals), ArchiveError> {
    let mut archive = ArchiveReader::new(tar, rules);
    let mut entries = Vec::new();
    while let Some(entry) = archive.next_entry()? {
        entries.push(entry);
    }
    Ok((entries, archive.finish()?.1))
}

fn problem(tar: Tar) -> Problem {
    match read(&tar.end(), ArchiveRules::default()) {
        Err(ArchiveError::Entry { problem, .. }) => problem,
        other => panic!("expected one bad entry, not {other:?}"),
    }
}

fn header_problem(tar: Tar) -> &'static str {
    match read(&tar.end(), ArchiveRules::default()) {
        Err(ArchiveError::Header { problem, .. }) => problem,
        other => panic!("expected a bad header, not {other:?}"),
    }
}

fn good() -> Tar {
    Tar::default().dir("./").dir("./bin/").file("./bin/run", b"#!/bin/sh").file("a/b/c", &[7; 600]).link("a/up", "../bin/run").dir("a/")
}

#[test]
fn files_directories_and_inner_links_are_accepted_and_counted() {
    let (entries, totals) = read(&good().end(), ArchiveRules::default()).expect("accepted");
    let paths: Vec<&str> = entries.iter().map(|e| e.path.as_str()).collect();
    assert_eq!(paths, ["bin", "bin/run", "a/b/c", "a/up"], "an implied directory is made once");
    assert_eq!(entries[2].implied, ["a", "a/b"]);
    assert_eq!(totals, Totals { entries: 6, unpacked_size: 609 });
}

#[test]
fn content_is_what_the_file_holds_and_may_be_left_unread() {
    let tar = good().end();
    let mut archive = ArchiveReader::new(tar.as_slice(), ArchiveRules::default());
    while let Some(entry) = archive.next_entry().expect("reads") {
        if entry.path == "a/b/c" {
            let mut content = Vec::new();
            archive.read_to_end(&mut content).expect("reads");
            assert_eq!(content, [7; 600]);
        }
    }
}

#[test]
fn bad_names_refuse_the_archive() {
    let file = |path: &[u8]| Tar::default().entry(b'0', path, b"", b"");
    assert_eq!(problem(file(b"../x")), Problem::DotDot);
    assert_eq!(problem(file(b"a/../../x")), Problem::DotDot);
    assert_eq!(problem(file(b"/abs")), Problem::Absolute);
    assert_eq!(problem(Tar::default().dir("/")), Problem::Absolute);
    assert_eq!(problem(file(b"C:\\x")), Problem::Drive);
    assert!(read(&Tar::default().file("dev-disk\\x2dby.mount", b"").file("a:b", b"").end(), ArchiveRules::default()).is_ok());
    assert_eq!(problem(file(b"")), Problem::EmptyName);
    assert_eq!(problem(file(b".")), Problem::DotInside);
    assert_eq!(problem(file(b"a//b")), Problem::DotInside);
    assert_eq!(problem(file(b"a/./b")), Problem::DotInside);
    assert_eq!(problem(file(b"\xff\xfe")), Problem::NotUtf8);
    assert_eq!(problem(file(b"a/")), Problem::Kind("a file whose name ends in a slash"));
    assert_eq!(problem(Tar::default().pax(b'x', &[("path", b"a\0b")]).file("a", b"")), Problem::Nul);
    let long = "x".repeat(256);
    assert_eq!(problem(Tar::default().pax(b'x', &[("path", long.as_bytes())]).file("a", b"")), Problem::TooLong);
    let deep = "d/".repeat(PATH_DEPTH_MAX) + "f";
    assert_eq!(problem(Tar::default().pax(b'x', &[("path", deep.as_bytes())]).file("a", b"")), Problem::TooDeep);
    let endless = "d/".repeat(PATH_BYTES_MAX) + "f";
    assert_eq!(problem(Tar::default().pax(b'x', &[("path", endless.as_bytes())]).file("a", b"")), Problem::TooLong);
}

#[test]
fn the_error_names_the_path() {
    let error = read(&Tar::default().file("var/../etc/passwd", b"").end(), ArchiveRules::default()).expect_err("refused");
    assert_eq!(error.to_string(), "the archive is refused: \"var/../etc/passwd\" has `..` in its path");
}

#[test]
fn every_other_kind_refuses_the_archive() {
    for kind in [b'1', b'3', b'4', b'6', b'7', b'S', b'Z', b'D', b'M', b'V'] {
        let found = problem(Tar::default().file("a", b"").entry(kind, b"bad", b"a", b""));
        assert!(matches!(found, Problem::Kind(_)), "{}: {found:?}", kind as char);
    }
}

#[test]
fn duplicates_and_paths_below_links_and_files_refuse_the_archive() {
    let below = |name: &str| Problem::BelowNonDirectory(name.into());
    assert_eq!(problem(Tar::default().file("a", b"1").file("a", b"2")), Problem::Duplicate);
    assert_eq!(problem(Tar::default().file("a", b"1").file("./a", b"2")), Problem::Duplicate);
    assert_eq!(problem(Tar::default().dir("a/").dir("a/")), Problem::Duplicate);
    assert_eq!(problem(Tar::default().file("a/b", b"").link("a", "c")), Problem::Duplicate);
    assert_eq!(problem(Tar::default().link("a", "b").file("a/x", b"")), below("a"));
    assert_eq!(problem(Tar::default().link("a", "b").dir("a/x/y")), below("a"));
    assert_eq!(problem(Tar::default().file("a", b"").file("a/x", b"")), below("a"));
    assert_eq!(problem(Tar::default().link("a", "b").dir("a")), Problem::Duplicate, "a link is not replaced by a directory");
}

#[test]
fn links_stay_inside_the_release() {
    let link = |target: &str| problem(Tar::default().link("a/b/l", target));
    let escapes = |target: &str| Problem::LinkEscapes(target.into());
    assert_eq!(link("../../../x"), escapes("../../../x"));
    assert_eq!(link("./.././../../x"), escapes("./.././../../x"));
    assert_eq!(link("/etc/passwd"), Problem::LinkAbsolute("/etc/passwd".into()));
    assert_eq!(link("c/../d"), Problem::LinkDotDotInside("c/../d".into()));
    assert_eq!(problem(Tar::default().link("l", "")), Problem::LinkEmpty);
    assert_eq!(problem(Tar::default().link("l", "..")), escapes(".."));
    for good in ["x", "./x", "../x", "../../x", "..", "../..", "x//y"] {
        read(&Tar::default().link("a/b/l", good).end(), ArchiveRules::default()).expect(good);
    }
    assert_eq!(problem(Tar::default().pax(b'x', &[("linkpath", b"a\0b")]).link("l", "x")), Problem::Nul);
}

#[test]
fn a_link_through_another_link_cannot_climb_out() {
    // Word by word e stays inside; on disk a/b/c/l is r, and r/../../x is outside.
    let tar = Tar::default().dir("r").link("a/b/c/l", "../../../r").link("e", "a/b/c/l/../../x");
    assert_eq!(problem(tar), Problem::LinkDotDotInside("a/b/c/l/../../x".into()));
}

#[test]
fn strip_components_counts_for_links_too() {
    let rules = ArchiveRules { strip_components: 1, ..ArchiveRules::default() };
    let (entries, totals) = read(&Tar::default().dir("app-1/").file("app-1/a", b"x").end(), rules.clone()).expect("accepted");
    assert_eq!((entries.len(), entries[0].path.as_str(), totals.entries), (1, "a", 1));
    let escapes = read(&Tar::default().link("app-1/l", "../x").end(), rules.clone());
    assert!(matches!(escapes, Err(ArchiveError::Entry { problem: Problem::LinkEscapes(_), .. })));
    let stripped = read(&Tar::default().file("README", b"").end(), rules);
    assert!(matches!(stripped, Err(ArchiveError::Entry { problem: Problem::StrippedAway, .. })));
}

#[test]
fn absolute_links_need_to_be_allowed() {
    let rules = |pattern: &str| ArchiveRules { allow_symlinks_to: vec![pattern.into()], ..ArchiveRules::default() };
    let try_one = |pattern: &str, target: &str| read(&Tar::default().link("l", target).end(), rules(pattern)).is_ok();
    assert!(try_one("/usr/bin/python3", "/usr/bin/python3"));
    assert!(try_one("/usr/bin/python3*", "/usr/bin/python3.11"));
    assert!(try_one("/opt/*/bin/*-x", "/opt/a/bin/b-x"));
    assert!(try_one("/opt/a*b*c", "/opt/a1b2c"));
    for (pattern, target) in [
        ("/usr/bin/python3*", "/usr/bin/python3/../../../etc"),
        ("/usr/bin/*", "/usr/bin/a/b"),
        ("/usr/*", "/usr/.."),
        ("/usr/bin/python3", "/usr/bin/python3.11"),
        ("/opt/a*b*c", "/opt/acb"),
        ("/opt/ab*ba", "/opt/aba"),
        ("*", "/etc"),
    ] {
        assert!(!try_one(pattern, target), "{pattern} {target}");
    }
}

#[test]
fn the_signed_numbers_are_limits() {
    let rules = |entries_max, unpacked_bytes_max| ArchiveRules { entries_max, unpacked_bytes_max, ..ArchiveRules::default() };
    assert!(read(&good().end(), rules(6, 609)).is_ok());
    assert!(matches!(read(&good().end(), rules(5, 609)), Err(ArchiveError::TooMuch { what: "entries", .. })));
    assert!(matches!(read(&good().end(), rules(6, 608)), Err(ArchiveError::TooMuch { what: "bytes unpacked", .. })));
}

#[test]
fn extended_headers_may_name_things_but_not_change_sizes() {
    let long = "d/".repeat(60) + "f";
    let (entries, _) =
        read(&Tar::default().pax(b'x', &[("path", long.as_bytes()), ("mtime", b"1")]).file("short", b"x").end(), ArchiveRules::default())
            .expect("a long name");
    assert_eq!(entries[0].path, long);
    let gnu = Tar::default().entry(b'L', b"././@LongLink", b"", format!("{long}\0").as_bytes()).file("short", b"x");
    assert_eq!(read(&gnu.end(), ArchiveRules::default()).expect("a GNU name").0[0].path, long);

    assert_eq!(problem(Tar::default().pax(b'x', &[("size", b"1024")]).file("a", b"x")), Problem::TwoSizes { header: 1, extended: 1024 });
    assert_eq!(problem(Tar::default().pax(b'x', &[("size", b"0")]).file("a", b"x")), Problem::TwoSizes { header: 1, extended: 0 });
    assert!(read(&Tar::default().pax(b'x', &[("size", b"1")]).file("a", b"x").end(), ArchiveRules::default()).is_ok());
}

#[test]
fn odd_extended_headers_refuse_the_archive() {
    let twice = "says the same thing twice";
    assert_eq!(header_problem(Tar::default().pax(b'x', &[("path", b"a"), ("path", b"b")]).file("c", b"")), twice);
    assert_eq!(header_problem(Tar::default().entry(b'L', b"L", b"", b"a\0").pax(b'x', &[("path", b"b")]).file("c", b"")), twice);
    assert_eq!(header_problem(Tar::default().pax(b'x', &[("GNU.sparse.major", b"1")]).file("c", b"")), "describes a sparse file");
    assert_eq!(header_problem(Tar::default().pax(b'x', &[("size", b"-1")]).file("c", b"")), "has an extended size that is not a number");
    let global = "is a global one that changes every entry's path or size";
    assert_eq!(header_problem(Tar::default().pax(b'g', &[("path", b"x")]).file("c", b"")), global);
    assert!(read(&Tar::default().pax(b'g', &[("comment", b"from git")]).file("c", b"").end(), ArchiveRules::default()).is_ok());
    for malformed in ["5 a=b", "9 ab\n", "x a=b\n", "99 a=b\n", "3 a\n", "0 a=b\n"] {
        let tar = Tar::default().entry(b'x', b"pax", b"", malformed.as_bytes()).file("c", b"");
        assert_eq!(header_problem(tar), "has a malformed extended record", "{malformed:?}");
    }
    let huge = Tar::default().entry(b'x', b"pax", b"", &vec![b'1'; 65 * 1024]).file("c", b"");
    assert_eq!(header_problem(huge), "is an extension that is too long");
    assert_eq!(header_problem(Tar::default().entry(b'L', b"L", b"", &[b'a'; 4096]).file("c", b"")), "is an extension that is too long");
    let dangling = Tar::default().file("c", b"").pax(b'x', &[("path", b"a")]);
    assert_eq!(header_problem(dangling), "is the end, but an extended header announced an entry");
}

#[test]
fn directories_and_links_have_no_content() {
    assert_eq!(problem(Tar::default().entry(b'5', b"d", b"", b"x")), Problem::Content(1));
    assert_eq!(problem(Tar::default().entry(b'2', b"l", b"x", b"xy")), Problem::Content(2));
}

#[test]
fn a_changed_header_has_a_wrong_checksum() {
    let mut tar = good().end();
    tar[512] ^= 1;
    assert!(matches!(read(&tar, ArchiveRules::default()), Err(ArchiveError::Header { problem: "has a wrong checksum", .. })));
}

#[test]
fn sizes_that_are_no_numbers_refuse_the_archive() {
    let negative = [0xff; 12];
    let beyond_64_bits = [0x80, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for size in [*b"-0000000001\0", *b"9999999999x\0", negative, beyond_64_bits] {
        let mut tar = Tar::default().file("a", b"").end();
        tar[124..136].copy_from_slice(&size);
        let sum: u32 = tar[..148].iter().chain(&tar[156..512]).map(|b| u32::from(*b)).sum::<u32>() + 8 * 32;
        tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let found = read(&tar, ArchiveRules::default());
        assert!(matches!(found, Err(ArchiveError::Header { problem: "has a size that is not a number", .. })), "{found:?}");
    }
}

#[test]
fn an_archive_cut_anywhere_is_refused() {
    let whole = good().end();
    for length in (0..whole.len()).step_by(512) {
        let cut = read(&whole[..length], ArchiveRules::default());
        assert!(matches!(cut, Err(ArchiveError::Truncated { .. })), "{length}: {cut:?}");
    }
    assert!(matches!(read(&whole[..whole.len() - 1], ArchiveRules::default()), Err(ArchiveError::Truncated { .. })));
}

#[test]
fn only_zeros_may_follow_the_end_and_not_many() {
    let with = |more: &[u8]| read(&[&good().end(), more].concat(), ArchiveRules::default());
    assert!(with(&[0; 10240]).is_ok());
    assert!(matches!(with(b"x"), Err(ArchiveError::DataAfterEnd)));
    assert!(matches!(with(&good().end()), Err(ArchiveError::DataAfterEnd)), "two archives, one after the other");
    assert!(matches!(with(&vec![0; 2 << 20]), Err(ArchiveError::DataAfterEnd)));
    let one_block = [good().0, vec![0; 512], good().end()].concat();
    assert!(matches!(read(&one_block, ArchiveRules::default()), Err(ArchiveError::DataAfterEnd)));
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).expect("compresses")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("compresses");
    encoder.finish().expect("compresses")
}

#[test]
fn both_compressions_are_one_stream_with_nothing_after_it() {
    let tar = good().end();
    for (compression, packed) in [(Compression::Zstd, zstd(&tar)), (Compression::Gzip, gzip(&tar))] {
        let scan = |bytes: &[u8]| scan(compression, bytes, ArchiveRules::default());
        assert_eq!(scan(&packed).expect("accepted"), Totals { entries: 6, unpacked_size: 609 });
        let twice = [packed.clone(), packed.clone()].concat();
        assert!(matches!(scan(&twice), Err(ArchiveError::DataAfterEnd)), "{compression:?}: a second member");
        let trailing = [&packed[..], b"x"].concat();
        assert!(matches!(scan(&trailing), Err(ArchiveError::DataAfterEnd)), "{compression:?}: garbage after the end");
        for length in 0..packed.len() {
            assert!(scan(&packed[..length]).is_err(), "{compression:?} cut at {length}");
        }
    }
}

#[test]
fn a_zstd_window_beyond_the_limit_is_refused() {
    // A frame header that asks for 2 GiB (RFC 8878, 3.1.1.1.2): magic, descriptor without flags, window descriptor, one empty last block.
    let greedy = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x01, 0x00, 0x00];
    let error = scan(Compression::Zstd, greedy.as_slice(), ArchiveRules::default()).expect_err("refused");
    assert!(crate::chain::inline(&error).contains("much memory"), "{}", crate::chain::inline(&error));
}

#[test]
fn a_bomb_stops_at_the_signed_size() {
    let mut tar = Tar::default();
    for i in 0..64 {
        tar = tar.file(&format!("zeros-{i}"), &vec![0; 1 << 20]);
    }
    let packed = gzip(&tar.end());
    assert!(packed.len() < 1 << 20);
    let mut seen = 0;
    let counting = Counting { inner: packed.as_slice(), seen: &mut seen };
    let rules = ArchiveRules { unpacked_bytes_max: 2 << 20, ..ArchiveRules::default() };
    let error = scan(Compression::Gzip, counting, rules).expect_err("refused");
    assert!(matches!(error, ArchiveError::TooMuch { what: "bytes unpacked", .. }));
    assert!(seen <= 256 * 1024, "read on after the limit: {seen}");
}

struct Counting<'a> {
    inner: &'a [u8],
    seen: &'a mut usize,
}

impl Read for Counting<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buf)?;
        *self.seen += n;
        Ok(n)
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(mut bytes: Vec<u8>, flips: Vec<(u16, u8)>) {
        let _ = read(&bytes, ArchiveRules::default());
        bytes = good().end();
        for (at, value) in flips {
            let at = usize::from(at) % bytes.len();
            bytes[at] = value;
        }
        let _ = read(&bytes, ArchiveRules::default());
    }
}
