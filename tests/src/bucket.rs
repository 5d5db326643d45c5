//! An S3 bucket in memory, on loopback: what coordinators that share one need of it, and nothing more. It looks at no signature.
//!
//! Put, get with ranges, head, list (version 2) and multipart uploads, as in Amazon's API reference; deletions are not there.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use anyhow::Result;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, LAST_MODIFIED, RANGE};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// Everything is equally old.
const WHEN: (&str, &str) = ("Thu, 01 Jan 2026 00:00:00 GMT", "2026-01-01T00:00:00.000Z");
const TAG: &str = "\"tag\"";

/// A bucket; dropped, it is gone.
pub struct Bucket {
    address: std::net::SocketAddr,
    _runtime: Runtime,
}

#[derive(Default)]
struct Kept {
    /// By path: `/bucket/key`.
    objects: BTreeMap<String, Bytes>,
    /// By path, the parts of an upload that is not complete.
    uploads: BTreeMap<String, BTreeMap<u32, Bytes>>,
}

type Shared = Arc<Mutex<Kept>>;
type Parameters = BTreeMap<String, String>;

impl Bucket {
    /// Listens.
    ///
    /// # Errors
    /// No port is free.
    pub fn start() -> Result<Self> {
        let runtime = Runtime::new()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let router = Router::new().fallback(answer).layer(DefaultBodyLimit::disable()).with_state(Shared::default());
        runtime.spawn(async move { axum::serve(listener, router).await });
        Ok(Self { address, _runtime: runtime })
    }

    /// The table of coordinator.toml; [`Bucket::environment`] has the rest.
    pub fn table(&self) -> String {
        format!("[artifacts]\nurl = \"s3://releases/test\"\nendpoint = \"http://{}\"\nallow_http = true\n", self.address)
    }

    /// Credentials, as S3 clients take them.
    pub fn environment() -> [(&'static str, &'static str); 2] {
        [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")]
    }
}

async fn answer(
    State(kept): State<Shared>,
    Query(parameters): Query<Parameters>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut kept = kept.lock().expect("no answer panics");
    let path = uri.path().to_owned();
    let part = parameters.get("partNumber").and_then(|n| n.parse().ok());
    match (method, part) {
        (Method::PUT, Some(part)) => {
            kept.uploads.entry(path).or_default().insert(part, body);
            [(ETAG, TAG)].into_response()
        }
        (Method::PUT, None) => {
            kept.objects.insert(path, body);
            [(ETAG, TAG)].into_response()
        }
        (Method::POST, _) if parameters.contains_key("uploads") => xml("InitiateMultipartUploadResult", "<UploadId>1</UploadId>"),
        (Method::POST, _) if parameters.contains_key("uploadId") => {
            let whole: Vec<u8> = kept.uploads.remove(&path).unwrap_or_default().into_values().flatten().collect();
            kept.objects.insert(path, whole.into());
            xml("CompleteMultipartUploadResult", &format!("<ETag>{TAG}</ETag>"))
        }
        (Method::GET, _) if parameters.contains_key("list-type") => list(&kept, &path, &parameters),
        (Method::GET | Method::HEAD, _) => object(kept.objects.get(&path), headers.get(RANGE).and_then(|r| r.to_str().ok())),
        _ => StatusCode::NOT_IMPLEMENTED.into_response(),
    }
}

fn xml(name: &str, inner: &str) -> Response {
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?><{name}>{inner}</{name}>").into_response()
}

fn list(kept: &Kept, bucket: &str, parameters: &Parameters) -> Response {
    let root = format!("{}/", bucket.trim_end_matches('/'));
    let prefix = parameters.get("prefix").map_or("", String::as_str);
    let mut inner = "<IsTruncated>false</IsTruncated>".to_owned();
    for (path, bytes) in &kept.objects {
        if let Some(key) = path.strip_prefix(&root).filter(|key| key.starts_with(prefix)) {
            let (size, when) = (bytes.len(), WHEN.1);
            let _ = write!(
                inner,
                "<Contents><Key>{key}</Key><Size>{size}</Size><LastModified>{when}</LastModified><ETag>{TAG}</ETag></Contents>"
            );
        }
    }
    xml("ListBucketResult", &inner)
}

fn object(bytes: Option<&Bytes>, range: Option<&str>) -> Response {
    let Some(bytes) = bytes else { return StatusCode::NOT_FOUND.into_response() };
    let headers = [(ETAG, TAG), (LAST_MODIFIED, WHEN.0)];
    let Some((from, to)) = range.and_then(|r| r.strip_prefix("bytes=")?.split_once('-')) else {
        return (headers, [(CONTENT_LENGTH, bytes.len())], bytes.clone()).into_response();
    };
    let from: usize = from.parse().unwrap_or(0);
    let to: usize = to.parse().unwrap_or(usize::MAX).min(bytes.len().saturating_sub(1));
    let content = format!("bytes {from}-{to}/{}", bytes.len());
    (StatusCode::PARTIAL_CONTENT, headers, [(CONTENT_RANGE, content)], bytes.slice(from..=to)).into_response()
}
