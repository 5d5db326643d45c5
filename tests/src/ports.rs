//! Free ports, found as `coordctl dev up` finds them.

pub use coordinator::ports::{Port, free};
