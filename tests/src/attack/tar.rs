//! A tar stream with whatever headers an attack wants; nobody checks anything.

use tar::{EntryType, Header};

const BLOCK: usize = 512;

/// A stream that grows.
#[derive(Debug, Clone)]
pub struct Tar {
    bytes: Vec<u8>,
    mode: u32,
    owner: (u64, &'static str),
}

impl Default for Tar {
    fn default() -> Self {
        Self { bytes: Vec::new(), mode: 0o644, owner: (0, "") }
    }
}

impl Tar {
    /// The mode of what follows.
    pub fn with_mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    /// User id and name of what follows.
    pub fn with_owner(self, uid: u64, name: &'static str) -> Self {
        Self { owner: (uid, name), ..self }
    }

    /// Any entry; a name over 100 bytes needs an extended header before it.
    pub fn entry(self, kind: u8, path: &[u8], target: &[u8], content: &[u8]) -> Self {
        self.claiming(kind, path, target, content.len() as u64).content(content)
    }

    /// A header whose size nobody has to keep.
    pub fn claiming(mut self, kind: u8, path: &[u8], target: &[u8], size: u64) -> Self {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..path.len()].copy_from_slice(path);
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target);
        header.set_entry_type(EntryType::new(kind));
        header.set_mode(self.mode);
        header.set_uid(self.owner.0);
        header.set_username(self.owner.1).expect("a short name");
        header.set_size(size);
        header.set_cksum();
        self.bytes.extend_from_slice(header.as_bytes());
        self
    }

    /// Bytes and the zeros up to the next block.
    pub fn content(mut self, content: &[u8]) -> Self {
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
        self
    }

    /// A regular file.
    pub fn file(self, path: &str, content: &[u8]) -> Self {
        self.entry(b'0', path.as_bytes(), b"", content)
    }

    /// A directory.
    pub fn dir(self, path: &str) -> Self {
        self.entry(b'5', path.as_bytes(), b"", b"")
    }

    /// A symlink.
    pub fn link(self, path: &str, target: &str) -> Self {
        self.entry(b'2', path.as_bytes(), target.as_bytes(), b"")
    }

    /// An extended header (`x`) or a global one (`g`).
    pub fn pax(self, kind: u8, records: &[(&str, &[u8])]) -> Self {
        let block: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
        self.entry(kind, b"pax", b"", &block)
    }

    /// Writes other bytes into the size of the first header, and makes its sum right again.
    pub fn with_first_size(mut self, size: [u8; 12]) -> Self {
        self.bytes[124..136].copy_from_slice(&size);
        let sum: u32 = self.bytes[..148].iter().chain(&self.bytes[156..BLOCK]).map(|b| u32::from(*b)).sum::<u32>() + 8 * 32;
        self.bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self
    }

    /// Changes one byte of what is there.
    pub fn with_byte(mut self, at: usize, byte: u8) -> Self {
        self.bytes[at] = byte;
        self
    }

    /// The stream without its end.
    pub fn open(self) -> Vec<u8> {
        self.bytes
    }

    /// The stream with its end, two blocks of zeros.
    pub fn end(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&[0; 2 * BLOCK]);
        self.bytes
    }
}

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let bare = key.len() + value.len() + 3;
    let length = (1..6).map(|digits| bare + digits).find(|l| l.to_string().len() + bare == *l).expect("a short record");
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}
