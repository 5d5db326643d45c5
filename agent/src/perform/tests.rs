use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use coord_proto::ids::{Digest, Revision};
use coord_proto::manifest::{OnUnknown, OnceTask, UnitAction};
use coord_proto::migration::{Phase, TaskState};
use coord_proto::store::memory::MemoryStore;
use coord_proto::trust::Trust;

use super::task::TaskRunner;
use super::*;
use crate::config::Host;
use crate::effects::fetch::FetchOptions;
use crate::effects::migrate::{Runner as _, Start};
use crate::systemd::UnitError;

struct NoUnits;

#[async_trait]
impl Units for NoUnits {
    async fn act(&self, pattern: &str, _: UnitAction) -> Result<(), UnitError> {
        Err(UnitError::NoneMatches { pattern: pattern.into() })
    }
}

/// A server whose apps and state lie in `dir`, beside a store in memory.
pub fn performer(dir: &Path) -> Performer {
    coord_proto::tls::install_provider();
    let text = format!("[node]\nname = \"n\"\nenvironment = \"e\"\n[apps]\nroot = \"{}\"\n", dir.join("srv").display());
    let host = Host { name: "n".into(), uid: nix::unistd::Uid::effective().as_raw(), state_directory: None };
    let config = Config::parse(&text, &host).expect("a configuration");
    // From the documentation of minisign.
    let key = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    let trust = Trust::parse(&format!("version = 1\nenvironment = \"e\"\nkeys = [\"{key}\"]\n")).expect("a trust file");
    let store: SharedStore = Arc::new(MemoryStore::new());
    let keys = KeySpace::default();
    Performer {
        config,
        store: store.clone(),
        keys: keys.clone(),
        manifests: Manifests { store, keys, trust, apps: dir.join("state/apps") },
        fetcher: Fetcher::new(FetchOptions::default()).expect("a client"),
        presence: watch::channel(None).1,
        claims: Claims::new(dir.join("state/apps")),
        mirror: watch::channel(Arc::new(Mirror::default())).1,
        units: Arc::new(NoUnits),
    }
}

/// Release `r2`, number 2, of the app `a`, with more fields.
pub fn manifest(extra: &str) -> Arc<Manifest> {
    let digest = Digest::of(b"x");
    let json = format!(
        r#"{{"version":1,"app":"a","environment":"e","release":"r2","seq":2,"floor":0,"created":1,"revision":"x",
        "artifact":{{"digest":"{digest}","compression":"zstd","size":1,"unpacked_size":1,"entries":1,"piece_size":4194304,"pieces":["{digest}"]}}{extra}}}"#
    );
    Arc::new(Manifest::decode(json.as_bytes()).expect("a valid manifest"))
}

fn job(performer: &Performer, action: Action, manifest: Arc<Manifest>) -> Job {
    let app: AppName = "a".parse().expect("app");
    std::fs::create_dir_all(performer.app_dir(&app).release(&manifest.release)).expect("made");
    Job {
        app,
        action,
        manifest: Some(manifest),
        journal: Journal::default(),
        rollout: None,
        give_way: CancellationToken::new(),
        end: CancellationToken::new(),
        events: mpsc::channel(8).0,
    }
}

async fn appears(path: PathBuf) {
    while !path.exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn prepare_gives_way_and_a_restart_hook_only_to_the_end_of_the_agent() {
    let temp = tempfile::tempdir().expect("dir");
    let performer = performer(temp.path());
    let hang = r#","hooks":{"prepare":[{"command":["sh","-c","touch began; exec sleep 600"]}],"restart":[{"command":["sh","-c","touch began; exec sleep 600"]}]}"#;
    let restart = Action::RunHooks { seq: Seq(2), phase: HookPhase::Restart };
    for action in [Action::Prepare(Seq(2)), restart] {
        let prepares = matches!(action, Action::Prepare(_));
        let job = job(&performer, action, manifest(hang));
        let began = performer.app_dir(&job.app).release(&"r2".parse().expect("release")).join("began");
        let (give_way, end) = (job.give_way.clone(), job.end.clone());
        let yields = async {
            appears(began.clone()).await;
            give_way.cancel();
            if !prepares {
                end.cancel();
            }
        };
        let bound = Duration::from_secs(30);
        let (event, ()) = tokio::time::timeout(bound, async { tokio::join!(performer.perform(job), yields) }).await.expect("it ends");
        assert!(matches!(event, Event::Interrupted), "{event:?}");
        std::fs::remove_file(began).expect("removed");
    }
}

#[tokio::test]
async fn a_switch_that_changed_nothing_says_so() {
    let temp = tempfile::tempdir().expect("dir");
    let performer = performer(temp.path());
    let gone = job(&performer, Action::Switch("r9".parse().expect("release")), manifest(""));
    let dir = performer.app_dir(&gone.app);
    assert!(matches!(performer.perform(gone).await, Event::NotSwitched(_)), "not on the disk");
    symlink("/opt/app/v1", dir.current_link()).expect("linked");
    let elsewhere = job(&performer, Action::Switch("r2".parse().expect("release")), manifest(""));
    match performer.perform(elsewhere).await {
        Event::NotSwitched(failure) => assert_eq!(failure.code, FailureCode::CurrentNotALink),
        event => panic!("{event:?}"),
    }
    std::fs::remove_file(dir.current_link()).expect("removed");
    let good = job(&performer, Action::Switch("r2".parse().expect("release")), manifest(""));
    assert!(matches!(performer.perform(good).await, Event::Finished));
}

#[tokio::test]
async fn an_old_release_that_stays_neither_fails_pruning_nor_is_forgotten() {
    let temp = tempfile::tempdir().expect("dir");
    let performer = performer(temp.path());
    let action = Action::Prune { keep: 1, protected: BTreeSet::new(), manifests: BTreeSet::from([Seq(2)]) };
    let job = job(&performer, action, manifest(""));
    let dir = performer.app_dir(&job.app);
    for release in ["r0", "r1"] {
        std::fs::create_dir_all(dir.release(&release.parse().expect("release"))).expect("made");
    }
    symlink("releases/r0", dir.current_link()).expect("linked");
    match performer.perform(job).await {
        Event::Pruned(gone) => assert_eq!(gone, ["r1".parse().expect("release")], "r0 is current, r2 the newest"),
        event => panic!("{event:?}"),
    }
}

#[tokio::test]
async fn how_a_run_once_command_ended_is_told_or_unknown() {
    let temp = tempfile::tempdir().expect("dir");
    let performer = performer(temp.path());
    let manifest = manifest("");
    let job = job(&performer, Action::EnsureTasks { seq: Seq(2), phase: Phase::Before, may_claim: true }, manifest.clone());
    let runner = TaskRunner { performer: &performer, job: &job, manifest: &manifest };
    let long = Duration::from_secs(60);
    for (script, timeout, state) in [
        ("exit 0", long, TaskState::Succeeded),
        ("exit 1", long, TaskState::Failed),
        ("kill -9 $$", long, TaskState::Unknown),
        ("exec sleep 600", Duration::from_millis(200), TaskState::Unknown),
    ] {
        let task = OnceTask {
            name: "before".parse().expect("a task"),
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
            timeout,
            user: None,
            on: Labels::new(),
            on_unknown: OnUnknown::Stop,
        };
        let ending = runner.run(Start { task: &task, fence: Revision(7), attempt: 1, cancel: CancellationToken::new() }).await;
        assert_eq!(ending.state, state, "{script}: {}", ending.detail);
    }
}

#[tokio::test]
async fn a_store_that_is_away_is_not_a_failed_download() {
    let temp = tempfile::tempdir().expect("dir");
    let mut performer = performer(temp.path());
    let store = Arc::new(MemoryStore::new());
    store.set_offline(true);
    (performer.store, performer.manifests.store) = (store.clone(), store.clone());
    for action in [Action::Load(Seq(2)), Action::LoadServed(Seq(2))] {
        match performer.perform(job(&performer, action, manifest(""))).await {
            Event::Failed(failure) => assert_eq!(failure.code, FailureCode::Store),
            event => panic!("{event:?}"),
        }
    }
    store.set_offline(false);
    match performer.perform(job(&performer, Action::Load(Seq(2)), manifest(""))).await {
        Event::Failed(failure) => assert_eq!(failure.code, FailureCode::ManifestMissing),
        event => panic!("{event:?}"),
    }
}
