use coord_proto::rollout::Amount;

use super::*;

fn environment(name: &str) -> Environment {
    name.parse().expect("environment")
}

fn parse(text: &str) -> Result<DeployFile, DeployFileError> {
    DeployFile::parse(text, Path::new("app/deploy.toml"), Some(&environment("production")))
}

fn refusal(text: &str) -> String {
    coord_proto::chain::inline(&parse(text).expect_err("refused"))
}

/// The example of the reference.
const EXAMPLE: &str = r#"
app = "mootube"
[artifact]
dir = "."
build = [["composer", "install", "--no-dev"], ["npm", "ci"]]
exclude = ["*.log"]
strip_components = 0
allow_symlinks_to = []
[targets]
role = "web"
[layout]
keep_releases = 5
shared_dirs = ["var/log", "public/uploads"]
shared_files = [".env"]
writable_dirs = ["var/cache"]
[env]
APP_ENV = "prod"
[[hooks.prepare]]
command = ["bin/console", "cache:warmup"]
timeout = "5m"
user = "mootube"
[[hooks.restart]]
units = ["php8.2-fpm.service", "mootube-worker@*.service"]
action = "reload-or-restart"
when = { role = "web" }
[migrate]
command = ["bin/console", "doctrine:migrations:migrate", "--no-interaction"]
timeout = "30m"
on = { role = "web" }
on_unknown = "stop"
reversible = true
[migrate.after]
command = ["bin/console", "app:contract"]
[once.assets]
command = ["bin/upload"]
when = "before"
[health]
http = "http://127.0.0.1:8080/healthz"
interval = "1s"
timeout = "30s"
[rollout]
serial = [1, "25%"]
promote = "auto"
spread = ""
bake = "10s"
max_failed = 0
max_unreachable = 0
on_failure = "rollback"
batch_deadline = "10m"
[stage.staging.rollout]
serial = "100%"
[stage.staging.env]
APP_DEBUG = "1"
"#;

#[test]
fn the_reference_example_is_understood() {
    let file = parse(EXAMPLE).expect("accepted");
    assert_eq!(file.app.as_str(), "mootube");
    assert_eq!(file.rollout.serial.0, [Amount::Count(1), Amount::Percent(25)]);
    assert_eq!(file.hooks.prepare[0].deadline().as_secs(), 300);
    assert!(file.migrate.expect("migration").after.is_some());
}

#[test]
fn an_overlay_changes_its_own_keys_and_no_other() {
    let staged = DeployFile::parse(EXAMPLE, Path::new("deploy.toml"), Some(&environment("staging"))).expect("accepted");
    let plain = parse(EXAMPLE).expect("accepted");
    assert_eq!(staged.rollout.serial.0, [Amount::Percent(100)]);
    assert_eq!(staged.rollout.bake, plain.rollout.bake);
    assert_eq!(staged.env.len(), 2);
    assert_eq!(plain.env.len(), 1);
    assert_eq!(staged.layout, plain.layout);
}

#[test]
fn everything_but_the_app_has_a_default() {
    let file = parse("app = \"a\"").expect("accepted");
    assert_eq!(file.artifact, ArtifactSection::default());
    assert_eq!(file.layout.keep_releases, 5);
    assert_eq!(file.rollout.serial.0, [Amount::Count(1)]);
}

#[test]
fn an_unknown_key_is_named_with_file_line_and_the_nearest_key() {
    let text = refusal("app = \"a\"\n\n[artifact]\ndir = \".\"\nexlude = [\"*.log\"]\n");
    for part in ["app/deploy.toml", "line 5", "unknown key `exlude`", "did you mean `exclude`?"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let text = refusal("app = \"a\"\n[rolout]\nserial = 1\n");
    assert!(text.contains("line 2") && text.contains("did you mean `rollout`?"), "{text}");
    let text = refusal("app = \"a\"\n[artifact]\nqqqqqqqq = 1\n");
    assert!(!text.contains("did you mean"), "{text}");
}

#[test]
fn an_overlay_of_another_environment_is_checked_with_its_line() {
    let text = refusal("app = \"a\"\n[rollout]\nbake = \"1s\"\n[stage.staging.rollout]\nserail = 1\n");
    assert!(text.contains("line 5") && text.contains("did you mean `serial`?"), "{text}");
    let text = refusal("app = \"a\"\n[stage.staging.rollout]\nbake = \"soon\"\n");
    assert!(text.contains("line 3, `bake`") && text.contains("is not a duration"), "{text}");
}

#[test]
fn a_wrong_value_is_named_with_its_line() {
    for (text, parts) in [
        ("app = \"a b\"", ["line 1, `app`", "has the character ' '"]),
        ("app = \"a\"\n[rollout]\nserial = 0", ["line 3, `serial`", "at least one size"]),
        ("app = \"a\"\n[layout]\nkeep_releases = \"5\"", ["line 3, `keep_releases`", "invalid type"]),
        ("app = \"a\"\n[layout", ["line 2", "expected"]),
    ] {
        let refused = refusal(text);
        assert!(parts.iter().all(|p| refused.contains(p)), "{refused}");
    }
}

#[test]
fn what_servers_would_refuse_is_refused_here() {
    for (text, part) in [
        ("app = \"a\"\n[layout]\nshared_dirs = [\"../x\"]", "layout.shared_dirs"),
        ("app = \"a\"\n[layout]\nshared_dirs = [\"var\"]\nshared_files = [\"var/x\"]", "overlap"),
        ("app = \"a\"\n[health]\ninterval = \"1s\"", "exactly one of"),
        ("app = \"a\"\n[health]\nhttp = \"http://x\"\ntcp = \"x:1\"", "exactly one of"),
        ("app = \"a\"\n[migrate]\non_unknown = \"stop\"", "neither a `command`"),
        ("app = \"a\"\n[artifact]\ndir = \"../other\"", "below the application"),
        ("app = \"a\"\n[artifact]\nbuild = [[]]", "empty command"),
        ("app = \"a\"\n[env]\nCOORD_X = \"1\"", "reserved"),
    ] {
        let refused = refusal(text);
        assert!(refused.contains(part), "{part}: {refused}");
    }
}

#[test]
fn a_missing_file_is_said_with_its_directory() {
    let dir = tempfile::tempdir().expect("directory");
    let error = DeployFile::load(dir.path(), Some(&environment("production"))).expect_err("missing");
    assert!(error.to_string().contains("there is no deploy.toml in /"), "{error}");
    std::fs::File::create(dir.path().join(FILE_NAME)).and_then(|f| f.set_len(FILE_BYTES_MAX + 1)).expect("file");
    let error = DeployFile::load(dir.path(), Some(&environment("production"))).expect_err("huge");
    assert!(matches!(error, DeployFileError::TooLarge { .. }));
}
