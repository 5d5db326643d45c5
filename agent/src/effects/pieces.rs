//! Between the download and the unpacking: verified pieces through a bounded channel, read as one stream.

use std::io::{self, Read};

use tokio::sync::mpsc;

/// Pieces that wait between download and unpacking; with the ones in work this bounds memory to a few times 4 MiB.
const WAITING_MAX: usize = 1;

/// What goes through the channel.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// The next bytes; their digest was checked.
    Verified(Vec<u8>),
    /// Size, piece count and whole digest are the signed ones.
    End,
}

/// Where verified pieces go.
pub type PieceSender = mpsc::Sender<Piece>;

/// The pieces as one stream for blocking code. It ends only after [`Piece::End`]: a download that stops is an error, never an end.
#[derive(Debug)]
pub struct PieceReader {
    receiver: mpsc::Receiver<Piece>,
    piece: Vec<u8>,
    at: usize,
    end: bool,
}

/// A channel for pieces.
pub fn channel() -> (PieceSender, PieceReader) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    (sender, PieceReader { receiver, piece: vec![], at: 0, end: false })
}

impl Read for PieceReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() && !self.end {
            match self.receiver.blocking_recv() {
                Some(Piece::Verified(piece)) => (self.piece, self.at) = (piece, 0),
                Some(Piece::End) => (self.piece, self.at, self.end) = (vec![], 0, true),
                None => return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the download stopped before the end")),
            }
        }
        let n = buf.len().min(self.piece.len() - self.at);
        buf[..n].copy_from_slice(&self.piece[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_one_stream_that_ends_only_after_the_end() {
        let (sender, mut reader) = channel();
        let feed = std::thread::spawn(move || {
            for piece in [Piece::Verified(b"ab".to_vec()), Piece::Verified(vec![]), Piece::Verified(b"c".to_vec()), Piece::End] {
                sender.blocking_send(piece).expect("the reader listens");
            }
        });
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("ends");
        assert_eq!(text, "abc");
        feed.join().expect("fed");
    }

    #[test]
    fn a_download_that_stops_is_an_error_not_an_end() {
        let (sender, mut reader) = channel();
        sender.blocking_send(Piece::Verified(b"ab".to_vec())).expect("room");
        drop(sender);
        let mut bytes = Vec::new();
        assert_eq!(reader.read_to_end(&mut bytes).expect_err("stopped").kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(bytes, b"ab");
    }
}
