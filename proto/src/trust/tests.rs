use std::io::Cursor;

use minisign::KeyPair;

use super::*;

fn key() -> KeyPair {
    KeyPair::generate_unencrypted_keypair().expect("a key pair")
}

fn sign(key: &KeyPair, bytes: &[u8]) -> String {
    minisign::sign(Some(&key.pk), &key.sk, Cursor::new(bytes), None, None).expect("signed").into_string()
}

fn trust(keys: &[&KeyPair], threshold: usize) -> Result<Trust, String> {
    let lines: Vec<String> = keys.iter().map(|key| format!("\"{}\"", key.pk.to_base64())).collect();
    Trust::parse(&format!("version = 1\nenvironment = \"production\"\nthreshold = {threshold}\nkeys = [{}]\n", lines.join(", ")))
}

fn manifest() -> Vec<u8> {
    let text = include_bytes!("../../fixtures/manifest.v1.json");
    Manifest::decode(text).expect("the fixture is a manifest").encode()
}

fn refused_for_signatures(result: Result<Manifest, TrustError>) -> bool {
    matches!(result, Err(TrustError::Signatures { .. }))
}

#[test]
fn a_signed_manifest_is_opened() {
    let (key, bytes) = (key(), manifest());
    let opened = trust(&[&key], 1).expect("a trust file").open(&bytes, &[sign(&key, &bytes)]).expect("opened");
    assert_eq!(opened.seq, Seq(7));
}

#[test]
fn every_changed_byte_is_noticed() {
    let (key, bytes) = (key(), manifest());
    let trust = trust(&[&key], 1).expect("a trust file");
    let signature = sign(&key, &bytes);
    for at in (0..bytes.len()).step_by(97) {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert!(refused_for_signatures(trust.open(&changed, std::slice::from_ref(&signature))), "byte {at}");
    }
    assert!(refused_for_signatures(trust.open(&bytes[..bytes.len() - 1], std::slice::from_ref(&signature))));
    assert!(refused_for_signatures(trust.open(&bytes, &[])));
    assert!(refused_for_signatures(trust.open(&bytes, &["no signature".to_owned()])));
}

#[test]
fn nothing_is_parsed_before_its_signature_was_checked() {
    let (key, other) = (key(), key());
    let trust = trust(&[&key], 1).expect("a trust file");
    // Not JSON: an error of the parser would show that it ran.
    let garbage = b"{ not a manifest";
    assert!(refused_for_signatures(trust.open(garbage, &[sign(&other, garbage)])));
    assert!(matches!(trust.open(garbage, &[sign(&key, garbage)]), Err(TrustError::Manifest(_))));
}

#[test]
fn a_foreign_key_does_not_count() {
    let (key, foreign, bytes) = (key(), key(), manifest());
    let trust = trust(&[&key], 1).expect("a trust file");
    assert!(refused_for_signatures(trust.open(&bytes, &[sign(&foreign, &bytes)])));
    assert!(trust.open(&bytes, &[sign(&foreign, &bytes), sign(&key, &bytes)]).is_ok());
}

#[test]
fn a_threshold_counts_keys_and_not_signatures() {
    let (a, b, bytes) = (key(), key(), manifest());
    let two = trust(&[&a, &b], 2).expect("a trust file");
    let twice = [sign(&a, &bytes), sign(&a, &bytes)];
    assert!(matches!(two.open(&bytes, &twice), Err(TrustError::Signatures { needed: 2, valid: 1, given: 2 })));
    assert!(two.open(&bytes, &[sign(&a, &bytes), sign(&b, &bytes)]).is_ok());
}

#[test]
fn trust_files_that_cannot_work_are_refused() {
    let (a, b) = (key(), key());
    for (problem, result) in [
        ("listed twice", trust(&[&a, &a], 1)),
        ("threshold", trust(&[&a, &b], 3)),
        ("threshold", trust(&[&a, &b], 0)),
        ("threshold", trust(&[], 1)),
        ("unknown field", Trust::parse("version = 1\nenvironment = \"p\"\nkeys = []\nkesy = []\n")),
        ("RW", Trust::parse("version = 1\nenvironment = \"p\"\nkeys = [\"AAAA\"]\n")),
        ("ssh-ed25519 AAAA", Trust::parse("version = 1\nenvironment = \"p\"\nkeys = [\"ssh-ed25519 AAAA\"]\n")),
    ] {
        let text = result.err().unwrap_or_default();
        assert!(text.contains(problem), "{problem}: {text}");
    }
}

#[test]
fn another_environment_is_refused_although_signed() {
    let (key, bytes) = (key(), manifest());
    let text = format!("version = 1\nenvironment = \"staging\"\nkeys = [\"{}\"]\n", key.pk.to_base64());
    let opened = Trust::parse(&text).expect("a trust file").open(&bytes, &[sign(&key, &bytes)]);
    assert!(matches!(opened, Err(TrustError::Environment { .. })), "{opened:?}");
}

#[test]
fn an_oversized_manifest_is_not_even_hashed() {
    let key = key();
    let bytes = vec![b' '; MANIFEST_BYTES_MAX + 1];
    // Unsigned: had the signatures been looked at first, they would be the error.
    let opened = trust(&[&key], 1).expect("a trust file").open(&bytes, &[]);
    assert!(matches!(opened, Err(TrustError::Manifest(ManifestError::TooLarge { .. }))));
}

#[test]
fn envelopes_round_trip_and_open() {
    let (key, bytes) = (key(), manifest());
    let envelope = Envelope { manifest: bytes.clone(), signatures: vec![sign(&key, &bytes)] };
    assert_eq!(Envelope::decode(&envelope.encode()).expect("decoded"), envelope);
    assert!(trust(&[&key], 1).expect("a trust file").open_envelope(&envelope.encode()).is_ok());
}

#[test]
fn envelopes_cut_anywhere_or_too_long_are_refused() {
    let whole = Envelope { manifest: b"m".to_vec(), signatures: vec!["s".into(), "t".into()] }.encode();
    for end in 0..whole.len() {
        assert!(Envelope::decode(&whole[..end]).is_err(), "cut at {end}");
    }
    assert!(Envelope::decode(&[&whole[..], b"x"].concat()).is_err());
    let many = Envelope { manifest: vec![], signatures: vec![String::new(); SIGNATURES_MAX + 1] };
    let long = Envelope { manifest: vec![], signatures: vec!["x".repeat(SIGNATURE_BYTES_MAX + 1)] };
    let large = Envelope { manifest: vec![0; MANIFEST_BYTES_MAX + 1], signatures: vec![] };
    for bad in [many, long, large] {
        assert!(Envelope::decode(&bad.encode()).is_err());
    }
    // A count that promises more than there is must not reserve it.
    assert!(Envelope::decode(b"COORDM1\n\xff\xff\xff\xff").is_err());
}
