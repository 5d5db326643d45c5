//! The framing around a manifest, and the signatures in it. Nothing is ever accepted: no input is signed by this key.
#![no_main]

use std::sync::LazyLock;

use coord_proto::trust::{Envelope, Trust};
use libfuzzer_sys::fuzz_target;

/// A key whose secret half was thrown away.
const FILE: &str =
    "version = 1\nenvironment = \"test\"\nthreshold = 1\nkeys = [\"RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\"]\n";
static TRUST: LazyLock<Trust> = LazyLock::new(|| Trust::parse(FILE).expect("a trust file"));

fuzz_target!(|bytes: &[u8]| {
    assert!(TRUST.open_envelope(bytes).is_err());
    if let Ok(envelope) = Envelope::decode(bytes) {
        assert_eq!(envelope.encode(), bytes);
    }
    // A trust file is no stranger's, but it is text that somebody wrote.
    if let Ok(text) = std::str::from_utf8(bytes) {
        drop(Trust::parse(text));
    }
});
