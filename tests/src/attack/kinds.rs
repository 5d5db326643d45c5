//! Attacks by the kind of an entry: links, and what is neither file nor directory (60–62, 68). Tar knows no sockets.

use super::{Attack, Outside, Tar};

fn link_to(target: &str, says: &'static str) -> Attack {
    Attack::new(Tar::default().file("good", b"x").link("l", target), says)
}

fn of_kind(kind: u8, target: &[u8], says: &'static str) -> Attack {
    Attack::new(Tar::default().file("good", b"x").link("link", "good").entry(kind, b"bad", target, b""), says)
}

pub fn link_from_the_root(outside: Outside<'_>) -> Attack {
    link_to(outside.absolute, "outside the release; make it relative")
}

pub fn link_out(outside: Outside<'_>) -> Attack {
    link_to(outside.relative, "outside the release")
}

pub fn link_to_proc_self(_: Outside<'_>) -> Attack {
    link_to("/proc/self/cwd", "outside the release; make it relative")
}

/// Word by word `e` stays inside; on disk `a/b/c/l` is `r`, and `r/../..` is outside.
pub fn link_through_a_link(outside: Outside<'_>) -> Attack {
    let target = format!("a/b/c/l/{}", outside.relative);
    Attack::new(Tar::default().dir("r/").link("a/b/c/l", "../../../r").link("e", &target), "`..` may only be at the front")
}

/// Also where the link itself is allowed, nothing is written through it.
pub fn file_through_a_link(outside: Outside<'_>) -> Attack {
    Attack::new(Tar::default().link("l", outside.absolute).file("l/owned", b"x"), "which is not a directory").allowing(outside.absolute)
}

/// CVE-2026-33056: a directory entry over a link changed the mode of what the link led to.
pub fn link_replaced_by_a_directory(outside: Outside<'_>) -> Attack {
    let tar = Tar::default().link("l", outside.absolute).with_mode(0o777).dir("l");
    Attack::new(tar, "appears twice").allowing(outside.absolute)
}

pub fn hard_link_outside(outside: Outside<'_>) -> Attack {
    of_kind(b'1', format!("{}/precious", outside.absolute).as_bytes(), "is a hard link")
}

pub fn hard_link_to_a_link(_: Outside<'_>) -> Attack {
    of_kind(b'1', b"link", "is a hard link")
}

pub fn hard_link_to_what_comes_later(_: Outside<'_>) -> Attack {
    Attack::new(Tar::default().entry(b'1', b"bad", b"later", b"").file("later", b"x"), "is a hard link")
}

pub fn character_device(_: Outside<'_>) -> Attack {
    of_kind(b'3', b"", "is a character device")
}

pub fn block_device(_: Outside<'_>) -> Attack {
    of_kind(b'4', b"", "is a block device")
}

pub fn fifo(_: Outside<'_>) -> Attack {
    of_kind(b'6', b"", "is a fifo")
}

pub fn contiguous_file(_: Outside<'_>) -> Attack {
    of_kind(b'7', b"", "is a contiguous file")
}

pub fn unknown_kind(_: Outside<'_>) -> Attack {
    of_kind(b'Z', b"", "is of an unknown kind")
}

pub fn sparse_file(_: Outside<'_>) -> Attack {
    of_kind(b'S', b"", "is a sparse file")
}

pub fn content_of_a_directory(_: Outside<'_>) -> Attack {
    Attack::new(Tar::default().entry(b'5', b"d/", b"", b"hidden"), "has 6 bytes of content")
}
