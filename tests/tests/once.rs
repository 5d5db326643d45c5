//! Work that runs once per release in the whole fleet, beside the migration: `[migrate.after]` and `[once.NAME]`.

use std::fs;

use anyhow::{Result, ensure};
use coord_proto::migration::TaskState;
use coord_proto::rollout::RolloutPhase;
use coord_tests::fleet::{Fleet, sqlite_in};
use coord_tests::mootube::Tree;

const THREE: [&str; 3] = ["web-1", "web-2", "web-3"];

/// A tree with a task of each kind, each of which notes `<task> <current of web-1> <of web-2> <of web-3>` in `once.log`.
fn tree_with_tasks(fleet: &Fleet) -> Result<Tree> {
    let tree = fleet.quick_tree()?;
    let links: String = THREE.iter().map(|name| format!(" $(readlink {}/current)", fleet.app_dir(name).display())).collect();
    tree.write("bin/note", &format!("echo $COORD_RELEASE $COORD_PHASE {links} >>{}\n", fleet.dir().join("once.log").display()))?;
    let note = "command = [\"sh\", \"bin/note\"]\n";
    let tasks =
        format!("[migrate.after]\n{note}\n[once.assets]\nwhen = \"before\"\n{note}\n[once.reindex]\nwhen = \"after\"\n{note}\n[health]");
    tree.edit_deploy_file("[health]", &tasks)?;
    Ok(tree)
}

fn noted(fleet: &Fleet) -> Vec<String> {
    fs::read_to_string(fleet.dir().join("once.log")).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn every_task_runs_once_before_the_first_switch_or_after_the_last() -> Result<()> {
    let mut fleet = Fleet::start_with(sqlite_in)?;
    fleet.add_nodes(&THREE)?;
    let tree = tree_with_tasks(&fleet)?;
    fleet.publish(tree.path(), "one", &[])?.expect_code(0)?;
    fleet.publish(tree.path(), "two", &[])?.expect_code(0)?;
    fleet.expect_everywhere("two")?;
    let one = "releases/one releases/one releases/one";
    let two = "releases/two releases/two releases/two";
    let expected = [
        "one before.assets".to_owned(),
        format!("one after {one}"),
        format!("one after.reindex {one}"),
        format!("two before.assets {one}"),
        format!("two after {two}"),
        format!("two after.reindex {two}"),
    ];
    ensure!(noted(&fleet) == expected, "{:?}", noted(&fleet));
    for task in ["before", "before.assets", "after", "after.reindex"] {
        let record = fleet.task("two", task)?;
        ensure!(record.as_ref().is_some_and(|r| r.state == TaskState::Succeeded && r.attempt == 1), "{task}: {record:?}");
    }
    // Whoever joins later finds all of it done.
    fleet.add_nodes(&["web-4"])?;
    fleet.wait_current("web-4", "two")?;
    fleet.wait_status("web-4", "has come to rest", |s| s.health == coord_proto::report::HealthState::Healthy)?;
    ensure!(noted(&fleet) == expected, "the server that joined later ran a task: {:?}", noted(&fleet));
    Ok(())
}

#[test]
fn an_after_task_that_fails_halts_and_takes_nothing_back() -> Result<()> {
    let mut fleet = Fleet::start_with(sqlite_in)?;
    fleet.add_nodes(&THREE)?;
    let tree = tree_with_tasks(&fleet)?;
    fleet.publish(tree.path(), "one", &[])?.expect_code(0)?;
    tree.edit_deploy_file("[migrate.after]\ncommand = [\"sh\", \"bin/note\"]", "[migrate.after]\ncommand = [\"sh\", \"-c\", \"exit 4\"]")?;
    let said = fleet.publish(tree.path(), "two", &[])?.expect_code(4)?;
    ensure!(said.says("the task `after` failed on") && said.says("exit status 4"), "{said:?}");
    fleet.wait_rollout("it halted", |s| s.phase == RolloutPhase::Halted)?;
    fleet.expect_everywhere("two")?;
    let record = fleet.task("two", "after")?;
    ensure!(record.as_ref().is_some_and(|r| r.state == TaskState::Failed && r.attempt == 1), "{record:?}");
    ensure!(!noted(&fleet).iter().any(|line| line.starts_with("two after")), "{:?}", noted(&fleet));
    Ok(())
}
