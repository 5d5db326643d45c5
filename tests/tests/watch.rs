//! `rollout watch`, and the waiting part of `release publish`: events for programs, a picture on a terminal, and a Ctrl-C that stops
//! the watching and not the rollout.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use coord_proto::rollout::RolloutPhase;
use coord_tests::fleet::{Fleet, Said};
use coord_tests::mootube::Tree;
use coord_tests::screen::screen;
use coord_tests::wait::until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// A rollout of release `two`, one server at a time, that waits in the second one's restart hook.
fn held_in_its_second_batch() -> Result<(Fleet, Tree)> {
    let (fleet, tree) = Fleet::on_release_one(&["web-1", "web-2"])?;
    tree.write("VERSION", "two\n")?;
    fleet.hold("web-2", "two.restart.1")?;
    fleet.publish(tree.path(), "two", &["--detach"])?.expect_code(0)?;
    fleet.wait_rollout("the second batch is open", |state| state.release.as_str() == "two" && state.batch == 1)?;
    Ok((fleet, tree))
}

/// A command that runs beside the test, with what it says in files that can be read meanwhile; dropped, it is killed.
struct Watching {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Watching {
    fn start(fleet: &Fleet, mut command: Command) -> Result<Self> {
        let (out, err) = (fleet.dir().join("watch.out"), fleet.dir().join("watch.err"));
        command.stdin(Stdio::piped()).stdout(File::create(&out)?).stderr(File::create(&err)?);
        Ok(Self { child: command.spawn().context("cannot start the watching")?, out, err })
    }

    fn said(&self) -> Result<(String, String)> {
        let text = |path: &PathBuf| -> Result<String> { Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned()) };
        Ok((text(&self.out)?, text(&self.err)?))
    }

    fn until_out_has(&self, text: &str) -> Result<()> {
        until(format_args!("it says `{text}`"), || Ok(self.said()?.0.contains(text))).with_context(|| format!("{:?}", self.said()))
    }

    /// Ctrl-C, as a keyboard sends it to the terminal: the terminal shows `^C`, and signals.
    fn press_ctrl_c(&mut self) -> Result<()> {
        let keyboard = self.child.stdin.as_mut().context("the terminal has a keyboard")?;
        Ok(keyboard.write_all(b"\x03")?)
    }

    fn interrupt(&self) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGINT)?)
    }

    fn wait(mut self) -> Result<Said> {
        until("the watching ends", || Ok(self.child.try_wait()?.is_some())).with_context(|| format!("{:?}", self.said()))?;
        let code = self.child.wait()?.code().unwrap_or(-1);
        let (out, err) = self.said()?;
        Ok(Said { code, out, err })
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // One that has ended already takes no signal.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn events(said: &Said) -> Result<Vec<Value>> {
    said.out.lines().map(|line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))).collect()
}

#[test]
fn events_tell_a_rollout_from_its_phase_to_its_exit_code() -> Result<()> {
    let (fleet, _tree) = held_in_its_second_batch()?;
    let watching = Watching::start(&fleet, fleet.coordctl_command(&["rollout", "watch", "mootube", "--json"])?)?;
    watching.until_out_has(r#""step":"restarting""#)?;
    fleet.let_go("web-2", "two.restart.1")?;
    let said = watching.wait()?.expect_code(0)?;
    let events = events(&said)?;
    let position =
        |what: &str, wanted: &dyn Fn(&Value) -> bool| events.iter().position(wanted).with_context(|| format!("no {what} in {}", said.out));
    let first = position("opening", &|e| e["event"] == "watching" && e["release"] == "two" && e["at"].is_i64())?;
    let opened = position("batch", &|e| e["event"] == "batch-opened" && e["batch"] == 2 && e["servers"][0] == "web-2")?;
    let step = position("step", &|e| e["event"] == "server" && e["server"] == "web-2" && e["step"] == "restarting")?;
    let done = position("outcome", &|e| e["event"] == "outcome" && e["server"] == "web-2" && e["outcome"] == "done")?;
    let phase = position("phase", &|e| e["event"] == "phase" && e["phase"] == "succeeded")?;
    let end = position("end", &|e| e["event"] == "end" && e["exit"] == 0 && e["words"] == "deployed as release two by tester")?;
    ensure!(first == 0 && opened < step && step < done && step < phase && end == events.len() - 1, "{}", said.out);
    Ok(())
}

#[test]
fn ctrl_c_stops_the_watching_and_not_the_rollout() -> Result<()> {
    let (fleet, _tree) = held_in_its_second_batch()?;
    for json in [&["--json"][..], &[]] {
        let watching = Watching::start(&fleet, fleet.coordctl_command(&[&["rollout", "watch", "mootube"], json].concat())?)?;
        until("it watches", || Ok(watching.said()?.0.contains("restarting") || watching.said()?.1.contains("web-2: running the restart")))?;
        watching.interrupt()?;
        let said = watching.wait()?.expect_code(6)?;
        ensure!(said.err.contains("the watching has ended, the rollout has not"), "{said:?}");
        ensure!(said.err.contains("the rollout goes on; `coordctl rollout watch mootube` follows it"), "{said:?}");
        if !json.is_empty() {
            let last = events(&said)?.pop().context("an event")?;
            ensure!(last["event"] == "end" && last["exit"] == 6, "{last}");
        }
    }
    fleet.let_go("web-2", "two.restart.1")?;
    fleet.wait_rollout("the rollout succeeded", |state| state.phase == RolloutPhase::Succeeded)?;
    fleet.expect_everywhere("two")
}

#[test]
fn a_terminal_sees_the_open_batch_and_keeps_a_line_of_each_that_is_over() -> Result<()> {
    let (fleet, _tree) = held_in_its_second_batch()?;
    let watching = Watching::start(&fleet, on_terminal(&fleet.coordctl_command(&["rollout", "watch", "mootube"])?))?;
    watching.until_out_has("› web-2  running the restart hooks of two")?;
    fleet.let_go("web-2", "two.restart.1")?;
    let said = watching.wait()?.expect_code(0)?;
    let drawn = plain(&said.out);
    for expected in ["✓ batch 1 of 2: 1 done", "release two of mootube: batch 2 of 2", "batch 2    ░░░░", "✓ batch 2 of 2: 1 done"]
    {
        ensure!(drawn.contains(expected), "`{expected}` was not drawn:\n{drawn}");
    }
    // What stays at the end is what a pipe has, and the picture is gone.
    let recap = drawn.find("SERVER").context("the closing table")?;
    let (above, end) = drawn.split_at(recap);
    ensure!(end.contains("2 servers in 2 batches: 2 done") && end.contains("deployed as release two by tester"), "{end}");
    ensure!(!end.contains('░') && above.contains('█'), "{drawn}");
    Ok(())
}

#[test]
fn ctrl_c_takes_the_picture_away_and_leaves_what_was_told() -> Result<()> {
    let (fleet, _tree) = held_in_its_second_batch()?;
    let mut watching = Watching::start(&fleet, on_terminal(&fleet.coordctl_command(&["rollout", "watch", "mootube"])?))?;
    watching.until_out_has("› web-2  running the restart hooks of two")?;
    let seen = screen(&watching.said()?.0);
    ensure!(seen.iter().any(|line| line.contains("release two of mootube: batch 2 of 2")), "{seen:#?}");
    watching.press_ctrl_c()?;
    let said = watching.wait()?.expect_code(6)?;
    let left = screen(&said.out);
    ensure!(left.iter().any(|line| line.contains("✓ batch 1 of 2: 1 done")), "{left:#?}");
    ensure!(left.iter().any(|line| line.starts_with("error: interrupted")), "{left:#?}");
    let drawn = |line: &&String| ["release two of", "░", "web-2"].iter().any(|part| line.contains(part));
    ensure!(!left.iter().any(|line| drawn(&line)), "the picture is still there: {left:#?}");
    Ok(())
}

#[test]
fn a_publish_is_followed_as_events_too() -> Result<()> {
    let (fleet, tree) = Fleet::on_release_one(&["web-1"])?;
    tree.write("BROKEN", "")?;
    tree.edit_deploy_file("timeout  = \"30s\"", "timeout  = \"1s\"")?;
    let said = fleet.publish(tree.path(), "bad", &["--json"])?.expect_code(5)?;
    let events = events(&said)?;
    let failed = events.iter().find(|e| e["event"] == "outcome" && e["outcome"] == "failed").context("a failed server")?;
    ensure!(failed["server"] == "web-1" && failed["failure"].as_str().is_some_and(|why| !why.is_empty()), "{failed}");
    ensure!(events.last().is_some_and(|end| end["exit"] == 5 && end["words"] == "rolled back to release one by tester"), "{}", said.out);
    tree.remove("BROKEN")?;
    let said = fleet.publish(tree.path(), "good", &["--json", "--detach"])?.expect_code(0)?;
    let accepted: Value = serde_json::from_str(&said.out)?;
    ensure!(accepted["event"] == "accepted" && accepted["release"] == "good" && accepted["seq"] == 3, "{accepted}");
    fleet.wait_rollout("the rollout succeeded", |state| state.phase == RolloutPhase::Succeeded)?;
    Ok(())
}

/// The command on a terminal of its own (script, util-linux).
fn on_terminal(command: &Command) -> Command {
    let quoted = |word: &OsStr| format!("'{}'", word.display());
    let line: Vec<String> = std::iter::once(command.get_program()).chain(command.get_args()).map(quoted).collect();
    let mut script = Command::new("script");
    // Instead of the shell that script starts: Ctrl-C is for the command alone.
    script.args(["-qefc", &format!("exec {}", line.join(" ")), "/dev/null"]).env_clear().env("TERM", "xterm");
    script.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    script
}

/// Without the codes that move the cursor and set colours (ECMA-48, 5.4): what was drawn, one after the other.
fn plain(drawn: &str) -> String {
    let mut text = String::new();
    let mut letters = drawn.chars();
    while let Some(letter) = letters.next() {
        if letter == '\u{1b}' {
            letters.by_ref().skip(1).find(|end| end.is_ascii_alphabetic());
        } else {
            text.push(if letter == '\r' { '\n' } else { letter });
        }
    }
    text
}
