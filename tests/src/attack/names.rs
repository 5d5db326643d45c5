//! Attacks by the name of an entry (59, 72, 73).

use super::{Attack, Outside, Tar};

fn named(path: &[u8], says: &'static str) -> Attack {
    Attack::new(Tar::default().file("good", b"x").entry(b'0', path, b"", b"owned"), says)
}

/// A name that needs an extended header.
fn named_at_length(path: &[u8], says: &'static str) -> Attack {
    Attack::new(Tar::default().file("good", b"x").pax(b'x', &[("path", path)]).file("short", b"owned"), says)
}

pub fn parent_directory(outside: Outside<'_>) -> Attack {
    named_at_length(format!("{}/owned", outside.relative).as_bytes(), "has `..` in its path")
}

pub fn parent_directory_inside(outside: Outside<'_>) -> Attack {
    named_at_length(format!("a/../{}/owned", outside.relative).as_bytes(), "has `..` in its path")
}

pub fn path_from_the_root(outside: Outside<'_>) -> Attack {
    named_at_length(format!("{}/owned", outside.absolute).as_bytes(), "has a path from the root")
}

pub fn windows_drive(_: Outside<'_>) -> Attack {
    named(b"C:\\owned", "begins with a drive")
}

pub fn empty_name(_: Outside<'_>) -> Attack {
    named(b"", "has an empty name")
}

pub fn dot_as_a_file(_: Outside<'_>) -> Attack {
    named(b".", "has an empty or `.` component")
}

pub fn nul_in_a_name(_: Outside<'_>) -> Attack {
    named_at_length(b"good\0.php", "has a NUL byte")
}

pub fn component_of_5000_bytes(_: Outside<'_>) -> Attack {
    named_at_length(&[b'x'; 5000], "too long")
}

pub fn name_that_is_not_utf8(_: Outside<'_>) -> Attack {
    named(b"\xff\xfe", "is not UTF-8")
}

pub fn same_path_twice(_: Outside<'_>) -> Attack {
    Attack::new(Tar::default().file("index.php", b"seen by who lists it").file("./index.php", b"runs"), "appears twice")
}

pub fn directory_in_place_of_a_file(_: Outside<'_>) -> Attack {
    Attack::new(Tar::default().file("a", b"x").dir("a/"), "appears twice")
}

pub fn depth_of_10000(_: Outside<'_>) -> Attack {
    named_at_length(("d/".repeat(10_000) + "f").as_bytes(), "too long")
}

pub fn depth_of_65(_: Outside<'_>) -> Attack {
    named_at_length(("d/".repeat(64) + "f").as_bytes(), "lies deeper than 64 directories")
}
