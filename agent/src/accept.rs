//! Which verified manifests this server takes. The signature says who made it; these rules say whether it is meant for here.

use coord_proto::ids::{AppName, Seq};
use coord_proto::labels::Labels;
use coord_proto::manifest::Manifest;
use coord_proto::report::FailureCode;

/// What the rules compare with.
pub struct Here<'a> {
    pub app: &'a AppName,
    pub seq: Seq,
    pub labels: &'a Labels,
    /// Does the configuration allow the app?
    pub allowed: bool,
    /// Unix seconds; `None` where no change would start (the release runs already).
    pub now: Option<i64>,
}

/// Why a manifest with a good signature is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the manifest stored as number {asked} of {app} says that it is number {found} of {named}")]
    Misfiled { app: AppName, asked: Seq, named: AppName, found: Seq },
    #[error("this server's configuration does not allow the app {app}")]
    App { app: AppName },
    #[error("release {release} is for servers with other labels")]
    Labels { release: String },
    #[error("release {release} may not be started before {at} (Unix time)")]
    TooEarly { release: String, at: i64 },
    #[error("release {release} expired at {at} (Unix time)")]
    Expired { release: String, at: i64 },
    #[error("release {release} needs agent {needed}; this is {}", env!("CARGO_PKG_VERSION"))]
    AgentTooOld { release: String, needed: String },
}

impl Refusal {
    /// For the status record.
    pub fn code(&self) -> FailureCode {
        match self {
            Self::App { .. } | Self::Labels { .. } => FailureCode::NotAllowed,
            _ => FailureCode::ManifestRefused,
        }
    }
}

/// Is it the manifest that was asked for?
///
/// # Errors
/// It names another app or number.
pub fn is_filed_right(manifest: &Manifest, app: &AppName, seq: Seq) -> Result<(), Refusal> {
    if &manifest.app == app && manifest.seq == seq {
        return Ok(());
    }
    Err(Refusal::Misfiled { app: app.clone(), asked: seq, named: manifest.app.clone(), found: manifest.seq })
}

/// Checks the rules in their order.
///
/// # Errors
/// The first rule that is broken.
pub fn accept(manifest: &Manifest, here: &Here<'_>) -> Result<(), Refusal> {
    let release = || manifest.release.to_string();
    is_filed_right(manifest, here.app, here.seq)?;
    if !here.allowed {
        return Err(Refusal::App { app: here.app.clone() });
    }
    if !manifest.targets.matches(here.labels) {
        return Err(Refusal::Labels { release: release() });
    }
    if let (Some(now), Some(at)) = (here.now, manifest.not_before)
        && now < at
    {
        return Err(Refusal::TooEarly { release: release(), at });
    }
    if let (Some(now), Some(at)) = (here.now, manifest.expires)
        && now >= at
    {
        return Err(Refusal::Expired { release: release(), at });
    }
    match &manifest.min_agent_version {
        Some(needed) if version(needed) > version(env!("CARGO_PKG_VERSION")) => {
            Err(Refusal::AgentTooOld { release: release(), needed: needed.clone() })
        }
        _ => Ok(()),
    }
}

/// `1.20.3` as numbers; what is no number counts as 0.
fn version(text: &str) -> Vec<u64> {
    text.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(extra: &str) -> Manifest {
        let digest = coord_proto::ids::Digest::of(b"x");
        let json = format!(
            r#"{{"version":1,"app":"a","environment":"e","release":"r","seq":2,"floor":1,"created":1,"revision":"x","targets":{{"role":"web"}},
            "artifact":{{"digest":"{digest}","compression":"zstd","size":1,"unpacked_size":1,"entries":1,"piece_size":4194304,"pieces":["{digest}"]}}{extra}}}"#
        );
        Manifest::decode(json.as_bytes()).expect("a valid manifest")
    }

    fn check(extra: &str, app: &str, seq: u64, role: &str, allowed: bool, now: Option<i64>) -> Result<(), Refusal> {
        let app = app.parse().expect("app");
        let labels = Labels::from([("role".to_owned(), role.to_owned())]);
        accept(&manifest(extra), &Here { app: &app, seq: Seq(seq), labels: &labels, allowed, now })
    }

    #[test]
    fn each_rule_refuses_by_its_own_name() {
        assert_eq!(check("", "a", 2, "web", true, Some(5)), Ok(()));
        assert!(matches!(check("", "b", 2, "web", true, None), Err(Refusal::Misfiled { .. })));
        assert!(matches!(check("", "a", 3, "web", true, None), Err(Refusal::Misfiled { .. })));
        assert!(matches!(check("", "a", 2, "web", false, None), Err(Refusal::App { .. })));
        assert!(matches!(check("", "a", 2, "db", true, None), Err(Refusal::Labels { .. })));
        assert!(matches!(check(r#","not_before":9"#, "a", 2, "web", true, Some(5)), Err(Refusal::TooEarly { .. })));
        assert!(matches!(check(r#","expires":5"#, "a", 2, "web", true, Some(5)), Err(Refusal::Expired { .. })));
        assert!(matches!(check(r#","min_agent_version":"99.0""#, "a", 2, "web", true, None), Err(Refusal::AgentTooOld { .. })));
    }

    #[test]
    fn what_expired_may_be_kept() {
        assert_eq!(check(r#","expires":5"#, "a", 2, "web", true, None), Ok(()));
    }
}
