//! `coordctl.toml`: one context per environment.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use coord_proto::ids::Environment;
use coord_proto::keys::{DEFAULT_PREFIX, KeySpace};
use coord_proto::store::etcd::EtcdConfig;
use serde::Deserialize;

use crate::deploy_file::place;
use crate::upload::TlsFiles;

/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// One environment, as the operator reaches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    pub name: String,
    pub endpoints: Vec<String>,
    pub tls: TlsFiles,
    pub keys: KeySpace,
    pub environment: Environment,
    /// The key that signs releases where `--key` names none.
    pub signing_key: Option<PathBuf>,
    /// The servers' trust file: a release that they would refuse is then refused before it is written.
    pub trust: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// The context where `--context` names none; needed only when there are several.
    #[serde(default)]
    default_context: Option<String>,
    #[serde(default)]
    context: BTreeMap<String, Section>,
}

/// `[context.NAME]`; paths are relative to the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    endpoints: Vec<String>,
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
    #[serde(default = "default_prefix")]
    prefix: String,
    environment: Environment,
    #[serde(default)]
    signing_key: Option<PathBuf>,
    #[serde(default)]
    trust: Option<PathBuf>,
}

fn default_prefix() -> String {
    DEFAULT_PREFIX.to_owned()
}

/// Why there is no context.
#[derive(Debug, thiserror::Error)]
pub enum CliConfigError {
    #[error("there is no configuration at {}", path.display())]
    Missing { path: PathBuf },
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is {len} bytes long; the limit is {FILE_BYTES_MAX}", path.display())]
    TooLarge { path: PathBuf, len: u64 },
    #[error("{}, {place}: {problem}", path.display())]
    Syntax { path: PathBuf, place: String, problem: String },
    #[error("{} has no [context.{name}]; it has {known}", path.display())]
    Unknown { path: PathBuf, name: String, known: String },
    #[error("{} has several contexts ({known}); say which with --context, COORDCTL_CONTEXT or `default_context`", path.display())]
    Ambiguous { path: PathBuf, known: String },
    #[error("{} has no context", path.display())]
    Empty { path: PathBuf },
    #[error("neither --config nor COORDCTL_CONFIG is set, and there is no home directory to look in")]
    NoHome,
}

/// Where the configuration is: `--config` or `COORDCTL_CONFIG`, else `~/.config/coord/coordctl.toml`.
///
/// # Errors
/// No home directory.
pub fn path(given: Option<&Path>) -> Result<PathBuf, CliConfigError> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    let directory = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = directory("XDG_CONFIG_HOME").or_else(|| directory("HOME").map(|home| home.join(".config")));
    base.map(|base| base.join("coord/coordctl.toml")).ok_or(CliConfigError::NoHome)
}

impl Context {
    /// Reads a context; `name` is needed only when the file has several.
    ///
    /// # Errors
    /// No file, unknown keys (with file, line and the nearest key), no such context.
    pub fn load(path: &Path, name: Option<&str>) -> Result<Self, CliConfigError> {
        let read = |source| CliConfigError::Read { path: path.into(), source };
        let len = match std::fs::metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(CliConfigError::Missing { path: path.into() }),
            other => other.map_err(read)?.len(),
        };
        if len > FILE_BYTES_MAX {
            return Err(CliConfigError::TooLarge { path: path.into(), len });
        }
        Self::parse(&std::fs::read_to_string(path).map_err(read)?, path, name)
    }

    fn parse(text: &str, path: &Path, name: Option<&str>) -> Result<Self, CliConfigError> {
        let file: File = toml::from_str(text).map_err(|error| {
            let (place, problem) = place::explain(text, &error);
            CliConfigError::Syntax { path: path.into(), place, problem }
        })?;
        let known = || file.context.keys().cloned().collect::<Vec<_>>().join(", ");
        let name = match (name.or(file.default_context.as_deref()), file.context.len()) {
            (Some(name), _) => name.to_owned(),
            (None, 0) => return Err(CliConfigError::Empty { path: path.into() }),
            (None, 1) => known(),
            (None, _) => return Err(CliConfigError::Ambiguous { path: path.into(), known: known() }),
        };
        match file.context.get(&name) {
            Some(section) => Ok(section.clone().into_context(name, path)),
            None => Err(CliConfigError::Unknown { path: path.into(), name, known: known() }),
        }
    }

    /// How to reach etcd.
    pub fn etcd(&self) -> EtcdConfig {
        let tls = self.tls.clone();
        EtcdConfig { endpoints: self.endpoints.clone(), ca: Some(tls.ca), cert: Some(tls.cert), key: Some(tls.key) }
    }
}

impl Section {
    fn into_context(self, name: String, file: &Path) -> Context {
        let base = file.parent().unwrap_or(Path::new(""));
        // join() leaves an absolute path as it is.
        let at = |path: PathBuf| base.join(path);
        Context {
            name,
            endpoints: self.endpoints,
            tls: TlsFiles { ca: at(self.ca), cert: at(self.cert), key: at(self.key) },
            keys: KeySpace::new(&self.prefix),
            environment: self.environment,
            signing_key: self.signing_key.map(at),
            trust: self.trust.map(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "[context.production]\nendpoints = [\"https://e:2379\"]\nca = \"pki/ca.pem\"\ncert = \"/abs/cert.pem\"\nkey = \"k\"\n\
                       environment = \"production\"\n";

    fn parse(text: &str, name: Option<&str>) -> Result<Context, CliConfigError> {
        Context::parse(text, Path::new("/home/a/coordctl.toml"), name)
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let context = parse(ONE, None).expect("one");
        assert_eq!(context.tls.ca, Path::new("/home/a/pki/ca.pem"));
        assert_eq!(context.tls.cert, Path::new("/abs/cert.pem"));
        assert_eq!(context.keys, KeySpace::default());
        assert_eq!((context.name.as_str(), context.environment.as_str()), ("production", "production"));
    }

    #[test]
    fn several_contexts_need_a_name() {
        let two = format!("{ONE}{}", ONE.replace("production", "staging"));
        let error = parse(&two, None).expect_err("which?").to_string();
        assert!(error.contains("production, staging") && error.contains("--context"), "{error}");
        assert_eq!(parse(&two, Some("staging")).expect("named").name, "staging");
        assert_eq!(parse(&format!("default_context = \"staging\"\n{two}"), None).expect("default").name, "staging");
        assert!(matches!(parse(&two, Some("test")), Err(CliConfigError::Unknown { .. })));
        assert!(matches!(parse("", None), Err(CliConfigError::Empty { .. })));
    }

    #[test]
    fn an_unknown_key_is_named_with_file_and_line() {
        let error = parse(&format!("{ONE}enviroment = \"x\"\n"), None).expect_err("unknown").to_string();
        for part in ["/home/a/coordctl.toml", "line 7", "`enviroment`", "did you mean `environment`?"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn a_missing_file_is_said() {
        assert!(matches!(Context::load(Path::new("/nowhere/c.toml"), None), Err(CliConfigError::Missing { .. })));
    }
}
