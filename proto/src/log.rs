//! How both services log: lines on stderr, which systemd's journal keeps.

use std::io::IsTerminal as _;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Begins to log what `COORD_LOG` asks for, like `debug` or `coord_agent=debug,info`; what cannot be understood counts as `info`. Once, in main.
pub fn to_stderr() {
    let wanted = std::env::var("COORD_LOG").ok().and_then(|filter| filter.parse::<Targets>().ok());
    let filter = wanted.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let lines = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_writer(std::io::stderr).with_target(false);
    let lines = lines.with_ansi(std::io::stderr().is_terminal());
    // The journal has its own times.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        lines.without_time().finish().with(filter).init();
    } else {
        lines.finish().with(filter).init();
    }
}
