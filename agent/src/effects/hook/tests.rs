use std::sync::Mutex;

use async_trait::async_trait;
use coord_proto::ids::Digest;
use coord_proto::manifest::UnitAction;

use super::*;

#[derive(Default)]
struct Asked(Mutex<Vec<(String, UnitAction)>>);

#[async_trait]
impl Units for Asked {
    async fn act(&self, pattern: &str, action: UnitAction) -> Result<(), UnitError> {
        self.0.lock().expect("no panic holds it").push((pattern.into(), action));
        Ok(())
    }
}

fn manifest(hooks: &str) -> Manifest {
    let digest = Digest::of(b"x");
    let json = format!(
        r#"{{"version":1,"app":"a","environment":"e","release":"r","seq":2,"floor":1,"created":1,"revision":"x","hooks":{hooks},
        "artifact":{{"digest":"{digest}","compression":"zstd","size":1,"unpacked_size":1,"entries":1,"piece_size":4194304,"pieces":["{digest}"]}}}}"#
    );
    Manifest::decode(json.as_bytes()).expect("a valid manifest")
}

fn place(dir: &Path) -> AppPlace {
    AppPlace { path: dir.into(), units: vec!["web@*.service".into()], search_path: "/usr/bin:/bin".into(), ..AppPlace::default() }
}

async fn run(dir: &Path, hooks: &str, units: &Asked) -> Result<(), HookError> {
    std::fs::create_dir_all(dir.join("releases/r")).expect("release");
    let (manifest, place) = (manifest(hooks), place(dir));
    let labels = Labels::from([("role".to_owned(), "web".to_owned())]);
    let context = HookContext {
        app: "a".parse().expect("app"),
        release: "r".parse().expect("release"),
        app_dir: dir.into(),
        previous: None,
        node: "n".parse().expect("node"),
        rollout: None,
        phase: "restart".into(),
        attempt: 1,
        fence: None,
        env: manifest.env.clone(),
        env_file: None,
        search_path: place.search_path.clone(),
        user: None,
    };
    let logs = dir.join("logs");
    run_phase(HookRun {
        manifest: &manifest,
        phase: HookPhase::Restart,
        labels: &labels,
        place: &place,
        context: &context,
        units,
        logs: &logs,
        cancel: &CancellationToken::new(),
    })
    .await
}

#[tokio::test]
async fn they_run_in_order_in_the_release_until_one_fails() {
    let dir = tempfile::tempdir().expect("dir");
    let hooks = r#"{"restart":[{"command":["sh","-c","pwd >>../../log"]},{"command":["sh","-c","echo no; exit 4"]},{"command":["sh","-c","echo third >>../../log"]}]}"#;
    let error = run(dir.path(), hooks, &Asked::default()).await.expect_err("the second fails");
    assert!(error.to_string().contains("status 4") && error.log_tail() == "no", "{error}");
    let log = std::fs::read_to_string(dir.path().join("log")).expect("log");
    assert!(log.trim_end().ends_with("releases/r") && !log.contains("third"), "{log}");
}

#[tokio::test]
async fn a_hook_that_does_not_end_in_its_time_says_so() {
    let dir = tempfile::tempdir().expect("dir");
    let hooks = r#"{"restart":[{"command":["sh","-c","echo waiting; exec sleep 600"],"timeout":"300ms"}]}"#;
    let error = run(dir.path(), hooks, &Asked::default()).await.expect_err("too slow");
    assert_eq!((error.code(), error.log_tail()), (FailureCode::HookTimedOut, "waiting"), "{error}");
}

#[tokio::test]
async fn when_chooses_servers_by_their_labels() {
    let dir = tempfile::tempdir().expect("dir");
    let hooks = r#"{"restart":[{"command":["sh","-c","exit 4"],"when":{"role":"db"}},{"command":["sh","-c","echo ran >../../log"],"when":{"role":"web"}}]}"#;
    run(dir.path(), hooks, &Asked::default()).await.expect("only the second is meant for here");
    assert!(dir.path().join("log").exists());
}

#[tokio::test]
async fn units_that_are_not_allowed_are_refused_before_anything_is_asked() {
    let dir = tempfile::tempdir().expect("dir");
    let asked = Asked::default();
    run(dir.path(), r#"{"restart":[{"units":["web@1.service"]}]}"#, &asked).await.expect("allowed");
    let hooks = r#"{"restart":[{"units":["sshd.service"]}]}"#;
    assert_eq!(run(dir.path(), hooks, &asked).await.expect_err("refused").code(), FailureCode::UnitNotAllowed);
    assert_eq!(*asked.0.lock().expect("asked"), [("web@1.service".to_owned(), UnitAction::ReloadOrRestart)]);
    assert!(check_allowed(&manifest(hooks), &Labels::new(), &place(dir.path())).is_err());
}

#[test]
fn a_user_that_is_not_allowed_is_refused() {
    let dir = tempfile::tempdir().expect("dir");
    let hooks = r#"{"restart":[{"command":["true"],"user":"root"}]}"#;
    assert_eq!(check_allowed(&manifest(hooks), &Labels::new(), &place(dir.path())).expect_err("refused").code(), FailureCode::NotAllowed);
}
