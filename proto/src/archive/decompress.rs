//! One compressed stream, its memory bounded, and nothing after it.

use std::io::{self, BufRead, BufReader, Read};

use super::ArchiveError;
use crate::manifest::Compression;

/// Largest zstd window, as a power of two: what `zstd -d` accepts by default. A larger one could ask for gigabytes of memory.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// Bytes read at once.
const BUFFER_BYTES: usize = 128 * 1024;

/// A gzip stream of one member, or a zstd stream of one frame.
pub struct Decompressor<R: Read> {
    stream: Stream<R>,
}

enum Stream<R: Read> {
    Zstd(zstd::Decoder<'static, BufReader<R>>),
    // Boxed for its size beside the other one.
    Gzip(Box<flate2::bufread::GzDecoder<BufReader<R>>>),
}

impl<R: Read> Decompressor<R> {
    /// Nothing is read yet.
    ///
    /// # Errors
    /// The decoder cannot be set up.
    pub fn new(compression: Compression, compressed: R) -> Result<Self, ArchiveError> {
        let input = BufReader::with_capacity(BUFFER_BYTES, compressed);
        let stream = match compression {
            Compression::Gzip => Stream::Gzip(Box::new(flate2::bufread::GzDecoder::new(input))),
            Compression::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(input).map_err(ArchiveError::Read)?.single_frame();
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(ArchiveError::Read)?;
                Stream::Zstd(decoder)
            }
        };
        Ok(Self { stream })
    }

    /// After everything was read: is this the end of the input as well?
    ///
    /// # Errors
    /// Something follows: a second member or frame, or garbage.
    pub fn finish(self) -> Result<(), ArchiveError> {
        let mut input = match self.stream {
            Stream::Zstd(decoder) => decoder.finish(),
            Stream::Gzip(decoder) => decoder.into_inner(),
        };
        match input.fill_buf() {
            Ok([]) => Ok(()),
            Ok(_) => Err(ArchiveError::DataAfterEnd),
            Err(e) => Err(ArchiveError::Read(e)),
        }
    }
}

impl<R: Read> Read for Decompressor<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &mut self.stream {
            Stream::Zstd(decoder) => decoder.read(buf),
            Stream::Gzip(decoder) => decoder.read(buf),
        }
    }
}
