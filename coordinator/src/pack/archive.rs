//! The deterministic archive: sorted, no times, no owners, two modes; the same tree gives the same bytes anywhere.
//!
//! The format is ustar (POSIX.1-1988), with a PAX header (POSIX.1-2001) for a name, link target or size that does not fit. Written here and
//! not by a library's builder, because those fall back to GNU extensions and to the time and owner of the file.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use coord_proto::archive::Kind;
use nix::fcntl::OFlag;
use tar::{EntryType, Header};

use super::PackError;
use super::walk::Tree;

/// zstd's level: near the knee of its curve; decompression is as fast as at any other.
const LEVEL: i32 = 9;
const BLOCK: usize = 512;
/// Largest size in the header's eleven octal digits.
const USTAR_SIZE_MAX: u64 = 0o777_7777_7777;
/// Bytes copied at once.
const BUFFER_BYTES: usize = 256 * 1024;

/// Writes the tree below `root` as `.tar.zst` to `out`; `progress` gets the bytes read so far.
///
/// # Errors
/// A file that cannot be read or that changes meanwhile, an output that cannot be written.
pub fn write(root: &Path, tree: &Tree, out: &mut impl Write, progress: &mut dyn FnMut(u64)) -> Result<(), PackError> {
    let fail = |source| PackError::File { doing: "write the archive of", path: root.into(), source };
    // One thread: with several, the bytes would depend on how the input is cut.
    let zstd = zstd::stream::write::Encoder::new(out, LEVEL).map_err(fail)?;
    let mut tar = TarWriter { out: zstd };
    let mut done = 0;
    for entry in &tree.entries {
        match &entry.kind {
            Kind::Directory => tar.header(&format!("{}/", entry.path), "", EntryType::Directory, 0, 0o755).map_err(fail)?,
            Kind::Link { target } => tar.header(&entry.path, target, EntryType::Symlink, 0, 0o777).map_err(fail)?,
            Kind::File { size, executable } => {
                let mode = if *executable { 0o755 } else { 0o644 };
                tar.header(&entry.path, "", EntryType::Regular, *size, mode).map_err(fail)?;
                tar.content(&root.join(&entry.path), *size, &mut |bytes| {
                    done += bytes;
                    progress(done);
                })?;
            }
        }
    }
    tar.finish().and_then(|zstd| zstd.finish()?.flush()).map_err(fail)
}

struct TarWriter<W: Write> {
    out: W,
}

impl<W: Write> TarWriter<W> {
    fn header(&mut self, path: &str, target: &str, kind: EntryType, size: u64, mode: u32) -> io::Result<()> {
        let mut header = blank(kind, mode);
        let mut extended = Vec::new();
        if !put_name(&mut header, path) {
            extended.extend(record("path", path));
            // Never empty, for readers that look at it nevertheless.
            put(&mut ustar(&mut header).name, if kind == EntryType::Directory { "pax/" } else { "pax" });
        }
        if !put(&mut ustar(&mut header).linkname, target) {
            extended.extend(record("linkpath", target));
        }
        header.set_size(size.min(USTAR_SIZE_MAX));
        if size > USTAR_SIZE_MAX {
            extended.extend(record("size", &size.to_string()));
            header.set_size(0);
        }
        if !extended.is_empty() {
            self.extended(&extended)?;
        }
        header.set_cksum();
        self.out.write_all(header.as_bytes())
    }

    fn extended(&mut self, records: &[u8]) -> io::Result<()> {
        let mut header = blank(EntryType::XHeader, 0o644);
        put(&mut ustar(&mut header).name, "pax");
        header.set_size(records.len() as u64);
        header.set_cksum();
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(records)?;
        self.pad(records.len() as u64)
    }

    fn content(&mut self, path: &Path, size: u64, progress: &mut dyn FnMut(u64)) -> Result<(), PackError> {
        // Not through a link that took the file's place since the tree was read.
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let mut file = file.map_err(PackError::file("read", path))?.take(size.saturating_add(1));
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut left = size;
        loop {
            let read = file.read(&mut buffer).map_err(PackError::file("read", path))?;
            match (read as u64, left) {
                (0, 0) => break,
                (0, _) => return Err(PackError::Changed { path: path.into() }),
                (more, _) if more > left => return Err(PackError::Changed { path: path.into() }),
                (more, _) => left -= more,
            }
            self.out.write_all(&buffer[..read]).map_err(PackError::file("write the archive with", path))?;
            progress(read as u64);
        }
        self.pad(size).map_err(PackError::file("write the archive with", path))
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let rest = usize::try_from(size % BLOCK as u64).unwrap_or(0);
        if rest == 0 { Ok(()) } else { self.out.write_all(&[0; BLOCK][rest..]) }
    }

    fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        Ok(self.out)
    }
}

/// A ustar header without time, owner and group.
fn blank(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn ustar(header: &mut Header) -> &mut tar::UstarHeader {
    header.as_ustar_mut().expect("made by Header::new_ustar")
}

/// The path in `name`, or split at a slash into `prefix` and `name`; false when it does not fit.
fn put_name(header: &mut Header, path: &str) -> bool {
    let fields = ustar(header);
    if put(&mut fields.name, path) {
        return true;
    }
    let splits = path.match_indices('/').map(|(at, _)| at).filter(|at| *at <= fields.prefix.len() && at + 1 < path.len());
    match splits.max() {
        Some(at) if path.len() - at - 1 <= fields.name.len() => {
            put(&mut fields.prefix, &path[..at]) && put(&mut fields.name, &path[at + 1..])
        }
        _ => false,
    }
}

fn put(field: &mut [u8], text: &str) -> bool {
    let fits = text.len() <= field.len();
    if fits {
        field[..text.len()].copy_from_slice(text.as_bytes());
    }
    fits
}

/// One PAX record, `LENGTH KEY=VALUE\n`, where LENGTH counts itself.
fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    format!("{length} {key}={value}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pax_record_counts_its_own_length() {
        assert_eq!(record("path", "abc"), b"12 path=abc\n");
        for len in [80, 88, 89, 90, 91, 980, 990, 991, 1000] {
            let record = record("path", &"x".repeat(len));
            let text = String::from_utf8(record.clone()).expect("text");
            assert_eq!(text.split(' ').next().and_then(|n| n.parse().ok()), Some(record.len()), "{len}");
        }
    }
}
