//! The manifest's parser and checks. What is accepted must survive its own encoding.
#![no_main]

use coord_proto::manifest::Manifest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match Manifest::decode(bytes) {
        Ok(manifest) => assert_eq!(Manifest::decode(&manifest.encode()).expect("what was accepted once"), manifest),
        Err(error) => drop(coord_proto::chain::inline(&error)),
    }
});
