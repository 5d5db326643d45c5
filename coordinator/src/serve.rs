//! `coordinator run`: one task set, one stop token.

use crate::config::Config;

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// Something cannot be set up, or a part ended that should not.
pub async fn serve(_config: Config) -> anyhow::Result<()> {
    anyhow::bail!("not wired yet")
}
