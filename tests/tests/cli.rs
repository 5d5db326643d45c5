//! `coordctl` as people and scripts read it: every reading command on a real fleet, bars on a terminal, and the files of a new fleet.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use coord_tests::fleet::{Fleet, Said, sqlite_in};
use coord_tests::mootube::Tree;
use coord_tests::process::program;
use coordinator::sign::{self, Protection};
use rand::RngCore as _;
use serde_json::Value;

/// Does not compress, and takes long enough to be drawn more than once.
const BIG: usize = 24 << 20;

#[test]
fn every_reading_command_tells_of_a_release_in_words_and_in_json() -> Result<()> {
    let mut fleet = Fleet::start_with(sqlite_in)?;
    fleet.add_nodes(&["web-1"])?;
    let tree = Tree::copy_to(&fleet.dir().join("app"))?;
    fleet.publish(tree.path(), "one", &[])?.expect_code(0)?;
    let reads: [(&[&str], &str, &str, Value); 7] = [
        (&["status"], "web-1   mootube  one      idle  healthy  now   none", "/servers/0/release", "one".into()),
        (&["release", "list"], "mootube  one      1    good, stable  1        ", "/0/stable", true.into()),
        (&["release", "show", "mootube", "one"], "sequence     1 (floor 0)", "/manifest/release", "one".into()),
        (&["rollout", "status", "mootube"], "1      web-1   done     one   running one", "/state/phase", "succeeded".into()),
        (&["node", "list"], "web-1   present  role=web  0.1.0  ", "/web-1/info/labels/role", "web".into()),
        (&["node", "show", "web-1"], "mootube      runs one, healthy; running one (floor ", "/present", true.into()),
        (&["migration", "show", "mootube", "one"], "before: succeeded (attempt 1 on web-1, ", "/0/holder", "web-1".into()),
    ];
    for (args, words, pointer, value) in reads {
        let said = fleet.coordctl(args)?.expect_code(0)?;
        ensure!(said.out.contains(words), "{args:?} does not say `{words}`:\n{}", said.out);
        let said = fleet.coordctl(&[args, &["--json"]].concat())?.expect_code(0)?;
        let json: Value = serde_json::from_str(&said.out).with_context(|| format!("{args:?} --json: {}", said.out))?;
        ensure!(json.pointer(pointer) == Some(&value), "{args:?} --json has no {pointer} {value}: {json:#}");
    }
    let watched = fleet.coordctl(&["rollout", "watch", "mootube"])?.expect_code(0)?;
    ensure!(watched.says("deployed as release one by tester"), "{watched:?}");
    let unknown = fleet.coordctl(&["node", "show", "web-9"])?.expect_code(1)?;
    ensure!(unknown.says("there is no server web-9") && unknown.says("coordctl node list"), "{unknown:?}");
    Ok(())
}

#[test]
fn a_release_is_verified_with_its_keys_and_its_archive_and_with_no_others() -> Result<()> {
    let mut fleet = Fleet::start_with(sqlite_in)?;
    fleet.add_nodes(&["web-1"])?;
    let tree = Tree::copy_to(&fleet.dir().join("app"))?;
    fleet.publish(tree.path(), "one", &["--detach"])?.expect_code(0)?;
    let archive = pack(&fleet, tree.path(), "one.tar.zst")?;
    ensure!(fleet.manifest(1)?.artifact.digest.to_string() == archive.digest, "pack and publish made other bytes of the same tree");
    tree.write("VERSION", "other\n")?;
    let other = pack(&fleet, tree.path(), "other.tar.zst")?;
    let public = sign::generate(&fleet.dir().join("stranger.key"), &Protection::None)?;
    let stranger = fleet.dir().join("stranger.toml");
    fs::write(&stranger, format!("version = 1\nenvironment = \"test\"\nthreshold = 1\nkeys = [\"{public}\"]\n"))?;

    let verify = |trust: &Path, file: &Path| -> Result<Said> {
        let mut command = fleet.coordctl_command(&["release", "verify", "mootube", "one", "--json"])?;
        Ok(command.arg("--trust").arg(trust).arg("--artifact").arg(file).output()?.into())
    };
    let trust = fleet.dir().join("trust.toml");
    let said = verify(&trust, &archive.path)?.expect_code(0)?;
    let json: Value = serde_json::from_str(&said.out)?;
    ensure!(json["verified"] == true && json["artifact_checked"] == true, "{json}");
    let said = verify(&trust, &other.path)?.expect_code(3)?;
    ensure!(said.says(&other.digest) && said.says(&archive.digest) && said.out.is_empty(), "{said:?}");
    let said = verify(&stranger, &archive.path)?.expect_code(3)?;
    ensure!(said.out.is_empty(), "{said:?}");
    let said = fleet.coordctl(&["release", "verify", "mootube", "one"])?.expect_code(2)?;
    ensure!(said.says("--trust FILE"), "{said:?}");
    Ok(())
}

#[test]
fn a_terminal_gets_bars_and_everything_else_one_closing_line() -> Result<()> {
    let mut fleet = Fleet::start_with(sqlite_in)?;
    fleet.add_nodes(&["web-1"])?;
    let tree = Tree::copy_to(&fleet.dir().join("app"))?;
    let publish = |release: &str| -> Result<Command> {
        // Another archive each time: one that the store has is not sent.
        let mut bytes = vec![0; BIG];
        rand::rng().fill_bytes(&mut bytes);
        fs::write(tree.path().join("video.mp4"), bytes)?;
        let mut command = fleet.coordctl_command(&["release", "publish", "--release", release])?;
        command.arg(tree.path());
        Ok(command)
    };
    let drawn = on_terminal(&publish("one")?, "xterm")?.expect_code(0)?;
    for what in ["packed", "uploaded"] {
        let bar = |line: &str| line.trim_start().starts_with(what) && line.contains('░') && line.contains("B of 24.0");
        ensure!(drawn.out.split(['\r', '\u{1b}']).any(|line| bar(drop_code(line))), "no bar of what is {what}: {:?}", drawn.out);
    }
    let dumb = on_terminal(&publish("two")?, "dumb")?.expect_code(0)?;
    // A terminal ends its lines with both.
    let dumb = Said { err: dumb.out.replace("\r\n", "\n"), ..dumb };
    let piped: Said = publish("three")?.output()?.into();
    for said in [dumb, piped.expect_code(0)?] {
        ensure!(!said.err.contains(['\r', '\u{1b}', '░', '█']), "{:?}", said.err);
        for what in ["packed: 24.0", "uploaded: 24.0"] {
            ensure!(said.err.lines().filter(|line| line.starts_with(what)).count() == 1, "{:?}", said.err);
        }
    }
    Ok(())
}

#[test]
fn the_files_of_a_new_fleet_are_accepted_by_its_programs() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let dir = scratch.path().join("fleet");
    let mut init = Command::new(program("coordctl")?);
    init.args(["cluster", "init"]).arg(&dir).args(["--coordinator", "coord.example.net", "--node", "web-1", "--labels", "role=web"]);
    Said::from(init.arg("--no-password").output()?).expect_code(0)?;
    let mut more = Command::new(program("coordctl")?);
    Said::from(more.args(["cluster", "node"]).arg(&dir).args(["web-2", "--labels", "role=web,zone=b"]).output()?).expect_code(0)?;
    for (home, name) in [("coordinator", "coordinator"), ("nodes/web-1", "coord-agent"), ("nodes/web-2", "coord-agent")] {
        let home = dir.join(home);
        let config = home.join(if name == "coordinator" { "coordinator.toml" } else { "agent.toml" });
        let defaults: Said = Command::new(program(name)?).arg("default-config").output()?.into();
        // As it is made, its files are for /etc/coord; what it leaves out has the program's default.
        for path in installed_paths(&defaults.out) {
            ensure!(home.join(path).exists(), "{name} would look for {path}, which {} does not have", home.display());
        }
        let text = fs::read_to_string(&config)?.replace("/etc/coord/", &format!("{}/", home.display()));
        fs::write(&config, text)?;
        if name == "coord-agent" {
            let here = format!("[trust]\nfile = \"{}\"\n", home.join("trust.toml").display());
            fs::create_dir(home.join("agent.d"))?;
            fs::write(home.join("agent.d/here.toml"), here)?;
        }
        let checked = Command::new(program(name)?).args(["config", "check", "--config"]).arg(&config).output()?;
        Said::from(checked).expect_code(0).with_context(|| format!("{}", config.display()))?;
    }
    Ok(())
}

/// What a default file names below /etc/coord and every installation has.
fn installed_paths(defaults: &str) -> Vec<&str> {
    let quoted = defaults.split('"').filter_map(|text| text.strip_prefix("/etc/coord/"));
    let found: Vec<&str> = quoted.filter(|path| path.starts_with("pki/") || *path == "trust.toml").collect();
    assert!(found.len() >= 3, "no certificates in {defaults}");
    found
}

struct Packed {
    path: PathBuf,
    digest: String,
}

fn pack(fleet: &Fleet, tree: &Path, name: &str) -> Result<Packed> {
    let path = fleet.dir().join(name);
    let mut command = fleet.coordctl_command(&["release", "pack"])?;
    let said = Said::from(command.arg(tree).arg("-o").arg(&path).output()?).expect_code(0)?;
    let (digest, shown) = said.out.trim_end().split_once("  ").context("DIGEST  FILE")?;
    ensure!(Path::new(shown) == path && path.exists(), "{said:?}");
    Ok(Packed { digest: digest.to_owned(), path })
}

/// Runs a command on a terminal of its own (script, util-linux); what it showed is in `out`.
fn on_terminal(command: &Command, term: &str) -> Result<Said> {
    let quoted = |word: &OsStr| format!("'{}'", word.display());
    let line: Vec<String> = std::iter::once(command.get_program()).chain(command.get_args()).map(quoted).collect();
    let mut script = Command::new("script");
    script.args(["-qec", &line.join(" "), "/dev/null"]).env_clear().env("TERM", term);
    script.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Ok(script.stdin(std::process::Stdio::null()).output().context("cannot run script (util-linux)")?.into())
}

/// Text after `ESC` without the code that it begins with (`[2K`).
fn drop_code(text: &str) -> &str {
    text.strip_prefix('[')
        .map_or(text, |code| code.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').get(1..).unwrap_or_default())
}
