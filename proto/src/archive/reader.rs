//! Reads a tar stream strictly: every byte is accounted for, every entry checked before anyone sees it.
//!
//! The `tar` crate's own entry loop takes a stream that is cut at an entry for its end, applies global headers, and lets an extended header
//! change the size (RUSTSEC-2026-0068 was one of its forms); so only its header type is used here.

use std::io::{self, BufReader, Read};

use tar::{EntryType, Header};

use super::{ArchiveCheck, ArchiveError, ArchiveRules, Decompressor, Entry, Kind, Problem, RawEntry, RawKind, Totals, shown};
use crate::limits::PATH_BYTES_MAX;
use crate::manifest::Compression;

const BLOCK: usize = 512;
/// One extended header, in bytes.
const EXTENDED_BYTES_MAX: u64 = 64 * 1024;
/// Zeros after the end, in bytes: tar pads to its record size, which is 10 KiB unless told otherwise.
const PADDING_BYTES_MAX: u64 = 1024 * 1024;
/// Bytes decompressed at once.
const BUFFER_BYTES: usize = 128 * 1024;

/// Key and value of one record of an extended header.
type PaxRecord<'b> = (&'b [u8], &'b [u8]);

/// Entries of a tar stream, one by one; the content of the last file is what `Read` gives.
pub struct ArchiveReader<R: Read> {
    input: BufReader<R>,
    check: ArchiveCheck,
    /// Bytes of the stream read so far.
    at: u64,
    /// Content of the last file that was not read yet.
    content: u64,
    /// Zeros that follow the content up to the next block.
    padding: u64,
    end: bool,
}

/// What extended headers said of the next entry.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
}

/// Reads a whole compressed archive and says what it holds, without creating anything.
///
/// # Errors
/// What a server would refuse.
pub fn scan(compression: Compression, compressed: impl Read, rules: ArchiveRules) -> Result<Totals, ArchiveError> {
    let mut archive = ArchiveReader::new(Decompressor::new(compression, compressed)?, rules);
    while archive.next_entry()?.is_some() {}
    let (stream, totals) = archive.finish()?;
    stream.finish()?;
    Ok(totals)
}

impl<R: Read> ArchiveReader<R> {
    /// Nothing is read yet.
    pub fn new(tar: R, rules: ArchiveRules) -> Self {
        let input = BufReader::with_capacity(BUFFER_BYTES, tar);
        Self { input, check: ArchiveCheck::new(rules), at: 0, content: 0, padding: 0, end: false }
    }

    /// The next entry that may be created; `None` at the proper end. Content that was not read is passed over.
    ///
    /// # Errors
    /// The archive is to be refused as a whole.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ArchiveError> {
        let mut extended = Extended::default();
        let mut pending = false;
        loop {
            self.skip_content()?;
            let Some(header) = self.header(pending)? else { return Ok(None) };
            let kind = header.entry_type();
            let size = size_of(&header).ok_or_else(|| self.bad_header("has a size that is not a number"))?;
            pending = true;
            match kind {
                EntryType::XGlobalHeader => {
                    self.global_header(size)?;
                    pending = false;
                }
                EntryType::XHeader => self.extended_header(size, &mut extended)?,
                EntryType::GNULongName => self.long(size, &mut extended.path)?,
                EntryType::GNULongLink => self.long(size, &mut extended.target)?,
                _ => match self.checked(&header, size, std::mem::take(&mut extended))? {
                    Some(entry) => return Ok(Some(entry)),
                    None => pending = false,
                },
            }
        }
    }

    /// The stream and the sums, once [`Self::next_entry`] said that nothing follows.
    ///
    /// # Errors
    /// The end was not reached.
    pub fn finish(self) -> Result<(R, Totals), ArchiveError> {
        if !self.end {
            return Err(ArchiveError::Truncated { at: self.at });
        }
        Ok((self.input.into_inner(), self.check.totals()))
    }

    fn checked(&mut self, header: &Header, size: u64, extended: Extended) -> Result<Option<Entry>, ArchiveError> {
        let path = extended.path.map_or_else(|| header.path_bytes(), Into::into);
        let target = extended.target.map_or_else(|| header.link_name_bytes().unwrap_or_default(), Into::into);
        let refuse = |problem| ArchiveError::Entry { path: shown(&path), problem };
        if let Some(extended) = extended.size.filter(|s| *s != size) {
            return Err(refuse(Problem::TwoSizes { header: size, extended }));
        }
        let mode = header.mode().map_err(|_| ArchiveError::Header { at: self.at, problem: "has a mode that is not a number" })?;
        let kind = match header.entry_type() {
            EntryType::Regular if path.ends_with(b"/") => RawKind::Other("a file whose name ends in a slash"),
            EntryType::Regular => RawKind::File { size, executable: mode & 0o111 != 0 },
            EntryType::Directory => RawKind::Directory,
            EntryType::Symlink => RawKind::Link { target: &target },
            other => RawKind::Other(kind_name(other)),
        };
        let entry = self.check.entry(RawEntry { path: &path, kind })?;
        if size != 0 && !matches!(kind, RawKind::File { .. }) {
            return Err(refuse(Problem::Content(size)));
        }
        if let Some(Entry { kind: Kind::File { size, .. }, .. }) = &entry {
            self.content = *size;
            self.padding = padding(*size);
        }
        Ok(entry)
    }

    /// The next header, its checksum checked; `None` after two blocks of zeros and nothing behind them.
    fn header(&mut self, pending: bool) -> Result<Option<Header>, ArchiveError> {
        let mut header = Header::new_old();
        self.fill(header.as_mut_bytes())?;
        if header.as_bytes().iter().all(|b| *b == 0) {
            if pending {
                return Err(self.bad_header("is the end, but an extended header announced an entry"));
            }
            self.read_end()?;
            return Ok(None);
        }
        // POSIX pax, "ustar Interchange Format": the sum of all bytes, the checksum's own field taken as spaces.
        let sum = |bytes: &[u8]| bytes.iter().map(|b| u32::from(*b)).sum::<u32>();
        let bytes = header.as_bytes();
        let expected = sum(&bytes[..148]) + 8 * u32::from(b' ') + sum(&bytes[156..]);
        match header.cksum() {
            Ok(found) if found == expected => Ok(Some(header)),
            _ => Err(self.bad_header("has a wrong checksum")),
        }
    }

    fn read_end(&mut self) -> Result<(), ArchiveError> {
        let mut block = [0; BLOCK];
        self.fill(&mut block)?;
        let mut padding = 0;
        loop {
            if block.iter().any(|b| *b != 0) || padding > PADDING_BYTES_MAX {
                return Err(ArchiveError::DataAfterEnd);
            }
            match self.input.read(&mut block) {
                Ok(0) => break,
                Ok(n) => {
                    padding += n as u64;
                    block[n..].fill(0);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.read_error(e)),
            }
        }
        self.end = true;
        Ok(())
    }

    /// git archive writes one with a comment. What would change entries is refused.
    fn global_header(&mut self, size: u64) -> Result<(), ArchiveError> {
        let block = self.extension(size, EXTENDED_BYTES_MAX)?;
        for (key, _) in self.records(&block)? {
            if matters(key) {
                return Err(self.bad_header("is a global one that changes every entry's path or size"));
            }
        }
        Ok(())
    }

    fn extended_header(&mut self, size: u64, extended: &mut Extended) -> Result<(), ArchiveError> {
        let block = self.extension(size, EXTENDED_BYTES_MAX)?;
        for (key, value) in self.records(&block)? {
            match key {
                b"path" => self.set_once(&mut extended.path, value.to_vec())?,
                b"linkpath" => self.set_once(&mut extended.target, value.to_vec())?,
                b"size" => {
                    let number =
                        std::str::from_utf8(value).ok().filter(|v| v.bytes().all(|b| b.is_ascii_digit())).and_then(|v| v.parse().ok());
                    let number = number.ok_or_else(|| self.bad_header("has an extended size that is not a number"))?;
                    self.set_once(&mut extended.size, number)?;
                }
                key if matters(key) => return Err(self.bad_header("describes a sparse file")),
                _ => {}
            }
        }
        Ok(())
    }

    fn long(&mut self, size: u64, field: &mut Option<Vec<u8>>) -> Result<(), ArchiveError> {
        let mut name = self.extension(size, PATH_BYTES_MAX as u64 + 1)?;
        if name.last() == Some(&0) {
            name.pop();
        }
        self.set_once(field, name)
    }

    fn set_once<T>(&self, field: &mut Option<T>, value: T) -> Result<(), ArchiveError> {
        match field.replace(value) {
            None => Ok(()),
            Some(_) => Err(self.bad_header("says the same thing twice")),
        }
    }

    /// Records of the form `LENGTH KEY=VALUE\n`, LENGTH counting all of it.
    fn records<'b>(&self, mut block: &'b [u8]) -> Result<Vec<PaxRecord<'b>>, ArchiveError> {
        let bad = || self.bad_header("has a malformed extended record");
        let mut records = Vec::new();
        while !block.is_empty() {
            let space = block.iter().take(10).position(|b| *b == b' ').ok_or_else(bad)?;
            let digits = std::str::from_utf8(&block[..space]).ok().filter(|d| d.bytes().all(|b| b.is_ascii_digit())).ok_or_else(bad)?;
            let length: usize = digits.parse().map_err(|_| bad())?;
            if length <= space + 1 || length > block.len() || block[length - 1] != b'\n' {
                return Err(bad());
            }
            let record = &block[space + 1..length - 1];
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
            records.push((&record[..equals], &record[equals + 1..]));
            block = &block[length..];
        }
        Ok(records)
    }

    fn extension(&mut self, size: u64, limit: u64) -> Result<Vec<u8>, ArchiveError> {
        if size > limit {
            return Err(self.bad_header("is an extension that is too long"));
        }
        let mut bytes = vec![0; size as usize];
        self.fill(&mut bytes)?;
        self.padding = padding(size);
        self.skip_content()?;
        Ok(bytes)
    }

    fn skip_content(&mut self) -> Result<(), ArchiveError> {
        let mut rest = std::mem::take(&mut self.content) + std::mem::take(&mut self.padding);
        let mut sink = [0; 16 * BLOCK];
        while rest > 0 {
            let n = rest.min(sink.len() as u64) as usize;
            self.fill(&mut sink[..n])?;
            rest -= n as u64;
        }
        Ok(())
    }

    fn fill(&mut self, buf: &mut [u8]) -> Result<(), ArchiveError> {
        self.input.read_exact(buf).map_err(|e| self.read_error(e))?;
        self.at += buf.len() as u64;
        Ok(())
    }

    fn read_error(&self, error: io::Error) -> ArchiveError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => ArchiveError::Truncated { at: self.at },
            _ => ArchiveError::Read(error),
        }
    }

    fn bad_header(&self, problem: &'static str) -> ArchiveError {
        ArchiveError::Header { at: self.at, problem }
    }
}

impl<R: Read> Read for ArchiveReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = self.content.min(buf.len() as u64) as usize;
        if want == 0 {
            return Ok(0);
        }
        let n = self.input.read(&mut buf[..want])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.content -= n as u64;
        self.at += n as u64;
        Ok(n)
    }
}

/// Octal, or base-256 as GNU tar writes it from 8 GiB on. The `tar` crate reads the last eight of its twelve bytes and drops the others, so
/// a negative or larger number would be a small one here and another one elsewhere.
fn size_of(header: &Header) -> Option<u64> {
    let field = &header.as_old().size;
    if field[0] & 0x80 != 0 && field[..4] != [0x80, 0, 0, 0] {
        return None;
    }
    header.entry_size().ok()
}

/// Does this extended key change what an entry is? Owners, times and attributes do not: they are ignored.
fn matters(key: &[u8]) -> bool {
    matches!(key, b"path" | b"linkpath" | b"size") || key.starts_with(b"GNU.sparse")
}

fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

fn kind_name(kind: EntryType) -> &'static str {
    match kind {
        EntryType::Link => "a hard link",
        EntryType::Char => "a character device",
        EntryType::Block => "a block device",
        EntryType::Fifo => "a fifo",
        EntryType::Continuous => "a contiguous file",
        EntryType::GNUSparse => "a sparse file",
        _ => "of an unknown kind",
    }
}
