//! Records are JSON with an explicit `version`: unknown fields are ignored on purpose, a newer version is an error.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::limits::RECORD_BYTES_MAX;

/// A record kept in etcd.
pub trait Record: Serialize + DeserializeOwned {
    /// What it is called in errors.
    const KIND: &'static str;
    /// The version that this program writes; it reads this one and older ones.
    const VERSION: u32;
}

/// Why the bytes under a key are not the record they should be.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("{kind} is {len} bytes long; the limit is {RECORD_BYTES_MAX}")]
    TooLarge { kind: &'static str, len: usize },
    #[error("{kind} is not a record that this version can read")]
    Syntax {
        kind: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error("{kind} has version {found}; this program reads up to {}; upgrade it", .newest)]
    Version { kind: &'static str, found: u64, newest: u32 },
}

/// The bytes to store.
pub fn encode<R: Record>(record: &R) -> Vec<u8> {
    let mut value = serde_json::to_value(record).expect("records hold only strings, numbers and maps with string keys");
    if let Some(object) = value.as_object_mut() {
        object.insert("version".to_owned(), R::VERSION.into());
    }
    value.to_string().into_bytes()
}

/// The record in stored bytes.
///
/// # Errors
/// Too large, not JSON of this shape, or written by a newer version.
pub fn decode<R: Record>(bytes: &[u8]) -> Result<R, RecordError> {
    if bytes.len() > RECORD_BYTES_MAX {
        return Err(RecordError::TooLarge { kind: R::KIND, len: bytes.len() });
    }
    let syntax = |source| RecordError::Syntax { kind: R::KIND, source };
    let Versioned { version } = serde_json::from_slice(bytes).map_err(syntax)?;
    let found = version.as_u64().unwrap_or(0);
    if found == 0 || found > u64::from(R::VERSION) {
        return Err(RecordError::Version { kind: R::KIND, found, newest: R::VERSION });
    }
    serde_json::from_slice(bytes).map_err(syntax)
}

/// What is looked at first. Two looks at the bytes cost less than one that keeps everything as a tree of values, and a view of a large
/// fleet decodes thousands of records.
#[derive(Deserialize)]
struct Versioned {
    #[serde(default)]
    version: serde_json::Value,
}

/// Declares the kind and version of a record.
macro_rules! record {
    ($type:ty, $kind:literal, $version:literal) => {
        impl $crate::record::Record for $type {
            const KIND: &'static str = $kind;
            const VERSION: u32 = $version;
        }
    };
}
pub(crate) use record;
