//! An artifact store in the wrong hands: it speaks TLS with a certificate that servers trust, and does one misdeed after the other.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// How often a store that says nothing looks whether it is still wanted.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What the store does with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// `Content-Length` and body are one byte more.
    OneByteMore,
    OneByteLess,
    /// No length, and a byte more than was signed.
    OneByteMoreUncounted,
    /// No length, and no end.
    EndlessBody,
    TenBytesASecond,
    BodyStopsHalfway,
    HeadersNeverEnd,
    HandshakeNeverEnds,
    SilenceAfterAccept,
    RedirectTo(String),
    ContentEncodingGzip,
    OneBitFlipped,
}

/// The store; dropped, it ends.
pub struct HostileStore {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    tls: Arc<ServerConfig>,
    bytes: Vec<u8>,
    deed: Mutex<Deed>,
    connections: AtomicUsize,
    stop: AtomicBool,
}

impl HostileStore {
    /// Serves one artifact with the certificate in `pki`.
    ///
    /// # Errors
    /// The certificate cannot be read, or there is no port.
    pub fn serve(bytes: Vec<u8>, pki: &Path) -> Result<Self> {
        coord_proto::tls::install_provider();
        let chain = CertificateDer::pem_file_iter(pki.join("coordinator.pem"))?.collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_file(pki.join("coordinator-key.pem"))?;
        let tls = Arc::new(ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?);
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let (connections, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let shared = Arc::new(Shared { tls, bytes, deed: Mutex::new(Deed::OneByteMore), connections, stop });
        let own = shared.clone();
        let thread = thread::spawn(move || accept(&listener, &own));
        Ok(Self { address, shared, thread: Some(thread) })
    }

    /// Its address as a mirror; `user` is `name:password@` or nothing.
    pub fn base(&self, user: &str) -> String {
        format!("https://{user}{}", self.address)
    }

    /// From the next request on.
    pub fn begin(&self, deed: Deed) {
        *self.shared.deed.lock().unwrap_or_else(PoisonError::into_inner) = deed;
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for HostileStore {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        TcpStream::connect(self.address).ok();
        self.thread.take().map(JoinHandle::join);
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    thread::scope(|scope| {
        for stream in listener.incoming() {
            if shared.stop.load(Ordering::SeqCst) {
                return;
            }
            shared.connections.fetch_add(1, Ordering::SeqCst);
            let deed = shared.deed.lock().unwrap_or_else(PoisonError::into_inner).clone();
            // Whoever hangs up early is what most deeds lead to.
            scope.spawn(|| stream.and_then(|stream| shared.serve(stream, deed)).ok());
        }
    });
}

impl Shared {
    fn serve(&self, stream: TcpStream, deed: Deed) -> io::Result<()> {
        if deed == Deed::HandshakeNeverEnds {
            return self.until_closed(&stream, |_| Ok(()));
        }
        let socket = stream.try_clone()?;
        let tls = ServerConnection::new(self.tls.clone()).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(tls, stream);
        read_request(&mut stream)?;
        let (right, size) = (&self.bytes[..], self.bytes.len());
        let mut say = |head: &str, body: &[u8]| {
            stream.write_all(format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").as_bytes())?;
            stream.write_all(body)?;
            stream.flush()
        };
        let sized = |size: usize| format!("200 OK\r\nContent-Length: {size}");
        match deed {
            Deed::OneByteMore => say(&sized(size + 1), &[right, b"x"].concat()),
            Deed::OneByteLess => say(&sized(size - 1), &right[..size - 1]),
            Deed::OneByteMoreUncounted => say("200 OK", &[right, b"x"].concat()),
            Deed::EndlessBody => {
                say("200 OK", right)?;
                self.until_closed(&socket, |_| stream.write_all(&[0; 4096]))
            }
            Deed::TenBytesASecond => {
                say(&sized(size), b"")?;
                self.until_closed(&socket, |n| if n % 2 == 0 { stream.write_all(&right[n / 2..=n / 2]) } else { Ok(()) })
            }
            Deed::BodyStopsHalfway => {
                say(&sized(size), &right[..size / 2])?;
                self.until_closed(&socket, |_| Ok(()))
            }
            Deed::HeadersNeverEnd => self.until_closed(&socket, |n| {
                let begin = if n == 0 { "HTTP/1.1 200 OK\r\nX-More: " } else { "" };
                stream.write_all(format!("{begin}x").as_bytes())
            }),
            Deed::SilenceAfterAccept | Deed::HandshakeNeverEnds => self.until_closed(&socket, |_| Ok(())),
            Deed::RedirectTo(place) => say(&format!("302 Found\r\nContent-Length: 0\r\nLocation: {place}"), b""),
            Deed::ContentEncodingGzip => say(&format!("{}\r\nContent-Encoding: gzip", sized(size)), right),
            Deed::OneBitFlipped => {
                say(&sized(size), &right.iter().enumerate().map(|(i, b)| b ^ u8::from(i == size / 2)).collect::<Vec<u8>>())
            }
        }
    }

    /// Does something every 50 ms until the other side hangs up or the store ends.
    fn until_closed(&self, mut socket: &TcpStream, mut work: impl FnMut(usize) -> io::Result<()>) -> io::Result<()> {
        socket.set_read_timeout(Some(LOOK_EVERY))?;
        for n in 0.. {
            work(n)?;
            match socket.read(&mut [0; 1024]) {
                Ok(0) => break,
                Err(e) if !matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => break,
                _ if self.stop.load(Ordering::SeqCst) => break,
                _ => {}
            }
        }
        Ok(())
    }
}

fn read_request(stream: &mut impl Read) -> io::Result<()> {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        request.extend(byte);
    }
    Ok(())
}

/// A place that nobody may call: it counts who does.
#[derive(Debug)]
pub struct Elsewhere(TcpListener);

impl Elsewhere {
    /// Listens on this loopback address.
    ///
    /// # Errors
    /// There is no port.
    pub fn at(ip: &str) -> Result<Self> {
        let listener = TcpListener::bind((ip, 0))?;
        listener.set_nonblocking(true)?;
        Ok(Self(listener))
    }

    /// `127.0.0.2:1234`
    ///
    /// # Errors
    /// The system does not tell.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.0.local_addr()?)
    }

    /// Did anybody connect?
    pub fn was_called(&self) -> bool {
        self.0.accept().is_ok()
    }
}
