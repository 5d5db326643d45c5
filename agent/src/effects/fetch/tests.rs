use std::io::Read;
use std::sync::Mutex;

use coord_proto::manifest::Compression;

use super::super::fixture::{Answer, PIECE, Store, artifact_of, noise};
use super::super::pieces::channel;
use super::*;

/// Nine pieces, the last one short.
fn bytes() -> Vec<u8> {
    noise(7, 8 * PIECE as usize + 100)
}

struct Run {
    result: Result<Fetched, FetchError>,
    /// What the unpacking side read before the stream ended or broke.
    read: Vec<u8>,
    ended: bool,
}

async fn run_in(parts: &Path, artifact: &Artifact, bases: &[String]) -> Run {
    coord_proto::tls::install_provider();
    let (sender, mut reader) = channel();
    let reading = tokio::task::spawn_blocking(move || {
        let mut read = Vec::new();
        let ended = reader.read_to_end(&mut read).is_ok();
        (read, ended)
    });
    let fetcher = Fetcher::new(FetchOptions::default()).expect("a client");
    let result = fetcher.fetch(artifact, bases, parts, sender, &|_, _| ()).await;
    let (read, ended) = reading.await.expect("read");
    Run { result, read, ended }
}

async fn run(artifact: &Artifact, stores: &[&Store]) -> Run {
    let parts = tempfile::tempdir().expect("temp dir");
    let bases: Vec<String> = stores.iter().map(|s| s.base()).collect();
    run_in(parts.path(), artifact, &bases).await
}

fn artifact() -> Artifact {
    artifact_of(&bytes(), Compression::Zstd)
}

#[tokio::test]
async fn all_pieces_arrive_in_order_under_the_digests_address() {
    let store = Store::serve(bytes(), &[Answer::Good]);
    let run = run(&artifact(), &[&store]).await;
    assert_eq!(run.result.expect("fetched"), Fetched { downloaded: bytes().len() as u64, resumed: 0 });
    assert!(run.ended && run.read == bytes());
    assert_eq!(store.paths(), [format!("/artifacts/{}", artifact().digest)]);
}

#[tokio::test]
async fn progress_counts_verified_bytes() {
    coord_proto::tls::install_provider();
    let (parts, store) = (tempfile::tempdir().expect("temp dir"), Store::serve(bytes(), &[Answer::Good]));
    let (sender, mut reader) = channel();
    let reading = tokio::task::spawn_blocking(move || reader.read_to_end(&mut Vec::new()));
    let seen = Mutex::new(vec![]);
    let progress = |done, total| seen.lock().expect("seen").push((done, total));
    let fetcher = Fetcher::new(FetchOptions::default()).expect("a client");
    fetcher.fetch(&artifact(), &[store.base()], parts.path(), sender, &progress).await.expect("fetched");
    reading.await.expect("joined").expect("read");
    let total = bytes().len() as u64;
    let expected: Vec<(u64, u64)> = (1..=9).map(|i| ((i * PIECE).min(total), total)).collect();
    assert_eq!(*seen.lock().expect("seen"), expected);
}

#[tokio::test]
async fn a_broken_connection_goes_on_from_the_first_missing_piece() {
    let store = Store::serve(bytes(), &[Answer::Cut(2 * PIECE as usize + 500), Answer::Good]);
    let run = run(&artifact(), &[&store]).await;
    run.result.expect("fetched");
    assert!(run.ended && run.read == bytes());
    assert_eq!(store.starts(), [0, 2 * PIECE as usize]);
}

#[tokio::test]
async fn a_later_try_uses_the_pieces_that_were_kept() {
    let parts = tempfile::tempdir().expect("temp dir");
    let wrong = Store::serve(bytes(), &[Answer::Flip(5 * PIECE as usize)]);
    run_in(parts.path(), &artifact(), &[wrong.base()]).await.result.expect_err("piece 5 is wrong");
    let store = Store::serve(bytes(), &[Answer::Good]);
    let run = run_in(parts.path(), &artifact(), &[store.base()]).await;
    let kept = 5 * PIECE as usize;
    assert_eq!(run.result.expect("fetched"), Fetched { downloaded: (bytes().len() - kept) as u64, resumed: kept as u64 });
    assert_eq!((store.starts(), store.sent()), (vec![kept], bytes().len() - kept));
    assert!(run.ended && run.read == bytes());
}

/// I3: not one byte of a wrong piece, nor anything after it, reaches the side that parses.
#[tokio::test]
async fn nothing_of_a_wrong_piece_is_passed_on() {
    for at in [0, 3 * PIECE as usize, 4 * PIECE as usize - 1, bytes().len() - 1] {
        let store = Store::serve(bytes(), &[Answer::Flip(at)]);
        let run = run(&artifact(), &[&store]).await;
        assert!(matches!(run.result, Err(FetchError::NoHonestStore(TransferError::WrongPiece { .. }))), "{:?}", run.result);
        let good = at / PIECE as usize * PIECE as usize;
        assert!(!run.ended && run.read == bytes()[..good], "flipped at {at}: {} bytes were passed on", run.read.len());
        assert_eq!(store.starts().len(), 1, "a store that sends wrong bytes is not asked again");
    }
}

#[tokio::test]
async fn another_store_goes_on_where_the_first_one_lied_or_failed() {
    for first in [Answer::Flip(3 * PIECE as usize), Answer::Status(404, ""), Answer::Cut(3 * PIECE as usize), Answer::Shorter] {
        let (bad, good) = (Store::serve(bytes(), std::slice::from_ref(&first)), Store::serve(bytes(), &[Answer::Good]));
        let run = run(&artifact(), &[&bad, &good]).await;
        run.result.expect("fetched");
        assert!(run.ended && run.read == bytes(), "{first:?}");
        assert_eq!((bad.starts().len(), good.starts().len()), (1, 1), "{first:?}");
    }
}

#[tokio::test]
async fn a_store_without_ranges_is_read_from_the_beginning() {
    let store = Store::serve(bytes(), &[Answer::Cut(2 * PIECE as usize + 1), Answer::Whole]);
    let run = run(&artifact(), &[&store]).await;
    run.result.expect("fetched");
    assert!(run.ended && run.read == bytes());
}

#[tokio::test]
async fn an_answer_with_another_range_is_not_read() {
    let store = Store::serve(bytes(), &[Answer::Cut(PIECE as usize), Answer::WrongRange, Answer::Good]);
    let run = run(&artifact(), &[&store]).await;
    run.result.expect("fetched");
    assert_eq!(store.starts(), [0, PIECE as usize, PIECE as usize]);
}

#[tokio::test]
async fn a_busy_store_is_asked_again_when_it_said_so() {
    let began = std::time::Instant::now();
    let store = Store::serve(bytes(), &[Answer::Status(503, "Retry-After: 1\r\n"), Answer::Good]);
    run(&artifact(), &[&store]).await.result.expect("fetched");
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
}

/// Deadlines that a test can wait for.
fn impatient() -> FetchOptions {
    let short = Duration::from_millis(400);
    let patience = Patience { connect: short, headers: short, idle: short, min_rate: Some(4_000) };
    FetchOptions { patience, ..FetchOptions::default() }
}

async fn error_of(options: FetchOptions, store: &Store) -> TransferError {
    coord_proto::tls::install_provider();
    let parts = tempfile::tempdir().expect("temp dir");
    let artifact = artifact();
    let (sender, mut reader) = channel();
    let reading = tokio::task::spawn_blocking(move || reader.read_to_end(&mut Vec::new()));
    let fetcher = Fetcher::new(options).expect("a client");
    let source = Source::at(Url::parse(&store.base()).expect("an address"));
    let mut line = Line::open(&artifact, parts.path(), sender, &|_, _| ()).await.expect("opened");
    let ended = fetcher.download(&source, &mut line).await;
    drop(line);
    reading.await.expect("joined").expect_err("it did not end");
    match ended {
        Err(Ended::Source(error)) => error,
        Err(Ended::Fatal(error)) => panic!("fatal: {error}"),
        Ok(()) => panic!("it was taken"),
    }
}

/// Attacks 33 and 34: each deadline, each with its own words.
#[tokio::test]
async fn a_store_that_keeps_a_server_waiting_is_left() {
    let half = Store::serve(bytes(), &[Answer::HalfHeaders]);
    assert!(matches!(error_of(impatient(), &half).await, TransferError::NoAnswer { .. }));
    let stalled = Store::serve(bytes(), &[Answer::Stall(3 * PIECE as usize)]);
    assert!(matches!(error_of(impatient(), &stalled).await, TransferError::Idle { .. }));
    let slow = Store::serve(bytes(), &[Answer::Trickle]);
    let error = error_of(impatient(), &slow).await;
    assert!(matches!(error, TransferError::TooSlow { found: 1..100, least: 4_000, .. }), "{error:?}");
}

/// The store is asked for a pace that it may not undercut, not the server for one that it cannot take.
#[tokio::test]
async fn a_rate_of_the_servers_own_is_not_taken_for_a_slow_store() {
    coord_proto::tls::install_provider();
    let (parts, store) = (tempfile::tempdir().expect("temp dir"), Store::serve(bytes(), &[Answer::Good]));
    let (sender, mut reader) = channel();
    let reading = tokio::task::spawn_blocking(move || reader.read_to_end(&mut Vec::new()));
    let patience = Patience { idle: Duration::from_millis(100), min_rate: Some(1 << 30), ..Patience::default() };
    let fetcher = Fetcher::new(FetchOptions { rate: Some(20_000), patience, ..FetchOptions::default() }).expect("a client");
    fetcher.fetch(&artifact(), &[store.base()], parts.path(), sender, &|_, _| ()).await.expect("fetched");
    reading.await.expect("joined").expect("read");
    assert_eq!(store.starts(), [0], "asked once");
}

/// Attack 32: all that is read of it is what was signed and what was under way.
#[tokio::test]
async fn an_endless_body_ends_with_the_last_piece() {
    let store = Store::serve(bytes(), &[Answer::Endless]);
    let run = run(&artifact(), &[&store]).await;
    run.result.expect("every signed byte came");
    assert!(run.ended && run.read == bytes());
    assert_eq!(store.starts().len(), 1);
}

/// Attack 36.
#[tokio::test]
async fn a_body_that_says_it_is_compressed_is_not_read() {
    let store = Store::serve(bytes(), &[Answer::Gzipped]);
    let error = error_of(impatient(), &store).await;
    assert!(matches!(&error, TransferError::Encoded { encoding, .. } if encoding == "gzip"), "{error:?}");
}

/// Attack 35. The store is its own proxy, so it hears of every request, wherever it was to go.
#[tokio::test]
async fn a_redirect_to_the_machines_credentials_is_refused_before_it_is_asked() {
    for location in
        ["http://169.254.169.254/latest", "https://169.254.169.254/latest", "http://[fd00:ec2::254]/latest", "http://store.example/a"]
    {
        let header: &'static str = format!("Location: {location}?token=secret\r\n").leak();
        let store = Store::serve(bytes(), &[Answer::Status(302, header)]);
        let options = FetchOptions { proxy: Some(store.base()), ..impatient() };
        let error = error_of(options, &store).await;
        let text = coord_proto::chain::inline(&error);
        assert!(matches!(error, TransferError::Redirect { .. }) && !text.contains("secret"), "{text}");
        assert_eq!(store.paths(), [format!("{}/", store.base())], "{location}");
    }
}

#[tokio::test]
async fn a_redirect_to_another_host_is_not_followed() {
    coord_proto::tls::install_provider();
    let other = Store::serve(bytes(), &[Answer::Good]);
    let location: &'static str = format!("Location: {}/x\r\n", other.base()).leak();
    let store = Store::serve(bytes(), &[Answer::Status(302, location)]);
    let fetcher = Fetcher::new(FetchOptions::default()).expect("a client");
    let mut sources = Sources::new(&[store.base()], &artifact().digest);
    let source = sources.pick().await.expect("a store");
    let error = Transfer::start(&fetcher, &source, 0, 1).await.err().expect("refused");
    assert!(matches!(&error, TransferError::Redirect { to, .. } if *to == other.base()), "{error:?}");
    assert_eq!(other.starts().len(), 0);
}

#[tokio::test]
async fn bytes_after_the_last_piece_are_never_passed_on() {
    let store = Store::serve(bytes(), &[Answer::Longer]);
    let run = run(&artifact(), &[&store]).await;
    run.result.expect("every signed byte came");
    assert!(run.ended && run.read == bytes());
}

#[tokio::test]
async fn an_answer_of_another_length_is_not_read_at_all() {
    coord_proto::tls::install_provider();
    let store = Store::serve(bytes(), &[Answer::Shorter]);
    let fetcher = Fetcher::new(FetchOptions::default()).expect("a client");
    let source = Source::at(Url::parse(&store.base()).expect("an address"));
    let error = Transfer::start(&fetcher, &source, 0, bytes().len() as u64).await.err().expect("refused");
    let told = bytes().len() as u64 - 1;
    assert!(matches!(error, TransferError::Length { expected, found, .. } if expected == told + 1 && found == told), "{error:?}");
}

#[tokio::test]
async fn pieces_that_contradict_the_whole_are_refused() {
    let store = Store::serve(bytes(), &[Answer::Good]);
    let artifact = Artifact { digest: coord_proto::ids::Digest::of(b"other"), ..artifact() };
    let run = run(&artifact, &[&store]).await;
    assert!(matches!(run.result, Err(FetchError::WholeDigest)));
    assert!(!run.ended, "the stream does not end, so the release is not finished");
}

#[tokio::test]
async fn plain_http_to_another_machine_is_never_tried() {
    let parts = tempfile::tempdir().expect("temp dir");
    for base in [
        "http://192.0.2.1/artifacts",
        "http://user:secret@store.example/a?X-Signature=secret",
        "ftp://127.0.0.1/a",
        "file:///etc",
        "//user:secret@nonsense",
        "https://169.254.169.254/a",
        "https://[::ffff:169.254.169.254]/a",
        "https://[fd00:ec2::254]/a",
        "https://[fe80::1]/a",
    ] {
        let run = run_in(parts.path(), &artifact(), &[base.to_owned()]).await;
        let error = run.result.expect_err("refused");
        assert!(matches!(error, FetchError::NoHonestStore(TransferError::Address { .. })), "{base}: {error:?}");
        assert!(!coord_proto::chain::inline(&error).contains("secret"), "{error}");
    }
    assert!(matches!(run_in(parts.path(), &artifact(), &[]).await.result, Err(FetchError::NoStores)));
}

#[tokio::test]
async fn a_download_ends_when_unpacking_has_stopped() {
    coord_proto::tls::install_provider();
    let (parts, store) = (tempfile::tempdir().expect("temp dir"), Store::serve(bytes(), &[Answer::Good]));
    let (sender, reader) = channel();
    drop(reader);
    let fetcher = Fetcher::new(FetchOptions::default()).expect("a client");
    let result = fetcher.fetch(&artifact(), &[store.base()], parts.path(), sender, &|_, _| ()).await;
    assert!(matches!(result, Err(FetchError::UnpackingStopped)), "{result:?}");
}

#[tokio::test]
async fn errors_show_neither_query_nor_password() {
    coord_proto::tls::install_provider();
    let fetcher = Fetcher::new(FetchOptions::default()).expect("a client");
    let url = Url::parse("http://user:secret@127.0.0.1:1/a?X-Signature=secret").expect("an address");
    let source = Source::at(url);
    let error = Transfer::start(&fetcher, &source, 0, 1).await.err().expect("nobody listens there");
    let text = coord_proto::chain::inline(&error);
    assert!(text.contains("127.0.0.1:1/a") && !text.contains("secret"), "{text}");
}

#[tokio::test]
async fn the_rate_is_kept() {
    coord_proto::tls::install_provider();
    let (parts, store) = (tempfile::tempdir().expect("temp dir"), Store::serve(bytes(), &[Answer::Good]));
    let (sender, mut reader) = channel();
    let reading = tokio::task::spawn_blocking(move || reader.read_to_end(&mut Vec::new()));
    let began = std::time::Instant::now();
    let fetcher = Fetcher::new(FetchOptions { rate: Some(40_000), ..FetchOptions::default() }).expect("a client");
    fetcher.fetch(&artifact(), &[store.base()], parts.path(), sender, &|_, _| ()).await.expect("fetched");
    reading.await.expect("joined").expect("read");
    assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
}

/// A hundred servers that are told at once must not ask at once; three with a small site must not wait.
#[test]
fn downloads_begin_over_a_time_that_grows_with_the_size_and_is_bounded() {
    assert!(spread(64 * 1024) < Duration::from_millis(5));
    assert_eq!(spread(100_000_000), Duration::from_secs(1));
    assert_eq!(spread(u64::MAX), Duration::from_secs(2));
}
