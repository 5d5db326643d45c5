//! Values of `coordinator.toml` that are checked while they are parsed, so that the error has a line.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use coord_proto::limits::LEASE_TTL_MIN;
use serde::Deserialize;
use url::{Host, Url};

/// Where artifacts are kept.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum ArtifactsUrl {
    /// A directory of this machine.
    File(PathBuf),
    /// An S3-compatible bucket; `prefix` has no slash at either end and may be empty.
    S3 { bucket: String, prefix: String },
}

impl TryFrom<String> for ArtifactsUrl {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let refuse = || format!("`{text}` is not file:///DIRECTORY or s3://BUCKET/PREFIX");
        let url = Url::parse(&text).map_err(|_| refuse())?;
        match url.scheme() {
            "file" => url.to_file_path().map(Self::File).map_err(|()| refuse()),
            "s3" => {
                let bucket = url.host_str().filter(|b| !b.is_empty()).ok_or_else(refuse)?.to_owned();
                Ok(Self::S3 { bucket, prefix: url.path().trim_matches('/').to_owned() })
            }
            _ => Err(refuse()),
        }
    }
}

impl fmt::Display for ArtifactsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(dir) => write!(f, "file://{}", dir.display()),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

impl FromStr for ArtifactsUrl {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        text.to_owned().try_into()
    }
}

impl ArtifactsUrl {
    /// Can several coordinators keep their artifacts there?
    pub fn shared(&self) -> bool {
        matches!(self, Self::S3 { .. })
    }

    /// The directory, where it is one.
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Self::File(dir) => Some(dir),
            Self::S3 { .. } => None,
        }
    }
}

/// A number of bytes: `2147483648` or `"2GiB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "SizeText")]
pub struct ByteSize(pub u64);

#[derive(Deserialize)]
#[serde(untagged, expecting = "a number of bytes, or text like \"2GiB\"")]
enum SizeText {
    Bytes(u64),
    Text(String),
}

impl TryFrom<SizeText> for ByteSize {
    type Error = String;
    fn try_from(text: SizeText) -> Result<Self, String> {
        let bytes = match text {
            SizeText::Bytes(bytes) => Some(bytes),
            SizeText::Text(ref text) => size(text),
        };
        match bytes {
            Some(bytes) if bytes > 0 => Ok(Self(bytes)),
            _ => Err("is not a size: write bytes, or a number with KiB, MiB, GiB or TiB, at least 1".into()),
        }
    }
}

fn size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let shift = match text[digits..].trim() {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// A duration as people write it: `"1h"`; never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Period(pub Duration);

impl TryFrom<String> for Period {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match humantime::parse_duration(&text) {
            Ok(period) if !period.is_zero() => Ok(Self(period)),
            _ => Err(format!("`{text}` is not a duration like \"15s\", \"10m\" or \"1h\"")),
        }
    }
}

/// A lease's time to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Period")]
pub struct LeaseTtl(pub Duration);

impl LeaseTtl {
    /// Where none is configured.
    pub const DEFAULT: Self = Self(Duration::from_secs(15));
}

impl TryFrom<Period> for LeaseTtl {
    type Error = String;
    fn try_from(Period(ttl): Period) -> Result<Self, String> {
        if ttl < LEASE_TTL_MIN {
            return Err(format!("a lease of {ttl:?} ends by itself on a busy machine; at least {LEASE_TTL_MIN:?}"));
        }
        Ok(Self(ttl))
    }
}

/// An https URL without a slash at the end.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct PublicUrl(pub String);

impl TryFrom<String> for PublicUrl {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match Url::parse(&text) {
            Ok(url) if url.scheme() == "https" && url.query().is_none() => Ok(Self(text.trim_end_matches('/').to_owned())),
            _ => Err(format!("`{text}` is not https://HOST[:PORT][/PATH]")),
        }
    }
}

/// https anywhere, http to a loopback address.
pub(super) fn endpoint_is_safe(text: &str) -> bool {
    let Ok(url) = Url::parse(text) else { return false };
    let loopback = match url.host() {
        Some(Host::Ipv4(ip)) => IpAddr::V4(ip).is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::V6(ip).is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => return false,
    };
    url.scheme() == "https" || (url.scheme() == "http" && loopback)
}
