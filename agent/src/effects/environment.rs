//! What a hook finds in its environment: what is listed here, and nothing that the agent itself was started with.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use coord_proto::ids::{AppName, NodeName, ReleaseId, Revision, RolloutId};
use nix::unistd::{Uid, User};
use tracing::warn;

use crate::layout::AppDir;

/// Largest env file that is read.
pub const ENV_FILE_BYTES_MAX: u64 = 256 * 1024;
/// Shorter values are not redacted: every `1` of the output would vanish, and nothing be hidden.
pub const SECRET_BYTES_MIN: usize = 4;

/// What the environment of one hook is made from.
#[derive(Debug, Clone)]
pub struct HookContext {
    pub app: AppName,
    pub release: ReleaseId,
    /// The directory that holds `releases/`, `shared/` and `current`.
    pub app_dir: PathBuf,
    pub previous: Option<ReleaseId>,
    pub node: NodeName,
    pub rollout: Option<RolloutId>,
    /// `COORD_PHASE`: a hook's phase, a run-once task's name, or `health`.
    pub phase: String,
    /// Of a run-once task: which start it is. Hooks are repeated after a crash without being counted: 1.
    pub attempt: u32,
    /// Of a run-once task's claim.
    pub fence: Option<Revision>,
    /// The manifest's `[env]`.
    pub env: BTreeMap<String, String>,
    pub env_file: Option<PathBuf>,
    pub search_path: String,
    /// Whose `HOME`; none: the agent's own user.
    pub user: Option<String>,
}

/// The environment, and what must not be shown of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HookEnvironment {
    pub vars: BTreeMap<String, String>,
    /// Values of the env file.
    pub secrets: Vec<String>,
}

/// Why there is no environment. A value is never shown.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    #[error("cannot read the env file {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the env file {} is {len} bytes long; the limit is {ENV_FILE_BYTES_MAX}", path.display())]
    TooLarge { path: PathBuf, len: u64 },
    #[error("{}, line {line}: {problem}", path.display())]
    Line { path: PathBuf, line: usize, problem: &'static str },
}

impl HookContext {
    /// The release's own directory: where its hooks run.
    pub fn release_dir(&self) -> PathBuf {
        AppDir::new(self.app_dir.clone()).release(&self.release)
    }
}

/// Later ones win: defaults, the manifest's `[env]`, the env file, `COORD_*`.
///
/// # Errors
/// The env file is missing, too large, or has a line that is not `KEY=VALUE`.
pub fn build(context: &HookContext) -> Result<HookEnvironment, EnvironmentError> {
    let mut vars = BTreeMap::from([
        ("HOME".to_owned(), home(context.user.as_deref())),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
        ("PATH".to_owned(), context.search_path.clone()),
    ]);
    vars.extend(context.env.clone());
    let from_file = context.env_file.as_deref().map(read_env_file).transpose()?.unwrap_or_default();
    let secrets = from_file.values().filter(|v| v.len() >= SECRET_BYTES_MIN).cloned().collect();
    vars.extend(from_file);
    vars.extend(coord_vars(context));
    Ok(HookEnvironment { vars, secrets })
}

/// What is not known is set and empty, so that a script under `set -u` needs no cases.
fn coord_vars(context: &HookContext) -> impl Iterator<Item = (String, String)> {
    let dir = AppDir::new(context.app_dir.clone());
    let path = |p: PathBuf| p.display().to_string();
    let text = |o: Option<String>| o.unwrap_or_default();
    [
        ("COORD_APP", context.app.to_string()),
        ("COORD_RELEASE", context.release.to_string()),
        ("COORD_RELEASE_PATH", path(context.release_dir())),
        ("COORD_CURRENT_PATH", path(dir.current_link())),
        ("COORD_SHARED_PATH", path(dir.shared())),
        ("COORD_PREVIOUS_RELEASE", text(context.previous.as_ref().map(ToString::to_string))),
        ("COORD_NODE", context.node.to_string()),
        ("COORD_ROLLOUT", text(context.rollout.as_ref().map(ToString::to_string))),
        ("COORD_PHASE", context.phase.clone()),
        ("COORD_ATTEMPT", context.attempt.to_string()),
        ("COORD_FENCE", text(context.fence.map(|f| f.to_string()))),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into_iter()
}

fn home(user: Option<&str>) -> String {
    let found = match user {
        Some(name) => User::from_name(name),
        None => User::from_uid(Uid::effective()),
    };
    found.ok().flatten().map_or_else(|| "/".to_owned(), |u| u.dir.display().to_string())
}

fn read_env_file(path: &Path) -> Result<BTreeMap<String, String>, EnvironmentError> {
    let fail = |source| EnvironmentError::Read { path: path.to_owned(), source };
    let facts = fs::metadata(path).map_err(fail)?;
    if facts.len() > ENV_FILE_BYTES_MAX {
        return Err(EnvironmentError::TooLarge { path: path.to_owned(), len: facts.len() });
    }
    if is_exposed(facts.mode(), facts.uid()) {
        warn!("{} can be read or replaced by other users; make it the agent's own, mode 0600", path.display());
    }
    let text = fs::read_to_string(path).map_err(fail)?;
    parse(&text).map_err(|(line, problem)| EnvironmentError::Line { path: path.to_owned(), line, problem })
}

/// May somebody else than the agent's own user read or replace it?
fn is_exposed(mode: u32, owner: u32) -> bool {
    mode & 0o077 != 0 || (owner != Uid::effective().as_raw() && owner != 0)
}

/// `KEY=VALUE` lines as dotenv files and systemd's EnvironmentFile= have them: `#` comments, `export `, quotes. Nothing is
/// expanded. The error is a line's number and what is wrong with it.
fn parse(text: &str) -> Result<BTreeMap<String, String>, (usize, &'static str)> {
    let mut vars = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let at = |problem| (index + 1, problem);
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line.split_once('=').ok_or(at("is not KEY=VALUE"))?;
        let name = name.trim().strip_prefix("export ").unwrap_or(name).trim();
        if !is_name(name) {
            return Err(at("has a name that is not letters, digits and underscores"));
        }
        vars.insert(name.to_owned(), unquote(value.trim()).map_err(at)?);
    }
    Ok(vars)
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// `'as it is'`, `"with \" \\ \$ and \n"`, or bare.
fn unquote(value: &str) -> Result<String, &'static str> {
    const OPEN: &str = "has a quote that is not closed at the end of the line";
    let inner = |quote| value.strip_prefix(quote).map(|rest: &str| rest.strip_suffix(quote).ok_or(OPEN));
    let value = match (inner('\''), inner('"')) {
        (Some(inside), _) => inside?.to_owned(),
        (_, Some(inside)) => unescape(inside?)?,
        _ => value.to_owned(),
    };
    if value.contains('\0') { Err("has a NUL byte") } else { Ok(value) }
}

fn unescape(text: &str) -> Result<String, &'static str> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some(c @ ('"' | '\\' | '$' | '`')) => out.push(c),
                Some(other) => out.extend(['\\', other]),
                None => return Err("ends with a backslash"),
            },
            '"' => return Err("has a quote in the middle; write \\\""),
            c => out.push(c),
        }
    }
    Ok(out)
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
        let expected = [
            ("APP", "a"),
            ("ATTEMPT", "1"),
            ("CURRENT_PATH", "/srv/a/current"),
            ("FENCE", "7"),
            ("NODE", "n"),
            ("PHASE", "prepare"),
            ("PREVIOUS_RELEASE", ""),
            ("RELEASE", "r1"),
            ("RELEASE_PATH", "/srv/a/releases/r1"),
            ("ROLLOUT", ""),
            ("SHARED_PATH", "/srv/a/shared"),
        ];
        let found: Vec<_> = built.vars.iter().filter_map(|(k, v)| Some((k.strip_prefix("COORD_")?, v.as_str()))).collect();
        assert_eq!(found, expected);
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

    #[test]
    fn quotes_and_escapes_are_a_shells_without_expansion() {
        let text = "A=\"a\\n\\\"b\\\\ $HOME\"\nB='\\n $x'\nC= bare # kept \nD=\n";
        let vars = parse(text).expect("parsed");
        let get = |k: &str| vars[k].as_str();
        assert_eq!((get("A"), get("B"), get("C"), get("D")), ("a\n\"b\\ $HOME", "\\n $x", "bare # kept", ""));
    }

    #[test]
    fn a_bad_line_is_told_by_its_number_and_never_by_its_value() {
        for bad in ["A=1\nB=\"open", "A=1\nB='open", "A=1\n1B=x", "A=1\nB=\"a\"b\"", "A=1\nB=\"x\\\"", "A=1\n=x"] {
            assert_eq!(parse(bad).expect_err(bad).0, 2, "{bad}");
        }
    }

    #[test]
    fn a_file_that_others_can_read_or_replace_is_noticed() {
        let own = Uid::effective().as_raw();
        assert!(!is_exposed(0o100_600, own) && !is_exposed(0o100_600, 0));
        assert!(is_exposed(0o100_640, own) && is_exposed(0o100_602, own) && is_exposed(0o100_600, own + 1));
    }

    #[test]
    fn a_file_over_the_limit_is_refused() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("env");
        std::fs::write(&path, vec![b'#'; ENV_FILE_BYTES_MAX as usize + 1]).expect("file");
        assert!(matches!(build(&context(Some(path))), Err(EnvironmentError::TooLarge { .. })));
    }

    #[test]
    fn coord_names_are_the_agents_alone_and_the_file_wins_over_the_manifest() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("env");
        std::fs::write(&path, "COORD_NODE=other\nAPP_ENV=staging\nPATH=/opt/bin\n").expect("file");
        let vars = build(&context(Some(path))).expect("built").vars;
        assert_eq!((vars["COORD_NODE"].as_str(), vars["APP_ENV"].as_str(), vars["PATH"].as_str()), ("n", "staging", "/opt/bin"));
    }
}
