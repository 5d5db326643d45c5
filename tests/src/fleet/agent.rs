//! `coord-agent` as a person or a unit of the machine calls it.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{Fleet, Publishing, Said};
use crate::ports::{self, Port};
use crate::process::program;

impl Fleet {
    /// Gives a server that is yet to be added a listener on loopback, beside other tables for its configuration.
    ///
    /// # Errors
    /// The file system's.
    pub fn configure_listening_agent(&self, name: &str, tables: &str) -> Result<Port> {
        let port = ports::free();
        self.configure_agent(name, &format!("[http]\nlisten = \"127.0.0.1:{}\"\n{tables}", port.number))?;
        Ok(port)
    }

    /// `coord-agent ARGS… --config …` with this server's configuration, to its end.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn coord_agent(&self, name: &str, args: &[&str]) -> Result<Said> {
        Ok(self.coord_agent_command(name, args)?.output().context("cannot run coord-agent")?.into())
    }

    /// The same, beside the test.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_coord_agent(&self, name: &str, args: &[&str]) -> Result<Publishing> {
        Publishing::start(&mut self.coord_agent_command(name, args)?)
    }

    fn coord_agent_command(&self, name: &str, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(program("coord-agent")?);
        command.args(args).arg("--config").arg(self.agent_file(name));
        Ok(command)
    }

    fn agent_file(&self, name: &str) -> PathBuf {
        self.dir().join("nodes").join(name).join("agent.toml")
    }

    /// The starts of a release's migration on these servers, by the steps that they noted.
    pub fn migration_starts(&self, names: &[&str], release: &str) -> Vec<String> {
        let begun = |name: &&str| -> Vec<String> {
            self.steps(name).iter().filter(|s| s.starts_with(&format!("{release}.before."))).map(|s| format!("{name} {s}")).collect()
        };
        names.iter().flat_map(begun).collect()
    }
}
