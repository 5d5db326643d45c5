//! Somebody who reads a page over and over: the application serves the whole time, or it is said when it did not.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

/// Between two visits.
const PAUSE: Duration = Duration::from_millis(20);
/// For one visit: far more than an answer takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Visits from now on.
pub struct Visitor {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<usize>>>,
}

impl Visitor {
    /// Reads `http://<address>/status.json`, and expects `words` in it.
    pub fn begin(url: &str, words: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (own, address, words) = (stop.clone(), url.trim_start_matches("http://").to_owned(), words.to_owned());
        let thread = thread::spawn(move || {
            let mut visits = 0;
            while !own.load(Ordering::SeqCst) {
                let page = read(&address).with_context(|| format!("visit {visits}"))?;
                ensure!(page.contains(&words), "visit {visits} found {page}");
                visits += 1;
                thread::sleep(PAUSE);
            }
            Ok(visits)
        });
        Self { stop, thread: Some(thread) }
    }

    /// How many visits there were, all of them answered.
    ///
    /// # Errors
    /// One was not answered as expected.
    pub fn end(mut self) -> Result<usize> {
        self.stop.store(true, Ordering::SeqCst);
        let thread = self.thread.take().context("it ends once")?;
        thread.join().map_err(|_| anyhow::anyhow!("the visitor panicked"))?
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn read(address: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET /status.json HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page)
}
