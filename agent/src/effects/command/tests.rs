use super::*;

fn spec(dir: &Path, script: &str) -> CommandSpec {
    CommandSpec {
        argv: vec!["/bin/sh".into(), "-c".into(), script.into()],
        cwd: dir.into(),
        env: BTreeMap::from([("PATH".into(), "/usr/bin:/bin".into())]),
        redact: vec![],
        user: None,
        deadline: Duration::from_secs(20),
        log_file: dir.join("logs/hook.log"),
        cancel: CancellationToken::new(),
    }
}

fn alive(pid: i32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    state.is_some_and(|s| s.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z')))
}

#[tokio::test]
async fn status_output_and_environment() {
    let dir = tempfile::tempdir().expect("dir");
    let end = run(spec(dir.path(), "echo out; echo err >&2; env | sort; exit 3")).await.expect("run");
    assert_eq!(end.outcome, CommandOutcome::Exited(3));
    assert!(end.log_tail.contains("out") && end.log_tail.contains("err"), "{}", end.log_tail);
    assert!(!end.log_tail.contains("CARGO"), "the agent's own environment leaked: {}", end.log_tail);
}

#[tokio::test]
async fn a_signal_is_not_an_exit_status() {
    let dir = tempfile::tempdir().expect("dir");
    let end = run(spec(dir.path(), "kill -9 $$")).await.expect("run");
    assert_eq!(end.outcome, CommandOutcome::Signaled(9));
}

#[tokio::test]
async fn a_hook_that_hangs_and_forks_is_ended_with_all_its_children() {
    let dir = tempfile::tempdir().expect("dir");
    let pids = dir.path().join("pids");
    let script = format!("(trap '' TERM; sleep 600) & echo $! >{0}; setsid sleep 600 & echo $! >>{0}; sleep 600", pids.display());
    let hang = CommandSpec { deadline: Duration::from_millis(300), ..spec(dir.path(), &script) };
    let end = run(hang).await.expect("run");
    assert_eq!(end.outcome, CommandOutcome::TimedOut);
    let left: Vec<i32> = std::fs::read_to_string(pids).expect("pids").lines().filter_map(|l| l.parse().ok()).collect();
    assert_eq!(left.len(), 2);
    assert!(left.iter().all(|pid| !alive(*pid)), "left behind: {left:?}");
}

#[tokio::test]
async fn cancelling_ends_it() {
    let dir = tempfile::tempdir().expect("dir");
    let hang = spec(dir.path(), "sleep 600");
    hang.cancel.cancel();
    assert_eq!(run(hang).await.expect("run").outcome, CommandOutcome::Cancelled);
}

#[tokio::test]
async fn a_hook_that_prints_a_lot_neither_blocks_nor_fills_the_disk() {
    let dir = tempfile::tempdir().expect("dir");
    let end = run(spec(dir.path(), "head -c 100000000 /dev/zero | tr '\\0' 'x'; echo; echo the end")).await.expect("run");
    assert_eq!(end.outcome, CommandOutcome::Exited(0));
    assert!(end.log_tail.ends_with("the end") && end.log_tail.len() <= LOG_TAIL_BYTES_MAX);
    let kept = std::fs::metadata(dir.path().join("logs/hook.log")).expect("log").len();
    assert!(kept <= HOOK_LOG_BYTES_MAX as u64 + 100, "{kept}");
}

#[tokio::test]
async fn secrets_do_not_reach_the_log() {
    let dir = tempfile::tempdir().expect("dir");
    let secret = CommandSpec { redact: vec!["hunter22".into()], ..spec(dir.path(), "printf 'pass=hun'; sleep 0.1; echo 'ter22;'") };
    let end = run(secret).await.expect("run");
    assert_eq!(end.log_tail, "pass=[redacted];");
    let file = std::fs::read_to_string(dir.path().join("logs/hook.log")).expect("log");
    assert!(!file.contains("hunter22"), "{file}");
}

#[tokio::test]
async fn a_daemon_that_keeps_the_pipe_open_does_not_hold_up_the_deploy() {
    let dir = tempfile::tempdir().expect("dir");
    let daemon = spec(dir.path(), "echo started; setsid sleep 30 & echo $! >pid; exit 0");
    let end = tokio::time::timeout(Duration::from_secs(10), run(daemon)).await.expect("not held up").expect("run");
    assert_eq!((end.outcome, end.log_tail.as_str()), (CommandOutcome::Exited(0), "started"));
    let pid: i32 = std::fs::read_to_string(dir.path().join("pid")).expect("pid").trim().parse().expect("a number");
    assert!(alive(pid), "what a hook started on purpose stays");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("ended");
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().expect("dir");
    let missing = CommandSpec { argv: vec!["bin/none".into()], ..spec(dir.path(), "") };
    let error = run(missing).await.expect_err("no such program");
    assert!(error.to_string().contains("bin/none"), "{error}");
}
