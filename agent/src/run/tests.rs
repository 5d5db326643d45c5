use coord_proto::ids::{Generation, Seq};

use super::*;
use crate::journal::{Journal, Leg};
use crate::perform::tests::{manifest, performer};

fn agent(dir: &std::path::Path) -> Agent {
    let outputs = Outputs {
        statuses: watch::channel(Statuses::new()).0,
        ready: watch::channel(ReadyTable::new()).0,
        standings: watch::channel(Standings::new()).0,
        words: watch::channel(String::new()).0,
    };
    Agent::new("n".parse().expect("node"), Arc::new(performer(dir)), outputs)
}

fn goal() -> Goal {
    Goal { run: Seq(2), stage: None, after: None, stable: None, generation: Generation(1), rollout: None, may_migrate: true, restart: 0 }
}

/// An app whose machine came to the first action that `stop` names; nothing of it really runs.
async fn at(agent: &mut Agent, extra: &str, stop: impl Fn(&Action) -> bool) -> AppName {
    let app: AppName = "a".parse().expect("app");
    assert!(agent.open(&app).await.expect("opened"));
    let machine = &mut agent.slots.get_mut(&app).expect("opened").machine;
    let mut action = machine.handle(Event::GoalSeen(goal()));
    while !stop(action.as_ref().expect("an action")) {
        action = machine.handle(match action {
            Some(Action::Load(_)) => Event::ManifestLoaded(manifest(extra)),
            _ => Event::Finished,
        });
    }
    app
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_what_runs_once_and_journals_its_end() {
    let temp = tempfile::tempdir().expect("dir");
    let mut agent = agent(temp.path());
    let extra = r#","migrate":{"command":["m"]},"hooks":{"drain":[{"command":["true"]}]}"#;
    let app = at(&mut agent, extra, |a| matches!(a, Action::EnsureTasks { .. })).await;
    let begun = Instant::now();
    let own = app.clone();
    agent.effects.spawn(async move {
        tokio::time::sleep(Duration::from_secs(600)).await;
        (own, Event::Finished)
    });
    agent.wind_down().await;
    assert!(begun.elapsed() >= Duration::from_secs(600), "it was not cut off");
    let journal = crate::journal::load(&agent.performer.state_dir(&app), Seq(0)).expect("read").journal;
    assert_eq!(journal.activity.map(|a| a.leg), Some(Leg::Drain), "the next start goes on there");
}

#[tokio::test(start_paused = true)]
async fn a_stop_tells_a_hook_to_end_and_waits_no_longer_than_that() {
    let temp = tempfile::tempdir().expect("dir");
    let mut agent = agent(temp.path());
    let drain = r#","hooks":{"drain":[{"command":["true"]}]}"#;
    let app = at(&mut agent, drain, |a| matches!(a, Action::RunHooks { .. })).await;
    let (end, begun) = (agent.slots[&app].end.clone(), Instant::now());
    let own = app.clone();
    agent.effects.spawn(async move {
        end.cancelled().await;
        (own, Event::Interrupted)
    });
    agent.wind_down().await;
    assert!(begun.elapsed() >= STOP_GRACE && begun.elapsed() < STOP_GRACE + END_GRACE, "{:?}", begun.elapsed());

    let begun = Instant::now();
    agent.effects.spawn(std::future::pending());
    agent.wind_down().await;
    assert!(begun.elapsed() < STOP_GRACE + END_GRACE + Duration::from_secs(1), "a hanging action does not hold the stop");
}

/// The state of one app cannot be relied on, so the agent ends; the command of another one keeps its time all the same.
#[tokio::test(start_paused = true)]
async fn a_journal_that_cannot_be_kept_cuts_off_no_other_apps_command() {
    let temp = tempfile::tempdir().expect("dir");
    let mut agent = agent(temp.path());
    let app = at(&mut agent, r#","migrate":{"command":["m"]}"#, |a| matches!(a, Action::EnsureTasks { .. })).await;
    let begun = Instant::now();
    agent.effects.spawn(async move {
        tokio::time::sleep(Duration::from_secs(600)).await;
        (app, Event::Finished)
    });
    let broken: AppName = "broken".parse().expect("app");
    std::fs::write(agent.performer.state_dir(&broken), "no directory").expect("written");
    let inputs = Inputs { goals: mpsc::channel(1).1, stop: CancellationToken::new() };
    assert_eq!(agent.run(vec![broken.clone()], inputs).await.expect_err("no journal").app, broken);
    assert!(begun.elapsed() >= Duration::from_secs(600), "it was cut off");
}

/// I9, seen by the hooks themselves: what the journal says while they run.
#[tokio::test]
async fn the_journal_is_on_the_disk_before_an_action_starts() {
    let temp = tempfile::tempdir().expect("dir");
    let mut agent = agent(temp.path());
    let app: AppName = "a".parse().expect("app");
    let journal = agent.performer.state_dir(&app).join("journal.json");
    let copy = |phase| format!(r#""{phase}":[{{"command":["cp","{}","{phase}.seen"]}}]"#, journal.display());
    let drain = r#""drain":[{"command":["true"]}]"#;
    let hooks = format!(r#","hooks":{{{drain},{},{}}}"#, copy("restart"), copy("undrain"));
    at(&mut agent, &hooks, |a| matches!(a, Action::RunHooks { .. })).await;
    let release = agent.performer.app_dir(&app).release(&"r2".parse().expect("release"));
    std::fs::create_dir_all(&release).expect("made");

    agent.handle(app.clone(), Event::Finished).await.expect("the drain is over");
    while let Some(ended) = agent.effects.join_next().await {
        let (app, event) = ended.expect("no panic");
        agent.handle(app, event).await.expect("it goes on");
    }
    let seen =
        |phase: &str| serde_json::from_slice::<Journal>(&std::fs::read(release.join(phase)).expect("the hook ran")).expect("a journal");
    for (file, leg) in [("restart.seen", Leg::Restart), ("undrain.seen", Leg::Undrain)] {
        let journal = seen(file);
        assert_eq!(journal.activity.map(|a| a.leg), Some(leg));
        assert_eq!(journal.running.map(|r| r.seq), Some(Seq(2)), "switched");
    }
    assert_eq!(agent.slots[&app].machine.status(0).health, HealthState::Healthy);
}

#[tokio::test]
async fn an_app_of_a_newer_agent_does_not_stop_the_others() {
    let temp = tempfile::tempdir().expect("dir");
    let mut agent = agent(temp.path());
    let (newer, other): (AppName, AppName) = ("newer".parse().expect("app"), "other".parse().expect("app"));
    let dir = agent.performer.state_dir(&newer);
    std::fs::create_dir_all(&dir).expect("made");
    std::fs::write(dir.join("journal.json"), r#"{"version":99}"#).expect("written");
    for app in [&newer, &other, &newer] {
        agent.handle(app.clone(), Event::RetryDue).await.expect("the agent goes on");
    }
    assert_eq!(agent.slots.keys().collect::<Vec<_>>(), [&other]);
    assert_eq!(std::fs::read_to_string(dir.join("journal.json")).expect("untouched"), r#"{"version":99}"#);
}
