//! Trees as Python, pnpm, Composer and Bundler make them: published, unpacked as they were, and run.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use coord_tests::fleet::{APP, Fleet, sqlite_in};
use coord_tests::mootube::Tree;
use coord_tests::trees;

const NODE: &str = "web-1";

/// What the release must do where it is: the health check.
const RUNS: &str = r#"#!/bin/sh -e
export PYTHONDONTWRITEBYTECODE=1
test "$(venv/bin/python manage.py)" = shop
test "$(node_modules/.bin/a | tail -n 1)" = "module.exports = 'b';"
if command -v node >/dev/null; then test "$(node -p 'require("a")')" = bc; fi
test "$(vendor/bin/console)" = console
grep -q body public/bundles/admin/admin.css
test "$(bin/rackup)" = rackup
test -f vendor/bundle/ruby/3.1.0/gems/rack/lib/rack.rb
"#;

/// Kind, content or target, and whether it can be executed, of everything below a directory.
fn contents(root: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let mut seen = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let meta = fs::symlink_metadata(&path)?;
            let what = if meta.is_symlink() {
                format!("-> {}", fs::read_link(&path)?.display())
            } else if meta.is_dir() {
                open.push(path.clone());
                "a directory".to_owned()
            } else {
                format!("{} {:?}", meta.mode() & 0o100, String::from_utf8_lossy(&fs::read(&path)?))
            };
            seen.insert(path.strip_prefix(root)?.to_owned(), what);
        }
    }
    Ok(seen)
}

fn tree(fleet: &Fleet) -> Result<Tree> {
    let deploy = "[artifact]\nallow_symlinks_to = [\"/usr/bin/python3*\"]\n[rollout]\nbake = \"100ms\"\n";
    let tree = Tree::plain(&fleet.dir().join("app"), APP, deploy)?;
    trees::python_venv(tree.path())?;
    trees::pnpm(tree.path(), &fleet.dir().join("pnpm-store"))?;
    trees::symfony(tree.path())?;
    trees::rails(tree.path())?;
    tree.write("bin/runs", RUNS)?;
    fs::set_permissions(tree.path().join("bin/runs"), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    tree.edit_deploy_file("[health]\ncommand = [\"bin/step\"]", "[health]\ncommand = [\"bin/step\", \"bin/runs\"]")?;
    Ok(tree)
}

#[test]
fn trees_of_package_managers_are_published_unpacked_as_they_were_and_run() -> Result<()> {
    let mut fleet = Fleet::start_with(sqlite_in)?;
    let path = std::env::var("PATH").unwrap_or_default();
    fleet.configure_agent(NODE, &format!("[apps.{APP}]\nsearch_path = \"{path}\"\n"))?;
    fleet.add_nodes(&[NODE])?;
    let tree = tree(&fleet)?;
    let said = fleet.publish(tree.path(), "one", &[])?.expect_code(0)?;
    ensure!(!said.says("look like secrets"), "{said:?}");
    fleet.expect_everywhere("one")?;
    let (packed, mut unpacked) = (contents(tree.path())?, contents(&fleet.app_dir(NODE).join("current/"))?);
    unpacked.remove(Path::new("REVISION"));
    let differ = |path: &&PathBuf| packed.get(*path) != unpacked.get(*path);
    let differences: Vec<&PathBuf> = packed.keys().chain(unpacked.keys()).filter(differ).collect();
    ensure!(differences.is_empty() && packed.len() > 40, "{differences:?}");
    let linked = fleet.app_dir(NODE).join("current/node_modules/.pnpm/b@2.0.0/node_modules/b/index.js");
    ensure!(fs::metadata(&linked)?.nlink() == 1, "a hard link into somebody's store came along");
    Ok(())
}

/// What servers would refuse is refused here, with its path, and nothing is published.
#[test]
fn a_tree_that_servers_would_refuse_is_not_published() -> Result<()> {
    let mut fleet = Fleet::start_with(sqlite_in)?;
    fleet.add_nodes(&[NODE])?;
    let tree = Tree::plain(&fleet.dir().join("app"), APP, "[rollout]\nbake = \"100ms\"\n")?;
    fs::create_dir(tree.path().join("sub"))?;
    for (target, problem) in [("/etc/passwd", "outside the release; make it relative"), ("../../x", "outside the release")] {
        let link = tree.path().join("sub/link");
        symlink(target, &link)?;
        let out = fleet.dir().join("out.tar.zst").display().to_string();
        let pack = fleet.coordctl(&["release", "pack", &tree.path().display().to_string(), "-o", &out])?.expect_code(3)?;
        let publish = fleet.publish(tree.path(), "one", &[])?.expect_code(3)?;
        for said in [pack, publish] {
            ensure!(said.says("sub/link") && said.says(target) && said.says(problem), "{said:?}");
        }
        ensure!(!Path::new(&out).exists() && fleet.rollout()?.is_none(), "something came of it");
        fs::remove_file(link)?;
    }
    Ok(())
}
