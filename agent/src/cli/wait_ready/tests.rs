use std::collections::VecDeque;

use super::*;

fn args(timeout: u64, untold: u64) -> Args {
    Args { app: "a".parse().expect("app"), timeout: Duration::from_secs(timeout), untold: Duration::from_secs(untold) }
}

fn release() -> ReleaseId {
    "r1".parse().expect("release")
}

fn underway() -> Result<Standing, ()> {
    Ok(Standing::Underway { words: "staging r1".into() })
}

/// Plays these answers, the last one for ever; what it ended with, what it said, and after how long.
async fn answered(args: Args, answers: Vec<Result<Standing, ()>>) -> (Ended, Vec<String>, Duration) {
    let begun = Instant::now();
    let said = std::cell::RefCell::new(vec![]);
    let mut answers = VecDeque::from(answers);
    let ask = async || if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() }.expect("an answer");
    let ended = wait(&args, ask, |words| said.borrow_mut().push(words.to_owned())).await;
    (ended, said.into_inner(), begun.elapsed())
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_the_release_is_in_place_and_says_each_wait_once() {
    let answers = vec![Err(()), Err(()), underway(), underway(), Ok(Standing::InPlace { release: release() })];
    let (ended, said, _) = answered(args(60, 10), answers).await;
    assert_eq!((ended.code(), ended), (0, Ended::InPlace { release: release() }));
    assert_eq!(said.len(), 2, "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn with_etcd_away_what_is_here_serves_after_a_moment() {
    let (ended, _, took) = answered(args(60, 10), vec![Ok(Standing::Untold { release: Some(release()) })]).await;
    assert_eq!((ended.code(), ended), (0, Ended::Untold { release: release() }));
    assert!(took >= Duration::from_secs(10) && took < Duration::from_secs(11), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn an_empty_server_waits_to_its_time_out_and_says_what_for() {
    for (answer, words) in
        [(Ok(Standing::Untold { release: None }), "nobody"), (underway(), "staging r1"), (Err(()), "coord-agent.service")]
    {
        let (ended, _, took) = answered(args(60, 10), vec![answer]).await;
        assert_eq!(ended.code(), 6);
        assert!(ended.words(&"a".parse().expect("app")).contains(words), "{ended:?}");
        assert!(took >= Duration::from_secs(60) && took < Duration::from_secs(61), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_release_that_failed_with_nothing_else_here_is_told_at_once() {
    let (ended, _, took) = answered(args(60, 10), vec![Ok(Standing::Failed { words: "no space".into() })]).await;
    assert_eq!((ended.code(), took < Duration::from_secs(1)), (4, true), "{ended:?}");
}

#[tokio::test]
async fn an_app_that_is_not_allowed_here_is_not_waited_for() {
    let text = "[node]\nname = \"n\"\nenvironment = \"e\"\n[etcd]\nendpoints = [\"http://127.0.0.1:2379\"]\n[apps]\nallow = [\"b\"]\n";
    let config = Config::parse(text, &crate::config::Host::this()).expect("a configuration");
    assert_eq!(run(&config, &args(60, 10)).await.expect("an end").code(), 3);
    let off =
        Config::parse(&format!("{text}[http]\nlisten = \"\"\n").replace("\"b\"", "\"a\""), &crate::config::Host::this()).expect("config");
    let error = run(&off, &args(60, 10)).await.expect_err("nobody to ask");
    assert!(error.to_string().contains("[http] listen"), "{error}");
}
