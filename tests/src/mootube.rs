//! The sample application's tree, and the releases that tests make of it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// With the test's directory its holds are gone too: no step outlives its test.
const STEP: &str = r#"#!/bin/sh
step="$COORD_RELEASE.$COORD_PHASE.$COORD_ATTEMPT"
echo "$step" >>"$COORD_SHARED_PATH/steps"
while [ -e "$COORD_SHARED_PATH/hold.$step" ]; do sleep 0.02; done
[ $# = 0 ] || exec "$@"
"#;

/// Where the sample application is.
pub fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("apps/mootube")
}

/// A copy of the sample application that a test may change.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// Release 1 in `root`, which is made.
    ///
    /// # Errors
    /// The file system's.
    pub fn copy_to(root: &Path) -> Result<Self> {
        copy(&source(), root)?;
        fs::remove_dir_all(root.join("next"))?;
        Ok(Self { root: root.to_owned() })
    }

    /// An application without a server of its own: its hooks, migration and health check only note their steps, so that
    /// ten servers of it cost nothing. `more` is the rest of `deploy.toml`, from `[rollout]` on.
    ///
    /// # Errors
    /// The file system's.
    pub fn plain(root: &Path, app: &str, more: &str) -> Result<Self> {
        fs::create_dir_all(root.join("bin"))?;
        let tree = Self { root: root.to_owned() };
        tree.write_step()?;
        let hooks: String = ["drain", "restart"].map(|phase| format!("[[hooks.{phase}]]\ncommand = [\"bin/step\"]\n")).concat();
        let tasks = "[migrate]\ncommand = [\"bin/step\"]\n[health]\ncommand = [\"bin/step\"]\ninterval = \"100ms\"\n";
        tree.write("deploy.toml", &format!("app = \"{app}\"\n{hooks}{tasks}{more}"))?;
        Ok(tree)
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Makes it release 2: new theme, slugs, migration 0002.
    ///
    /// # Errors
    /// The file system's.
    pub fn apply_next(&self) -> Result<()> {
        copy(&source().join("next"), &self.root)
    }

    /// Writes one file, e.g. `VERSION`, `migrations/0003_x.sql` or `BROKEN`.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let path = self.root.join(path);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Removes one file.
    ///
    /// # Errors
    /// The file system's.
    pub fn remove(&self, path: &str) -> Result<()> {
        let path = self.root.join(path);
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }

    /// Gives it every hook, each of which notes in `shared/steps` that it began, and waits while a test holds it
    /// ([`crate::fleet::Fleet::hold`]); migration and health check do so before their own work.
    ///
    /// # Errors
    /// The file system's, or `deploy.toml` is not as expected.
    pub fn note_steps(&self) -> Result<()> {
        self.write_step()?;
        let step = |phase| format!("[[hooks.{phase}]]\ncommand = [\"bin/step\"]\n\n");
        let hooks: String = ["prepare", "drain", "restart", "undrain"].map(step).concat();
        self.edit_deploy_file("[[hooks.restart]]", &format!("{hooks}[[hooks.restart]]"))?;
        self.edit_deploy_file("[\"bin/migrate\"]", "[\"bin/step\", \"bin/migrate\"]")?;
        self.edit_deploy_file("[\"bin/healthcheck\"]", "[\"bin/step\", \"bin/healthcheck\"]")
    }

    fn write_step(&self) -> Result<()> {
        self.write("bin/step", STEP)?;
        Ok(fs::set_permissions(self.root.join("bin/step"), fs::Permissions::from_mode(0o755))?)
    }

    /// Replaces text in `deploy.toml`.
    ///
    /// # Errors
    /// The text is not there.
    pub fn edit_deploy_file(&self, from: &str, to: &str) -> Result<()> {
        let text = fs::read_to_string(self.root.join("deploy.toml"))?;
        anyhow::ensure!(text.contains(from), "deploy.toml does not contain `{from}`");
        self.write("deploy.toml", &text.replacen(from, to, 1))
    }
}

/// Files and directories, over what is there; permissions are kept. The application has no links.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
