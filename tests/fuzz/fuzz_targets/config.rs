//! `agent.toml`, as a person or a tool may have written it.
#![no_main]

use coord_agent::config::{Config, Host};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let host = Host { name: "web-1".into(), uid: 1000, state_directory: None };
    if let Err(error) = Config::parse(text, &host) {
        drop(coord_proto::chain::inline(&error));
    }
});
