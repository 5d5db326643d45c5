use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use sha2::Sha512;
use ssh_key::public::{Ed25519PublicKey, KeyData, SkEd25519};
use ssh_key::{Algorithm, HashAlg, LineEnding, SshSig};

use super::*;

const BYTES: &[u8] = b"a manifest's exact bytes";
const TOUCHED: u8 = 0x01;

/// One Ed25519 key in whatever format is asked for.
struct Key(Ed25519KeyPair);

impl Key {
    fn new(seed: u8) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("any 32 bytes are a seed"))
    }

    fn material(&self) -> KeyMaterial {
        self.0.public_key().as_ref().try_into().expect("32 bytes")
    }

    fn plain(&self) -> KeyData {
        Ed25519PublicKey(self.material()).into()
    }

    fn token(&self, application: &str) -> KeyData {
        KeyData::SkEd25519(SkEd25519::new(Ed25519PublicKey(self.material()), application))
    }

    fn minisign_line(&self, id: u8) -> String {
        base64::engine::general_purpose::STANDARD.encode([&b"Ed"[..], &[id; 8], &self.material()].concat())
    }

    fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.0.sign(bytes).as_ref().to_vec()
    }

    fn ssh_signature(&self, namespace: &str, hash: HashAlg, bytes: &[u8]) -> String {
        let signed = SshSig::signed_data(namespace, hash, bytes).expect("signed data");
        let made = ssh_key::Signature::new(Algorithm::Ed25519, self.sign(&signed)).expect("64 bytes");
        armored(self.plain(), namespace, hash, made)
    }

    /// What a security key does, by PROTOCOL.u2f: it signs the application, its flags, its counter and the hash.
    fn token_signature(&self, application: &str, flags: u8) -> String {
        let hashed = SshSig::signed_data(openssh::NAMESPACE, HashAlg::Sha512, BYTES).expect("signed data");
        let trailer = [flags, 0, 0, 0, 9];
        let signed = [Sha256::digest(application).as_slice(), &trailer, Sha256::digest(hashed).as_slice()].concat();
        let made = ssh_key::Signature::new(Algorithm::SkEd25519, [&self.sign(&signed)[..], &trailer].concat()).expect("69 bytes");
        armored(self.token(application), openssh::NAMESPACE, HashAlg::Sha512, made)
    }
}

fn armored(key: KeyData, namespace: &str, hash: HashAlg, made: ssh_key::Signature) -> String {
    SshSig::new(key, namespace, hash, made).and_then(|s| s.to_pem(LineEnding::LF)).expect("armored")
}

fn line(key: KeyData) -> String {
    ssh_key::PublicKey::new(key, "ada@laptop").to_openssh().expect("a line")
}

fn verified(line: &str, bytes: &[u8], signature: &str) -> Result<(), SignatureError> {
    PublicKey::parse(line).expect("a key").verify(bytes, &Signature::parse(signature)?)
}

#[test]
fn an_openssh_signature_fits_its_key_its_bytes_and_its_purpose_alone() {
    let (key, other) = (Key::new(1), Key::new(2));
    for hash in [HashAlg::Sha512, HashAlg::Sha256] {
        let signature = key.ssh_signature(openssh::NAMESPACE, hash, BYTES);
        assert_eq!(verified(&line(key.plain()), BYTES, &signature), Ok(()), "{hash}");
        assert_eq!(verified(&line(key.plain()), b"other bytes", &signature), Err(SignatureError::Wrong));
        assert_eq!(verified(&line(other.plain()), BYTES, &signature), Err(SignatureError::OtherKey));
    }
    let for_git = key.ssh_signature("git", HashAlg::Sha512, BYTES);
    assert_eq!(verified(&line(key.plain()), BYTES, &for_git), Err(SignatureError::Namespace { found: "git".into() }));
}

#[test]
fn who_signs_under_another_s_name_is_found() {
    let (key, thief) = (Key::new(1), Key::new(2));
    let signed = SshSig::signed_data(openssh::NAMESPACE, HashAlg::Sha512, BYTES).expect("signed data");
    let made = ssh_key::Signature::new(Algorithm::Ed25519, thief.sign(&signed)).expect("64 bytes");
    let signature = armored(key.plain(), openssh::NAMESPACE, HashAlg::Sha512, made);
    assert_eq!(verified(&line(key.plain()), BYTES, &signature), Err(SignatureError::Wrong));
}

#[test]
fn a_namespace_that_is_only_written_on_the_outside_does_not_count() {
    let key = Key::new(1);
    let signed = SshSig::signed_data("git", HashAlg::Sha512, BYTES).expect("signed data");
    let made = ssh_key::Signature::new(Algorithm::Ed25519, key.sign(&signed)).expect("64 bytes");
    let signature = armored(key.plain(), openssh::NAMESPACE, HashAlg::Sha512, made);
    assert_eq!(verified(&line(key.plain()), BYTES, &signature), Err(SignatureError::Wrong));
}

#[test]
fn a_security_key_must_be_touched() {
    let key = Key::new(3);
    let token = line(key.token("ssh:"));
    assert!(token.starts_with("sk-ssh-ed25519@openssh.com "), "{token}");
    assert_eq!(verified(&token, BYTES, &key.token_signature("ssh:", TOUCHED)), Ok(()));
    // With the PIN too: more than what is asked for.
    assert_eq!(verified(&token, BYTES, &key.token_signature("ssh:", TOUCHED | 0x04)), Ok(()));
    assert_eq!(verified(&token, b"other bytes", &key.token_signature("ssh:", TOUCHED)), Err(SignatureError::Wrong));
    for flags in [0x00, 0x04, 0xfe] {
        assert_eq!(verified(&token, BYTES, &key.token_signature("ssh:", flags)), Err(SignatureError::Untouched), "{flags}");
    }
    // A key made for another purpose has other public bytes, and does not pass for this one.
    assert_eq!(verified(&token, BYTES, &key.token_signature("ssh:other", TOUCHED)), Err(SignatureError::OtherKey));
}

#[test]
fn a_touch_cannot_be_added_afterwards() {
    let key = Key::new(3);
    let hashed = SshSig::signed_data(openssh::NAMESPACE, HashAlg::Sha512, BYTES).expect("signed data");
    let signed = [Sha256::digest("ssh:").as_slice(), &[0, 0, 0, 0, 9], Sha256::digest(hashed).as_slice()].concat();
    let made = ssh_key::Signature::new(Algorithm::SkEd25519, [&key.sign(&signed)[..], &[TOUCHED, 0, 0, 0, 9]].concat());
    let signature = armored(key.token("ssh:"), openssh::NAMESPACE, HashAlg::Sha512, made.expect("69 bytes"));
    assert_eq!(verified(&line(key.token("ssh:")), BYTES, &signature), Err(SignatureError::Wrong));
}

#[test]
fn a_security_key_s_name_over_a_plain_signature_does_not_count() {
    let key = Key::new(3);
    let signed = SshSig::signed_data(openssh::NAMESPACE, HashAlg::Sha512, BYTES).expect("signed data");
    let made = ssh_key::Signature::new(Algorithm::Ed25519, key.sign(&signed)).expect("64 bytes");
    let signature = armored(key.token("ssh:"), openssh::NAMESPACE, HashAlg::Sha512, made);
    assert_eq!(verified(&line(key.token("ssh:")), BYTES, &signature), Err(SignatureError::Wrong));
}

#[test]
fn a_signature_cut_or_changed_anywhere_is_refused() {
    let key = Key::new(1);
    let (line, signature) = (line(key.plain()), key.ssh_signature(openssh::NAMESPACE, HashAlg::Sha512, BYTES));
    let whole = signature.trim_end();
    for end in 0..whole.len() {
        assert!(verified(&line, BYTES, &whole[..end]).is_err(), "cut at {end}");
    }
    let begins = whole.find('\n').expect("lines") + 1;
    for at in begins..whole.rfind('\n').expect("lines") {
        let other = if whole.as_bytes()[at] == b'A' { "B" } else { "A" };
        let changed = format!("{}{other}{}", &whole[..at], &whole[at + 1..]);
        assert!(verified(&line, BYTES, &changed).is_err(), "changed at {at}");
    }
    assert!(verified(&line, BYTES, &format!("{whole}\nand more")).is_err());
    let long = format!("{}\n{signature}", " ".repeat(SIGNATURE_BYTES_MAX));
    assert_eq!(verified(&line, BYTES, &long), Err(SignatureError::TooLong { len: long.len() }));
}

#[test]
fn one_key_is_one_key_in_whatever_spelling() {
    let (key, other) = (Key::new(1), Key::new(2));
    let spellings = [
        line(key.plain()),
        format!("{}  ", line(key.plain()).replace("ada@laptop", "")),
        line(key.token("ssh:")),
        line(key.token("ssh:deploy")),
        key.minisign_line(1),
        key.minisign_line(2),
    ];
    for (a, first) in spellings.iter().enumerate() {
        let parsed = PublicKey::parse(first).expect("a key");
        assert_eq!((parsed.material(), parsed.id()), (&key.material(), KeyId::of(&key.material())));
        assert_eq!(PublicKey::parse(&parsed.to_string()).expect("its own line"), parsed);
        for second in spellings.iter().skip(a + 1) {
            let twice = KeySet::parse(&[first.clone(), second.clone()], 2);
            assert!(matches!(twice, Err(KeySetError::Twice { .. })), "{first} and {second}: {twice:?}");
        }
    }
    assert!(KeySet::parse(&[line(key.plain()), other.minisign_line(1)], 2).is_ok());
}

#[test]
fn a_threshold_is_met_by_keys_of_both_formats_and_by_no_key_twice() {
    let (a, token, revoked) = (Key::new(1), Key::new(2), Key::new(3));
    let pair = minisign_pair();
    let set = KeySet::parse(&[line(a.plain()), line(token.token("ssh:")), pair.pk.to_base64()], 3).expect("a set");
    let by_a = a.ssh_signature(openssh::NAMESPACE, HashAlg::Sha512, BYTES);
    let by_a_again = a.ssh_signature(openssh::NAMESPACE, HashAlg::Sha256, BYTES);
    let by_token = token.token_signature("ssh:", TOUCHED);
    let by_pair = ::minisign::sign(Some(&pair.pk), &pair.sk, std::io::Cursor::new(BYTES), None, None).expect("signed").into_string();
    let by_revoked = revoked.ssh_signature(openssh::NAMESPACE, HashAlg::Sha512, BYTES);
    let valid = |signatures: &[&String]| set.valid(BYTES, &signatures.iter().map(|s| (*s).clone()).collect::<Vec<_>>());
    assert_eq!(valid(&[&by_a, &by_token, &by_pair]), 3);
    assert_eq!(valid(&[&by_a, &by_token]), 2);
    assert_eq!(valid(&[&by_a, &by_a]), 1, "the same signature twice");
    assert_eq!(valid(&[&by_a, &by_a_again]), 1, "two signatures by one key");
    assert_eq!(valid(&[&by_revoked, &"no signature".to_owned(), &by_a]), 1);
    assert_eq!(set.valid(b"other bytes", &[by_a, by_token, by_pair]), 0);
}

fn minisign_pair() -> ::minisign::KeyPair {
    ::minisign::KeyPair::generate_unencrypted_keypair().expect("a key pair")
}

#[test]
fn a_minisign_key_id_is_a_name_and_no_proof() {
    let (key, other) = (minisign_pair(), minisign_pair());
    let signature = ::minisign::sign(Some(&key.pk), &key.sk, std::io::Cursor::new(BYTES), None, None).expect("signed").into_string();
    assert_eq!(verified(&key.pk.to_base64(), BYTES, &signature), Ok(()));
    assert_eq!(verified(&other.pk.to_base64(), BYTES, &signature), Err(SignatureError::OtherKey));
    // The foreign key takes on the id of the one that signed.
    let decode = |line: &str| base64::engine::general_purpose::STANDARD.decode(line).expect("base64");
    let (real, mut forged) = (decode(&key.pk.to_base64()), decode(&other.pk.to_base64()));
    forged[..10].copy_from_slice(&real[..10]);
    let forged = base64::engine::general_purpose::STANDARD.encode(forged);
    assert_eq!(verified(&forged, BYTES, &signature), Err(SignatureError::Wrong));
}

#[test]
fn a_minisign_signature_without_the_hash_is_refused() {
    let key = Key::new(1);
    let comment = "timestamp:1";
    let made = key.sign(BYTES);
    let global = key.sign(&[&made[..], comment.as_bytes()].concat());
    let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let head = [&b"Ed"[..], &[1; 8], &made].concat();
    let text = format!("untrusted comment: x\n{}\ntrusted comment: {comment}\n{}\n", encode(&head), encode(&global));
    let refused = verified(&key.minisign_line(1), BYTES, &text).expect_err("refused");
    assert!(refused.to_string().contains("legacy"), "{refused}");
}

#[test]
fn keys_that_may_not_sign_are_named() {
    // Made with ssh-keygen; nobody has the private halves.
    let ecdsa = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBIwVCv4gS6NpYJNDX8pTFcJ4qbvFbN8KdauUZASykVx9cmNDiym2JXUHTEekRH8pli2/50aJuOjwI3+qWoF0EtA= a@b";
    let rsa = format!("ssh-rsa {} a@b", base64::engine::general_purpose::STANDARD.encode(rsa_blob()));
    for (line, algorithm) in [(rsa.as_str(), "ssh-rsa"), (ecdsa, "ecdsa-sha2-nistp256")] {
        assert_eq!(PublicKey::parse(line), Err(KeyError::Algorithm { algorithm: algorithm.into() }));
        let refused = KeySet::parse(&[line.to_owned()], 1).expect_err("refused").to_string();
        assert!(refused.contains(algorithm) && refused.contains("ssh-ed25519"), "{refused}");
    }
    let good = line(Key::new(1).plain());
    for (bad, says) in [
        ("", "RW…"),
        ("RWQ", "RW…"),
        ("ssh-ed25519", "ssh-ed25519 AAAA…"),
        (&good[..60], "ssh-ed25519 AAAA…"),
        (&good.replace("ssh-ed25519", "sk-ssh-ed25519@openssh.com"), "ssh-ed25519 AAAA…"),
        (&format!("restrict {good}"), "ssh-ed25519 AAAA…"),
        (&format!("{good}{}", "x".repeat(KEY_BYTES_MAX)), "limit"),
    ] {
        let refused = PublicKey::parse(bad).expect_err(bad).to_string();
        assert!(refused.contains(says), "{bad}: {refused}");
    }
}

/// An RSA public key as it is on the wire: name, exponent, modulus.
fn rsa_blob() -> Vec<u8> {
    let field = |bytes: &[u8]| [&u32::try_from(bytes.len()).expect("short").to_be_bytes(), bytes].concat();
    let modulus: Vec<u8> = std::iter::once(0).chain((0..4).flat_map(|n| Sha512::digest([n]).to_vec())).map(|b| b | 1).collect();
    [field(b"ssh-rsa"), field(&[1, 0, 1]), field(&modulus)].concat()
}

#[test]
fn key_ids_are_hexadecimal_digits() {
    let id = KeyId::of(&[7; 32]);
    assert_eq!((id.to_string().len(), id.to_string().parse()), (32, Ok(id)));
    for bad in ["", "ABCD", "../../stable", &"A".repeat(32), &"g".repeat(32), &"0".repeat(33)] {
        assert!(bad.parse::<KeyId>().is_err(), "{bad}");
    }
}
