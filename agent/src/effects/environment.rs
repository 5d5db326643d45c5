//! What a hook finds in its environment: `[env]`, the app's `env_file`, `COORD_*`, and nothing that was inherited.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use coord_proto::ids::{AppName, NodeName, ReleaseId, Revision, RolloutId};

use crate::layout::AppDir;

/// An `env_file` may have at most this many bytes.
const ENV_FILE_BYTES_MAX: u64 = 256 * 1024;
/// Values shorter than this are not redacted: `1` or `on` would black out half of every log.
const SECRET_BYTES_MIN: usize = 4;

/// What a command is run for.
#[derive(Debug, Clone)]
pub struct HookContext {
    pub app: AppName,
    pub release: ReleaseId,
    pub app_dir: PathBuf,
    /// What `current` points to now.
    pub previous: Option<ReleaseId>,
    pub node: NodeName,
    pub rollout: Option<RolloutId>,
    pub phase: String,
    pub attempt: u32,
    /// The claim's revision, for run-once tasks.
    pub fence: Option<Revision>,
    /// `[env]`, signed.
    pub env: BTreeMap<String, String>,
    pub env_file: Option<PathBuf>,
    pub search_path: String,
    /// The app's user; its home becomes HOME.
    pub user: Option<String>,
}

/// Variables, and which of their values never go into a log.
#[derive(Debug, Clone, Default)]
pub struct HookEnvironment {
    pub vars: BTreeMap<String, String>,
    pub secrets: Vec<String>,
}

/// Why an environment could not be made.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    #[error("cannot read the environment file {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} line {line}: not NAME=VALUE", path.display())]
    Line { path: PathBuf, line: usize },
    #[error("the environment file {} is larger than {ENV_FILE_BYTES_MAX} bytes", path.display())]
    TooLarge { path: PathBuf },
}

/// Builds the environment anew; the file is read each time, so a rotated secret is seen by the next hook.
///
/// # Errors
/// The `env_file` cannot be read or has a line that is not `NAME=VALUE`.
pub fn build(context: &HookContext) -> Result<HookEnvironment, EnvironmentError> {
    let dir = AppDir::new(context.app_dir.clone());
    let file = context.env_file.as_ref().map(read_env_file).transpose()?.unwrap_or_default();
    let secrets = file.values().filter(|v| v.len() >= SECRET_BYTES_MIN).cloned().collect();
    let path = |p: PathBuf| p.display().to_string();
    let mut vars: BTreeMap<String, String> = context.env.clone();
    vars.extend(file);
    let fixed = [
        ("HOME", home(context.user.as_deref())),
        ("LANG", "C.UTF-8".into()),
        ("PATH", context.search_path.clone()),
        ("COORD_APP", context.app.to_string()),
        ("COORD_RELEASE", context.release.to_string()),
        ("COORD_RELEASE_PATH", path(dir.release(&context.release))),
        ("COORD_CURRENT_PATH", path(dir.current_link())),
        ("COORD_SHARED_PATH", path(dir.shared())),
        ("COORD_PREVIOUS_RELEASE", context.previous.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("COORD_NODE", context.node.to_string()),
        ("COORD_ROLLOUT", context.rollout.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("COORD_PHASE", context.phase.clone()),
        ("COORD_ATTEMPT", context.attempt.to_string()),
        ("COORD_FENCE", context.fence.map(|f| f.to_string()).unwrap_or_default()),
    ];
    for (name, value) in fixed {
        // A configured LANG, HOME or PATH is the user's wish; what starts with COORD_ is ours alone.
        if name.starts_with("COORD_") {
            vars.insert(name.into(), value);
        } else {
            vars.entry(name.into()).or_insert(value);
        }
    }
    Ok(HookEnvironment { vars, secrets })
}

fn home(user: Option<&str>) -> String {
    let named = user.and_then(|name| nix::unistd::User::from_name(name).ok().flatten());
    let own = || nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
    named.or_else(own).map_or_else(|| "/".into(), |u| u.dir.display().to_string())
}

fn read_env_file(path: &PathBuf) -> Result<BTreeMap<String, String>, EnvironmentError> {
    let read = |source| EnvironmentError::Read { path: path.clone(), source };
    if std::fs::metadata(path).map_err(read)?.len() > ENV_FILE_BYTES_MAX {
        return Err(EnvironmentError::TooLarge { path: path.clone() });
    }
    let text = std::fs::read_to_string(path).map_err(read)?;
    let mut vars = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = parse_line(line).ok_or_else(|| EnvironmentError::Line { path: path.clone(), line: number + 1 })?;
        vars.insert(name, value);
    }
    Ok(vars)
}

/// `NAME=VALUE`, `export NAME=VALUE`, `NAME="VALUE"`, `NAME='VALUE'`; nothing is expanded.
fn parse_line(line: &str) -> Option<(String, String)> {
    let (name, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
    let name = name.trim();
    let shape =
        !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let value = value.trim();
    let unquoted = ['"', '\''].iter().find_map(|q| value.strip_prefix(*q)?.strip_suffix(*q)).unwrap_or(value);
    shape.then(|| (name.to_owned(), unquoted.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(env_file: Option<PathBuf>) -> HookContext {
        HookContext {
            app: "a".parse().expect("app"),
            release: "r1".parse().expect("release"),
            app_dir: "/srv/a".into(),
            previous: None,
            node: "n".parse().expect("node"),
            rollout: None,
            phase: "prepare".into(),
            attempt: 1,
            fence: Some(Revision(7)),
            env: BTreeMap::from([("APP_ENV".into(), "prod".into())]),
            env_file,
            search_path: "/usr/bin".into(),
            user: None,
        }
    }

    #[test]
    fn nothing_is_inherited_and_the_release_is_named() {
        let built = build(&context(None)).expect("built");
        assert_eq!(built.vars["COORD_RELEASE_PATH"], "/srv/a/releases/r1");
        assert_eq!(built.vars["COORD_FENCE"], "7");
        assert_eq!(built.vars["APP_ENV"], "prod");
        let known = |k: &String| k.starts_with("COORD_") || ["APP_ENV", "HOME", "LANG", "PATH"].contains(&k.as_str());
        assert!(built.vars.keys().all(known), "{:?}", built.vars.keys());
    }

    #[test]
    fn the_file_is_parsed_and_its_values_are_secrets() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("env");
        std::fs::write(&path, "# comment\n\nexport DB=\"postgres://x\"\nSHORT=on\nA='b c'\n").expect("file");
        let built = build(&context(Some(path.clone()))).expect("built");
        assert_eq!((built.vars["DB"].as_str(), built.vars["A"].as_str()), ("postgres://x", "b c"));
        assert_eq!(built.secrets, ["postgres://x"]);
        std::fs::write(&path, "fine=1\nnot a pair\n").expect("file");
        assert!(matches!(build(&context(Some(path))), Err(EnvironmentError::Line { line: 2, .. })));
    }
}
