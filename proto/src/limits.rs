//! Every limit that both sides must agree on (I8).

use std::time::Duration;

/// A signed manifest, in bytes: well below etcd's 1.5 MiB request limit.
pub const MANIFEST_BYTES_MAX: usize = 256 * 1024;
/// A record other than a manifest, in bytes.
pub const RECORD_BYTES_MAX: usize = 512 * 1024;
/// One piece of an artifact, in bytes (the last piece may be shorter).
pub const PIECE_BYTES: u64 = 4 * 1024 * 1024;
/// Pieces an artifact may have: 2,400 digests of 64 characters stay below the manifest's limit.
pub const PIECES_MAX: usize = 2_400;
/// Entries an archive may have.
pub const ENTRIES_MAX: u64 = 1_000_000;
/// Bytes an archive may unpack to.
pub const UNPACKED_BYTES_MAX: u64 = 64 * 1024 * 1024 * 1024;
/// Directory levels below the release.
pub const PATH_DEPTH_MAX: usize = 64;
/// One path inside an archive, in bytes (PATH_MAX less room for the release's own path).
pub const PATH_BYTES_MAX: usize = 3_072;
/// Output of one hook or migration kept on the server, in bytes.
pub const HOOK_LOG_BYTES_MAX: usize = 1024 * 1024;
/// Last part of a hook's output that goes into the status record, in bytes.
pub const LOG_TAIL_BYTES_MAX: usize = 4 * 1024;
/// Hooks in one phase of a manifest.
pub const HOOKS_MAX: usize = 32;
/// Hook deadline where a manifest names none.
pub const HOOK_TIMEOUT: Duration = Duration::from_secs(300);
/// Shortest timeout or interval in a manifest.
pub const DURATION_MIN: Duration = Duration::from_millis(100);
/// Longest timeout or interval in a manifest.
pub const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);
/// Audit events live this long.
pub const EVENT_TTL: Duration = Duration::from_secs(30 * 24 * 3600);
/// Shortest lease that an agent or coordinator may ask for: below it, a scheduling delay looks like death.
pub const LEASE_TTL_MIN: Duration = Duration::from_secs(2);
/// Shortest `batch_deadline`: with none, every server would be late in the first look at it.
pub const BATCH_DEADLINE_MIN: Duration = Duration::from_secs(1);
/// Longest `bake` and `batch_deadline`.
pub const ROLLOUT_WAIT_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Finished rollouts kept per app.
pub const HISTORY_MAX: usize = 50;
/// Attempts of one migration under `on_unknown = "retry"`.
pub const MIGRATION_ATTEMPTS_MAX: u32 = 5;
