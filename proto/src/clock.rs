//! The wall clock, for what people read: no decision hangs on it.

/// Now, in Unix seconds.
pub fn unix_now() -> i64 {
    jiff::Timestamp::now().as_second()
}
