//! Attacks by headers that say different things to different readers (66–68).

use super::{Attack, Outside, Tar};

const TWICE: &str = "says the same thing twice";
const NO_NUMBER: &str = "has a size that is not a number";
const SPARSE: &str = "describes a sparse file";
/// The largest hole that a size can name.
const EIB_8: &[u8] = b"9223372036854775807";

/// A whole archive hides in the content of a file that one reader takes for empty.
fn with_hidden_archive(size: &[u8]) -> Attack {
    let hidden = Tar::default().file("hidden", b"x").open();
    Attack::new(Tar::default().pax(b'x', &[("size", size)]).file("outer", &hidden), "has two sizes")
}

/// CVE-2025-62518.
pub fn extended_size_smaller(_: Outside<'_>) -> Attack {
    with_hidden_archive(b"0")
}

/// CVE-2026-33055.
pub fn extended_size_larger(_: Outside<'_>) -> Attack {
    with_hidden_archive(b"4096")
}

pub fn extended_name_before_a_gnu_name(_: Outside<'_>) -> Attack {
    Attack::new(Tar::default().pax(b'x', &[("path", b"a")]).entry(b'L', b"L", b"", b"b\0").file("c", b"x"), TWICE)
}

pub fn gnu_name_before_an_extended_name(_: Outside<'_>) -> Attack {
    Attack::new(Tar::default().entry(b'L', b"L", b"", b"b\0").pax(b'x', &[("path", b"a")]).file("c", b"x"), TWICE)
}

pub fn extended_path_twice(_: Outside<'_>) -> Attack {
    Attack::new(Tar::default().pax(b'x', &[("path", b"a"), ("path", b"b")]).file("c", b"x"), TWICE)
}

pub fn extended_record_without_end(_: Outside<'_>) -> Attack {
    Attack::new(Tar::default().entry(b'x', b"pax", b"", b"99 path=a").file("c", b"x"), "has a malformed extended record")
}

pub fn extended_size_negative(_: Outside<'_>) -> Attack {
    Attack::new(Tar::default().pax(b'x', &[("size", b"-1")]).file("c", b"x"), "has an extended size that is not a number")
}

pub fn size_negative(_: Outside<'_>) -> Attack {
    Attack::new(Tar::default().file("c", b"").with_first_size(*b"-0000000001\0"), NO_NUMBER)
}

pub fn size_of_no_number(_: Outside<'_>) -> Attack {
    Attack::new(Tar::default().file("c", b"").with_first_size(*b"0000000009x\0"), NO_NUMBER)
}

pub fn size_base256_negative(_: Outside<'_>) -> Attack {
    Attack::new(Tar::default().file("c", b"").with_first_size([0xff; 12]), NO_NUMBER)
}

/// Its last eight bytes are 0.
pub fn size_beyond_64_bits(_: Outside<'_>) -> Attack {
    Attack::new(Tar::default().file("c", b"").with_first_size([0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]), NO_NUMBER)
}

pub fn size_of_8_eib(_: Outside<'_>) -> Attack {
    let size = [0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    Attack::new(Tar::default().file("c", b"").with_first_size(size), "it has more than 1048576 bytes unpacked")
}

pub fn gnu_name_of_one_gib(_: Outside<'_>) -> Attack {
    Attack::new(Tar::default().claiming(b'L', b"L", b"", 1 << 30), "is an extension that is too long")
}

pub fn extended_header_of_one_gib(_: Outside<'_>) -> Attack {
    Attack::new(Tar::default().claiming(b'x', b"x", b"", 1 << 30), "is an extension that is too long")
}

pub fn global_header_with_a_path(_: Outside<'_>) -> Attack {
    Attack::new(Tar::default().pax(b'g', &[("path", b"everywhere")]).file("c", b"x"), "is a global one that changes every entry's path")
}

pub fn sparse_0_0(_: Outside<'_>) -> Attack {
    let map: &[(&str, &[u8])] =
        &[("GNU.sparse.size", EIB_8), ("GNU.sparse.numblocks", b"1"), ("GNU.sparse.offset", EIB_8), ("GNU.sparse.numbytes", b"1")];
    Attack::new(Tar::default().pax(b'x', map).file("c", b"x"), SPARSE)
}

pub fn sparse_0_1(_: Outside<'_>) -> Attack {
    let map: &[(&str, &[u8])] = &[("GNU.sparse.size", EIB_8), ("GNU.sparse.map", b"9223372036854775806,1")];
    Attack::new(Tar::default().pax(b'x', map).file("c", b"x"), SPARSE)
}

pub fn sparse_1_0(_: Outside<'_>) -> Attack {
    let map: &[(&str, &[u8])] = &[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", EIB_8)];
    Attack::new(Tar::default().pax(b'x', map).file("GNUSparseFile.0/c", b"1\n9223372036854775806\n1\n"), SPARSE)
}

pub fn wrong_checksum(_: Outside<'_>) -> Attack {
    Attack::new(Tar::default().file("good", b"x").with_byte(0, b'b'), "has a wrong checksum")
}
