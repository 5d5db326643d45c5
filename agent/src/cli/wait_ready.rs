//! `coord-agent wait-ready APP`: ends when the release that this server should run is in place, so that whoever starts the
//! application at boot starts the right one.
//!
//! Who starts the application at boot? systemd does, by its own unit; the agent starts nothing at boot, its restart hooks
//! run after a switch alone. So the application's unit comes after `coord-wait@APP.service`, which runs this command.
//!
//! ```text
//!  coord-agent.service ─▶ coord-wait@APP.service (wait-ready) ─▶ the application's unit
//!        └── stage, migrate, switch `current` ── restart hook: asks systemd to restart that unit, and waits
//! ```
//!
//! The restart hook waits for the unit, and the unit for this command: so it must not wait for the hook, nor for the health
//! check that comes after it. In place means that `current` is switched to the goal, and no more. Drain hooks run before the
//! switch and must not start the application.
//!
//! What the server should run, the agent alone knows: it is asked on its loopback listener, and the store is not. A journal
//! on the disk would say what was right before the server was switched off. When the agent itself was told nothing for
//! a while, because etcd is away, this server is cordoned, or nothing is meant for it, what is there serves (I7).

use std::time::Duration;

use coord_proto::ids::{AppName, ReleaseId};
use tokio::time::{Instant, sleep};

use crate::config::Config;
use crate::machine::Standing;

/// How often the agent is asked.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// One answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The application, as in `[apps]`.
    app: AppName,
    /// How long to wait, e.g. 90s or 1h: a server that is new waits for a migration that runs elsewhere.
    #[arg(long, default_value = "15m", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// When the agent was told nothing for this long, because etcd is away, take what is there.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    untold: Duration,
}

impl Args {
    pub fn app(&self) -> &AppName {
        &self.app
    }
}

/// How waiting ended, and the exit code of each. 1 is an error of the configuration, 2 of the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// 0: it may start.
    InPlace { release: ReleaseId },
    /// 0: the last one that was here may start.
    Untold { release: ReleaseId },
    /// 3: this server's configuration does not allow the app.
    NotAllowed,
    /// 4: it failed here, and nothing else is here. The next release starts anew.
    Failed { words: String },
    /// 6: not yet; the agent goes on.
    TimedOut { words: String },
}

impl Ended {
    /// For the operating system.
    pub fn code(&self) -> u8 {
        match self {
            Self::InPlace { .. } | Self::Untold { .. } => 0,
            Self::NotAllowed => 3,
            Self::Failed { .. } => 4,
            Self::TimedOut { .. } => 6,
        }
    }

    /// For people.
    pub fn words(&self, app: &AppName) -> String {
        match self {
            Self::InPlace { release } => format!("{app}: release {release} is in place"),
            Self::Untold { release } => {
                format!("{app}: nobody says what should run (is etcd away?); release {release} is here, and serves")
            }
            Self::NotAllowed => format!("{app}: this server's configuration does not allow it; see `[apps] allow`"),
            Self::Failed { words } => format!("{app}: {words}; there is no other release here"),
            Self::TimedOut { words } => format!("{app}: not in place in time: {words}"),
        }
    }
}

/// Waits, and says on stderr what for.
///
/// # Errors
/// The agent cannot be asked, because its listener is switched off.
pub async fn run(config: &Config, args: &Args) -> anyhow::Result<Ended> {
    if !config.allows(&args.app) {
        return Ok(Ended::NotAllowed);
    }
    let Some(listen) = config.http.listen else {
        anyhow::bail!("the agent is asked at `[http] listen`, and that is switched off");
    };
    let client = reqwest::Client::builder().no_proxy().timeout(ANSWER_MAX).build()?;
    let url = format!("http://{listen}/standing/{}", args.app);
    let ask = async || -> anyhow::Result<Standing> {
        let answer = client.get(&url).send().await?.error_for_status()?.bytes().await?;
        Ok(serde_json::from_slice(&answer)?)
    };
    Ok(wait(args, ask, |words| eprintln!("{}: {words}", args.app)).await)
}

/// Asks until the answer ends it. An agent that does not answer is starting, or being upgraded.
async fn wait<E>(args: &Args, mut ask: impl AsyncFnMut() -> Result<Standing, E>, say: impl Fn(&str)) -> Ended {
    let begun = Instant::now();
    let (mut untold_since, mut said) = (None, String::new());
    loop {
        let words = match ask().await {
            Err(_) => "the agent does not answer; does coord-agent.service run?".to_owned(),
            Ok(Standing::InPlace { release }) => return Ended::InPlace { release },
            Ok(Standing::Failed { words }) => return Ended::Failed { words },
            Ok(Standing::Underway { words }) => {
                untold_since = None;
                words
            }
            Ok(Standing::Untold { release }) => {
                let since = *untold_since.get_or_insert_with(Instant::now);
                match release {
                    Some(release) if since.elapsed() >= args.untold => return Ended::Untold { release },
                    _ => "nobody says yet what should run".to_owned(),
                }
            }
        };
        if begun.elapsed() >= args.timeout {
            return Ended::TimedOut { words };
        }
        if words != said {
            say(&words);
            said = words;
        }
        sleep(ASK_EVERY).await;
    }
}

#[cfg(test)]
mod tests;
