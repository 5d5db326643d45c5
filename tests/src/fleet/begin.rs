//! What most tests begin with.

use anyhow::Result;

use super::{Fleet, sqlite_in};
use crate::mootube::Tree;

impl Fleet {
    /// These servers on release `one`, whose steps are noted and whose rollouts are quick, and the tree to change.
    ///
    /// # Errors
    /// Something does not start, or the release does not work.
    pub fn on_release_one(names: &[&str]) -> Result<(Self, Tree)> {
        let mut fleet = Self::start_with(sqlite_in)?;
        fleet.add_nodes(names)?;
        let tree = fleet.quick_tree()?;
        fleet.publish(tree.path(), "one", &["--serial", "100%"])?.expect_code(0)?;
        Ok((fleet, tree))
    }

    /// The application, with [`Tree::note_steps`] and a short bake.
    ///
    /// # Errors
    /// The file system's.
    pub fn quick_tree(&self) -> Result<Tree> {
        let tree = Tree::copy_to(&self.dir().join("app"))?;
        tree.note_steps()?;
        tree.edit_deploy_file("bake   = \"2s\"", "bake   = \"100ms\"")?;
        Ok(tree)
    }
}
