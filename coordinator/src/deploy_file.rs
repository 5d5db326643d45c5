//! `deploy.toml`: what an application says about its own deployment.
//!
//! `[stage.X.…]` is laid over the rest, key by key, for the environment X. All stages are checked, whichever is asked for: a typing error in
//! production's overlay is found when staging is published.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use coord_proto::ids::{AppName, Digest, Environment, OnceName, ReleaseId, Seq};
use coord_proto::labels::Selector;
use coord_proto::limits::PIECE_BYTES;
use coord_proto::manifest::{
    Artifact, Command, Compression, Health, Hooks, Layout, MANIFEST_VERSION, Manifest, ManifestError, Migrate, Once,
};
use coord_proto::rollout::RolloutPolicy;
use serde::Deserialize;

mod overlay;
pub(crate) mod place;

/// Its name, at the root of the application.
pub const FILE_NAME: &str = "deploy.toml";
/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The file, with one environment's overlay.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeployFile {
    pub app: AppName,
    #[serde(default)]
    pub artifact: ArtifactSection,
    #[serde(default)]
    pub targets: Selector,
    #[serde(default)]
    pub layout: Layout,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    #[serde(default)]
    pub hooks: Hooks,
    #[serde(default)]
    pub migrate: Option<Migrate>,
    #[serde(default)]
    pub once: BTreeMap<OnceName, Once>,
    #[serde(default)]
    pub health: Option<Health>,
    #[serde(default)]
    pub rollout: RolloutPolicy,
}

/// `[artifact]`: what is packed, and how.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ArtifactSection {
    /// What is packed, relative to the file.
    pub dir: PathBuf,
    /// Commands that run in a clean copy before it is packed.
    pub build: Vec<Command>,
    /// gitignore patterns of what stays out.
    pub exclude: Vec<String>,
    /// gitignore patterns of what is packed after all.
    pub include: Vec<String>,
    pub strip_components: u32,
    pub allow_symlinks_to: Vec<String>,
}

impl Default for ArtifactSection {
    fn default() -> Self {
        Self { dir: ".".into(), build: vec![], exclude: vec![], include: vec![], strip_components: 0, allow_symlinks_to: vec![] }
    }
}

/// What distinguishes one manifest of an app from the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edition {
    pub environment: Environment,
    pub release: ReleaseId,
    pub seq: Seq,
    pub floor: Seq,
    /// Unix seconds.
    pub created: i64,
    pub revision: String,
}

/// Why a deploy file was refused.
#[derive(Debug, thiserror::Error)]
pub enum DeployFileError {
    #[error("there is no {FILE_NAME} in {}", dir.display())]
    Missing { dir: PathBuf },
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is {len} bytes long; the limit is {FILE_BYTES_MAX}", path.display())]
    TooLarge { path: PathBuf, len: u64 },
    #[error("{}, {place}: {problem}", path.display())]
    Syntax { path: PathBuf, place: String, problem: String },
    #[error("{}: {problem}", path.display())]
    Contradiction { path: PathBuf, problem: String },
    #[error("{} cannot become a manifest", path.display())]
    Manifest {
        path: PathBuf,
        #[source]
        source: ManifestError,
    },
}

impl DeployFile {
    /// Reads `deploy.toml` in `dir`, with the overlay of `environment`, where there is one.
    ///
    /// # Errors
    /// No such file, unknown keys (file, line and the nearest key are named), values that cannot be meant.
    pub fn load(dir: &Path, environment: Option<&Environment>) -> Result<Self, DeployFileError> {
        let path = dir.join(FILE_NAME);
        let read = |source| DeployFileError::Read { path: path.clone(), source };
        let len = match std::fs::metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(DeployFileError::Missing { dir: dir.into() }),
            other => other.map_err(read)?.len(),
        };
        if len > FILE_BYTES_MAX {
            return Err(DeployFileError::TooLarge { path, len });
        }
        Self::parse(&std::fs::read_to_string(&path).map_err(read)?, &path, environment)
    }

    /// Reads the file's text; `path` is named in errors.
    ///
    /// # Errors
    /// As [`DeployFile::load`].
    pub fn parse(text: &str, path: &Path, environment: Option<&Environment>) -> Result<Self, DeployFileError> {
        let syntax = |error: toml::de::Error| {
            let (place, problem) = place::explain(text, &error);
            DeployFileError::Syntax { path: path.into(), place, problem }
        };
        let document = overlay::Document::parse(text).map_err(syntax)?;
        let plain = document.without_stages::<Self>().map_err(syntax)?;
        plain.check(path)?;
        let mut chosen = plain;
        for stage in document.stages() {
            let staged = document.with_stage::<Self>(&stage).map_err(syntax)?;
            staged.check(path)?;
            if environment.is_some_and(|e| e.as_str() == stage) {
                chosen = staged;
            }
        }
        Ok(chosen)
    }

    /// The manifest of this file, for one artifact.
    pub fn manifest(&self, edition: Edition, artifact: Artifact) -> Manifest {
        Manifest {
            version: MANIFEST_VERSION,
            app: self.app.clone(),
            environment: edition.environment,
            release: edition.release,
            seq: edition.seq,
            floor: edition.floor,
            created: edition.created,
            revision: edition.revision,
            artifact,
            targets: self.targets.clone(),
            layout: self.layout.clone(),
            env: self.env.clone(),
            hooks: self.hooks.clone(),
            migrate: self.migrate.clone(),
            once: self.once.clone(),
            health: self.health.clone(),
            rollout: self.rollout.clone(),
            not_before: None,
            expires: None,
            min_agent_version: None,
        }
    }

    /// What the servers would refuse is refused here, before anything is built.
    fn check(&self, path: &Path) -> Result<(), DeployFileError> {
        if let Some(problem) = self.contradiction() {
            return Err(DeployFileError::Contradiction { path: path.into(), problem });
        }
        let name = |text: &str| text.parse::<ReleaseId>().expect("a plain word is a release id");
        let edition = Edition {
            environment: "checked".parse().expect("a plain word is an environment"),
            release: name("checked"),
            seq: Seq(1),
            floor: Seq(0),
            created: 0,
            revision: String::new(),
        };
        let artifact = Artifact {
            digest: Digest::of(b""),
            compression: Compression::Zstd,
            size: 1,
            unpacked_size: 0,
            entries: 0,
            piece_size: PIECE_BYTES,
            pieces: vec![Digest::of(b"")],
            strip_components: self.artifact.strip_components,
            allow_symlinks_to: self.artifact.allow_symlinks_to.clone(),
        };
        self.manifest(edition, artifact).check().map_err(|source| DeployFileError::Manifest { path: path.into(), source })
    }

    fn contradiction(&self) -> Option<String> {
        let outside = |part: std::path::Component| !matches!(part, std::path::Component::Normal(_) | std::path::Component::CurDir);
        if self.artifact.dir.components().any(outside) {
            return Some(format!("`artifact.dir` is `{}`; it must be a directory below the application", self.artifact.dir.display()));
        }
        if self.artifact.build.iter().any(Vec::is_empty) {
            return Some("`artifact.build` has an empty command; write [[\"program\", \"argument\"]]".into());
        }
        None
    }
}

#[cfg(test)]
mod tests;
