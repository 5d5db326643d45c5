//! For tests of effects: artifacts as `coordctl` would sign them, and a store that misbehaves on demand.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use coord_proto::archive::{ArchiveRules, scan};
use coord_proto::ids::Digest;
use coord_proto::manifest::{Artifact, Compression, MANIFEST_VERSION, Manifest};

/// Small, so that a small archive has many pieces.
pub const PIECE: u64 = 1024;
/// 2024-01-01.
pub const CREATED: i64 = 1_704_067_200;

/// A tar stream: `dir/`, `link -> target`, or a file with content.
pub fn tar(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(if path.contains("bin/") { 0o4777 } else { 0o600 });
        header.set_uid(12345);
        header.set_gid(12345);
        header.set_mtime(99);
        if let Some((path, target)) = path.split_once(" -> ") {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            builder.append_link(&mut header, path, target).expect("a link");
        } else {
            header.set_entry_type(if path.ends_with('/') { tar::EntryType::Directory } else { tar::EntryType::Regular });
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, path, *content).expect("an entry");
        }
    }
    builder.into_inner().expect("a tar stream")
}

/// Bytes that do not compress, the same ones for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| step()).collect()
}

/// Describes any bytes as an artifact, sizes and digests right.
pub fn artifact_of(packed: &[u8], compression: Compression) -> Artifact {
    let totals = scan(compression, packed, ArchiveRules::default()).unwrap_or_default();
    Artifact {
        digest: Digest::of(packed),
        compression,
        size: packed.len() as u64,
        unpacked_size: totals.unpacked_size,
        entries: totals.entries,
        piece_size: PIECE,
        pieces: packed.chunks(PIECE as usize).map(Digest::of).collect(),
        strip_components: 0,
        allow_symlinks_to: vec![],
    }
}

/// A manifest for a zstd artifact.
pub fn manifest_of(release: &str, packed: &[u8]) -> Manifest {
    let json = serde_json::json!({
        "version": MANIFEST_VERSION, "app": "app", "environment": "test", "release": release, "seq": 1, "floor": 0,
        "created": CREATED, "revision": "abc123", "artifact": artifact_of(packed, Compression::Zstd),
    });
    serde_json::from_value(json).expect("a manifest")
}

/// Packs a tar stream.
pub fn zstd(tar: &[u8]) -> Vec<u8> {
    zstd::encode_all(tar, 1).expect("compresses")
}

/// How the store answers one request.
#[derive(Debug, Clone)]
pub enum Answer {
    Good,
    /// Breaks the connection after that many bytes of the body.
    Cut(usize),
    /// One byte of the artifact is another one.
    Flip(usize),
    Status(u16, &'static str),
    /// 200 with everything, whatever range was asked for.
    Whole,
    /// 206 with another range.
    WrongRange,
    /// No length is told, and more follows.
    Longer,
    /// A shorter length is told.
    Shorter,
    /// The headers begin and never end.
    HalfHeaders,
    /// The body ends after that many bytes, and the connection stays.
    Stall(usize),
    /// A byte every 20 ms.
    Trickle,
    /// No length, and bytes for as long as somebody takes them.
    Endless,
    /// Says that it is compressed once more.
    Gzipped,
}

/// Serves one artifact over HTTP on loopback; ends when dropped.
pub struct Store {
    address: SocketAddr,
    log: Arc<Mutex<Log>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Log {
    /// First byte asked for, per request.
    starts: Vec<usize>,
    paths: Vec<String>,
    sent: usize,
    /// The connection that is answered now.
    open: Option<TcpStream>,
}

impl Store {
    /// Answers in this order; the last answer repeats.
    pub fn serve(bytes: Vec<u8>, answers: &[Answer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (log, stop) = (Arc::new(Mutex::new(Log::default())), Arc::new(AtomicBool::new(false)));
        let (own_log, own_stop, answers) = (log.clone(), stop.clone(), answers.to_vec());
        let thread = std::thread::spawn(move || {
            for (i, stream) in listener.incoming().enumerate() {
                if own_stop.load(Ordering::SeqCst) {
                    return;
                }
                let answer = &answers[i.min(answers.len() - 1)];
                // A client that hangs up early is part of some tests.
                let _ = stream.and_then(|s| reply(s, &bytes, answer, &own_log));
            }
        });
        Self { address, log, stop, thread: Some(thread) }
    }

    pub fn base(&self) -> String {
        format!("http://{}", self.address)
    }
    pub fn starts(&self) -> Vec<usize> {
        self.log.lock().expect("log").starts.clone()
    }
    pub fn paths(&self) -> Vec<String> {
        self.log.lock().expect("log").paths.clone()
    }
    pub fn sent(&self) -> usize {
        self.log.lock().expect("log").sent
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // An answer that has no end must not wait for a client whose runtime may stand still here.
        let open = self.log.lock().expect("log").open.take();
        let _ = open.map(|stream| stream.shutdown(Shutdown::Both));
        let _ = TcpStream::connect(self.address);
        self.thread.take().map(JoinHandle::join);
    }
}

/// One request per connection.
fn reply(mut stream: TcpStream, bytes: &[u8], answer: &Answer, log: &Mutex<Log>) -> std::io::Result<()> {
    let (mut start, mut path) = (0, String::new());
    log.lock().expect("log").open = Some(stream.try_clone()?);
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some(range) = line.to_lowercase().strip_prefix("range: bytes=") {
            start = range.trim_end_matches('-').parse().expect("an open range");
        }
        if let Some(rest) = line.strip_prefix("GET ") {
            path = rest.split(' ').next().unwrap_or_default().to_owned();
        }
    }
    {
        let mut log = log.lock().expect("log");
        log.starts.push(start);
        log.paths.push(path);
    }
    let mut bytes = bytes.to_vec();
    let total = bytes.len();
    let partial = |start: usize, length: usize| {
        let range = format!("Content-Range: bytes {start}-{}/{total}", total - 1);
        if start == 0 {
            format!("200 OK\r\nContent-Length: {length}")
        } else {
            format!("206 Partial\r\n{range}\r\nContent-Length: {length}")
        }
    };
    let (head, body) = match answer {
        Answer::Good => (partial(start, total - start), &bytes[start..]),
        Answer::Cut(after) => (partial(start, total - start), &bytes[start..(start + after).min(total)]),
        Answer::Flip(at) => {
            bytes[*at] ^= 1;
            (partial(start, total - start), &bytes[start..])
        }
        Answer::Status(code, header) => (format!("{code} No\r\n{header}Content-Length: 0"), &[][..]),
        Answer::Whole => (partial(0, total), &bytes[..]),
        Answer::WrongRange => (partial(start + 1, total - start), &bytes[start..]),
        Answer::Longer => {
            bytes.push(b'x');
            ("200 OK".to_owned(), &bytes[start..])
        }
        Answer::Shorter => (partial(start, total - start - 1), &bytes[start..total - 1]),
        Answer::HalfHeaders => return stream.write_all(b"HTTP/1.1 200 OK\r\nX-More: ").and_then(|()| until_closed(stream)),
        Answer::Stall(after) => (partial(start, total - start), &bytes[start..start + after]),
        Answer::Trickle => (partial(start, total - start), &[][..]),
        Answer::Endless => ("200 OK".to_owned(), &bytes[..]),
        Answer::Gzipped => (partial(start, total - start) + "\r\nContent-Encoding: gzip", &bytes[start..]),
    };
    stream.write_all(format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").as_bytes())?;
    stream.write_all(body)?;
    log.lock().expect("log").sent += body.len();
    match answer {
        Answer::Stall(_) => until_closed(stream),
        Answer::Trickle => bytes[start..].iter().try_for_each(|byte| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            stream.write_all(&[*byte])
        }),
        Answer::Endless => loop {
            stream.write_all(&[0; 4096])?;
            log.lock().expect("log").sent += 4096;
        },
        _ => Ok(()),
    }
}

/// The other side hangs up.
fn until_closed(mut stream: TcpStream) -> std::io::Result<()> {
    std::io::copy(&mut stream, &mut std::io::sink()).map(drop)
}
