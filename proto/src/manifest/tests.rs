use super::*;
use crate::limits::{BATCH_DEADLINE_MIN, ENTRIES_MAX, HOOKS_MAX, PIECE_BYTES, PIECES_MAX, ROLLOUT_WAIT_MAX, UNPACKED_BYTES_MAX};

fn manifest() -> Manifest {
    Manifest::decode(include_bytes!("../../fixtures/manifest.v1.json")).expect("the fixture is a manifest")
}

/// The error's text after one change; empty when it is accepted.
fn after(change: impl FnOnce(&mut Manifest)) -> String {
    let mut changed = manifest();
    change(&mut changed);
    Manifest::decode(&changed.encode()).err().map(|e| e.to_string()).unwrap_or_default()
}

#[test]
fn unknown_fields_and_versions_are_refused() {
    let mut value = serde_json::to_value(manifest()).expect("JSON");
    value["artifact"]["unheard_of"] = 1.into();
    assert!(matches!(Manifest::decode(value.to_string().as_bytes()), Err(ManifestError::Syntax(_))));
    value["version"] = 2.into();
    assert!(matches!(Manifest::decode(value.to_string().as_bytes()), Err(ManifestError::Version { found: 2 })));
    assert!(matches!(Manifest::decode(&vec![b' '; MANIFEST_BYTES_MAX + 1]), Err(ManifestError::TooLarge { .. })));
}

#[test]
fn pieces_must_add_up_to_the_size() {
    for (size, piece_size) in [(0, 5), (9, 0), (10, 4), (11, 5), (5, 5)] {
        let text = after(|m| (m.artifact.size, m.artifact.piece_size) = (size, piece_size));
        assert!(text.contains("artifact.pieces"), "{size} in pieces of {piece_size}: {text}");
    }
    assert_eq!(after(|m| m.artifact.size = 10), "");
    let artifact = manifest().artifact;
    assert_eq!((artifact.piece_range(0), artifact.piece_range(1)), ((0, 5), (5, 9)));
}

#[test]
fn every_number_has_a_limit() {
    assert!(after(|m| m.artifact.unpacked_size = UNPACKED_BYTES_MAX + 1).contains("artifact.unpacked_size"));
    assert!(after(|m| m.artifact.entries = ENTRIES_MAX + 1).contains("artifact.entries"));
    assert!(after(|m| m.artifact.piece_size = PIECE_BYTES * 16 + 1).contains("artifact.piece_size"));
    assert!(after(|m| m.artifact.pieces = vec![m.artifact.digest.clone(); PIECES_MAX + 1]).contains("artifact.pieces"));
    assert!(after(|m| m.layout.keep_releases = 1001).contains("keep_releases"));
    assert!(after(|m| m.layout.keep_releases = 0).contains("keep_releases"));
    assert!(after(|m| m.rollout.batch_deadline = Duration::ZERO).contains("rollout.batch_deadline `0s` is shorter than 1s"));
    assert!(after(|m| m.rollout.batch_deadline = ROLLOUT_WAIT_MAX * 2).contains("rollout.batch_deadline in seconds"));
    assert!(after(|m| m.rollout.bake = ROLLOUT_WAIT_MAX * 2).contains("rollout.bake in seconds"));
    assert_eq!(after(|m| (m.rollout.bake, m.rollout.batch_deadline) = (Duration::ZERO, BATCH_DEADLINE_MIN)), "");
    assert!(after(|m| m.hooks.drain = vec![m.hooks.prepare[0].clone(); HOOKS_MAX + 1]).contains("hook count"));
}

/// A clock that is asked to add five hundred billion years ends the agent, and again at each start.
#[test]
fn every_duration_has_two_limits() {
    for wrong in [Duration::ZERO, DURATION_MIN - Duration::from_nanos(1), DURATION_MAX + Duration::from_secs(1), Duration::MAX] {
        assert!(after(|m| m.hooks.prepare[0].timeout = Some(wrong)).contains("hook timeout"), "{wrong:?}");
        assert!(after(|m| m.health = Some(Health { interval: Some(wrong), ..Health::default() })).contains("health.interval"));
        assert!(after(|m| m.health = Some(Health { timeout: Some(wrong), ..Health::default() })).contains("health.timeout"));
        let once = Once {
            command: vec!["x".into()],
            when: Phase::Before,
            timeout: Some(wrong),
            user: None,
            on: Labels::new(),
            on_unknown: OnUnknown::Stop,
        };
        assert!(after(|m| _ = m.once.insert("tidy".parse().expect("a name"), once)).contains("run-once timeout"));
    }
    assert_eq!(after(|m| m.hooks.prepare[0].timeout = Some(DURATION_MIN)), "");
    assert_eq!(after(|m| m.hooks.prepare[0].timeout = Some(DURATION_MAX)), "");
}

#[test]
fn paths_stay_inside_the_release() {
    for bad in ["", "/etc", "../x", "a/../../x", "a//b", "a/", "./a", "a/.", "..", "a\0b"] {
        for field in ["shared_dirs", "shared_files", "writable_dirs"] {
            let text = after(|m| {
                let list = match field {
                    "shared_dirs" => &mut m.layout.shared_dirs,
                    "shared_files" => &mut m.layout.shared_files,
                    _ => &mut m.layout.writable_dirs,
                };
                list.push(bad.to_owned());
            });
            assert!(text.contains(field), "{bad:?} in {field}: {text}");
        }
    }
    assert_eq!(after(|m| m.layout.shared_dirs.push("..a/b..".into())), "");
}

#[test]
fn shared_paths_do_not_overlap() {
    for other in ["var/log", "var", "var/log/app"] {
        assert!(after(|m| m.layout.shared_files.push(other.to_owned())).contains("overlap"), "{other}");
    }
    assert_eq!(after(|m| m.layout.shared_files.push("var/logs".into())), "", "a common beginning is no overlap");
}

#[test]
fn hooks_are_a_command_or_units() {
    assert!(after(|m| m.hooks.restart[0].units.clear()).contains("needs `command` or `units`"));
    assert!(after(|m| m.hooks.prepare[0].units.push("a.service".into())).contains("both"));
    assert!(after(|m| m.hooks.prepare[0].command = vec![String::new()]).contains("names no program"));
    assert!(after(|m| m.hooks.prepare[0].command.push("a\0".into())).contains("NUL"));
    assert!(after(|m| m.once.values_mut().for_each(|once| once.command.clear())).contains("is empty"));
}

#[test]
fn a_health_check_that_asks_nothing_is_refused_and_so_is_an_empty_migration() {
    assert!(after(|m| m.health = Some(Health::default())).contains("exactly one of"), "it would be healthy at once");
    let both = Health { http: Some("http://x".into()), tcp: Some("x:1".into()), ..Health::default() };
    assert!(after(|m| m.health = Some(both)).contains("`http, tcp` needs exactly one of"));
    assert_eq!(after(|m| m.health = None), "");
    let emptied = after(|m| {
        let migrate = m.migrate.as_mut().expect("the sample has one");
        (migrate.command, migrate.after) = (vec![], None);
    });
    assert!(emptied.contains("neither a `command` nor an `after`"), "{emptied}");
}

#[test]
fn environment_names_are_names_and_not_ours() {
    for bad in ["", "1A", "A-B", "A=B", "Ä", "COORD_APP"] {
        assert!(after(|m| drop(m.env.insert(bad.into(), "x".into()))).contains("env"), "{bad}");
    }
    assert_eq!(after(|m| drop(m.env.insert("_a1".into(), "any\nvalue".into()))), "");
}

#[test]
fn run_once_tasks_come_in_their_order() {
    let names = |phase| manifest().once_tasks(phase).iter().map(|t| t.name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(Phase::Before), ["before"]);
    assert_eq!(names(Phase::After), ["after", "after.reindex"]);
    let after = &manifest().once_tasks(Phase::After)[0];
    assert_eq!(after.timeout, Duration::from_secs(30 * 60), "from [migrate], as [migrate.after] names none");
    assert!(manifest().reversible());
}

#[test]
fn durations_are_written_as_people_write_them() {
    let text = String::from_utf8(manifest().encode()).expect("text");
    assert!(text.contains(r#""timeout":"5m""#) && text.contains(r#""bake":"10s""#), "{text}");
    let wrong = text.replace(r#""bake":"10s""#, r#""bake":10"#);
    assert!(matches!(Manifest::decode(wrong.as_bytes()), Err(ManifestError::Syntax(_))));
}
