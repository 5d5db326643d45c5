//! Signatures of the original tools, `minisign` and `ssh-keygen`: theirs are accepted here, and ours there; and two people who sign one
//! release.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use coord_proto::ids::Seq;
use coord_proto::keys::Key;
use coord_proto::rollout::RolloutSpec;
use coord_proto::signature::openssh::NAMESPACE;
use coord_proto::signature::{KeySet, PublicKey, Signature, SignatureError};
use coord_tests::fleet::{Fleet, app, sqlite_in};
use coord_tests::process::{Process, program};
use coord_tests::wait::until;
use coordinator::sign::{self, KeySource, Protection, SignError, Signer};
use sha2::{Digest as _, Sha256};
use ssh_key::public::{Ed25519PublicKey, KeyData, SkEd25519};
use ssh_key::{Algorithm, HashAlg, LineEnding, SshSig};

const BYTES: &[u8] = b"a manifest's exact bytes";
const APP: &str = "mootube";

/// A directory with a message, where the original tools work.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Result<Self> {
        let bench = Self(tempfile::tempdir()?);
        fs::write(bench.path("m"), BYTES)?;
        Ok(bench)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> Result<String> {
        fs::read_to_string(self.path(name)).with_context(|| format!("no {name}"))
    }

    /// Runs a tool in the directory; `input` is a file of it.
    fn run(&self, tool: &str, args: &[&str], input: &str) -> Result<(bool, String)> {
        let mut command = Command::new(tool);
        command.args(args).current_dir(self.0.path()).stdin(fs::File::open(self.path(input))?);
        let output = command.output().with_context(|| format!("cannot run {tool}; `tests/setup test` installs it"))?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
    }

    fn expect(&self, tool: &str, args: &[&str]) -> Result<()> {
        let (done, said) = self.run(tool, args, "m")?;
        ensure!(done, "{tool} {args:?}: {said}");
        Ok(())
    }

    /// A key of OpenSSH's own making, and its public line.
    fn ssh_key(&self, name: &str, kind: &str) -> Result<String> {
        self.expect("ssh-keygen", &["-q", "-t", kind, "-N", "", "-C", "ada@laptop", "-f", name])?;
        Ok(self.text(&format!("{name}.pub"))?.trim().to_owned())
    }

    /// Does `ssh-keygen -Y verify` accept it?
    fn openssh_accepts(&self, line: &str, signature: &str, namespace: &str) -> Result<bool> {
        fs::write(self.path("allowed"), format!("ada {line}\n"))?;
        fs::write(self.path("signature"), signature)?;
        let (accepted, _) =
            self.run("ssh-keygen", &["-Y", "verify", "-f", "allowed", "-I", "ada", "-n", namespace, "-s", "signature"], "m")?;
        Ok(accepted)
    }
}

fn verified(line: &str, bytes: &[u8], signature: &str) -> Result<(), SignatureError> {
    PublicKey::parse(line).expect("a key").verify(bytes, &Signature::parse(signature)?)
}

fn no_password() -> io::Result<String> {
    Err(io::Error::other("nobody there"))
}

#[test]
fn what_minisign_signs_verifies_here_and_the_reverse() -> Result<()> {
    let bench = Bench::new()?;
    bench.expect("minisign", &["-G", "-W", "-p", "their.pub", "-s", "their.key"])?;
    bench.expect("minisign", &["-S", "-s", "their.key", "-m", "m", "-x", "their.sig", "-t", "release 7"])?;
    let their = bench.text("their.pub")?.lines().last().context("a line")?.to_owned();
    ensure!(verified(&their, BYTES, &bench.text("their.sig")?) == Ok(()));
    ensure!(verified(&their, b"other", &bench.text("their.sig")?) == Err(SignatureError::Wrong));
    bench.expect("minisign", &["-S", "-l", "-s", "their.key", "-m", "m", "-x", "legacy.sig"])?;
    ensure!(verified(&their, BYTES, &bench.text("legacy.sig")?).is_err(), "without the hash");
    // Their key in our hands, and a key that we made: minisign accepts what both sign.
    let ours = sign::generate(&bench.path("our.key"), &Protection::None)?;
    for (key, line) in [("their.key", &their), ("our.key", &ours)] {
        let signer = Signer::read(&KeySource::File(bench.path(key)), no_password)?;
        ensure!(signer.public_line() == *line, "{signer:?}");
        fs::write(bench.path("our.sig"), signer.sign(BYTES, Seq(7))?)?;
        bench.expect("minisign", &["-V", "-H", "-P", line, "-m", "m", "-x", "our.sig"])?;
    }
    // And it signs with a key of ours.
    bench.expect("minisign", &["-S", "-s", "our.key", "-m", "m", "-x", "both.sig"])?;
    ensure!(verified(&ours, BYTES, &bench.text("both.sig")?) == Ok(()));
    // One without a checksum whose halves do not belong together is found before it signs anything.
    let text = bench.text("their.key")?;
    let (comment, line) = text.trim().split_once('\n').context("two lines")?;
    let at = line.len() / 2;
    let other = if line.as_bytes()[at] == b'A' { "B" } else { "A" };
    let damaged = KeySource::Text(format!("{comment}\n{}{other}{}\n", &line[..at], &line[at + 1..]));
    let refused = Signer::read(&damaged, no_password).expect_err("damaged");
    ensure!(matches!(refused, SignError::Useless { .. }), "{refused:?}");
    Ok(())
}

#[test]
fn what_ssh_keygen_signs_verifies_here_and_the_reverse() -> Result<()> {
    let bench = Bench::new()?;
    let line = bench.ssh_key("key", "ed25519")?;
    for (namespace, expected) in [(NAMESPACE, Ok(())), ("git", Err(SignatureError::Namespace { found: "git".into() }))] {
        let (done, made) = bench.run("ssh-keygen", &["-q", "-Y", "sign", "-n", namespace, "-f", "key"], "m")?;
        ensure!(done && verified(&line, BYTES, &made) == expected, "{namespace}: {made}");
    }
    bench.expect("ssh-keygen", &["-q", "-Y", "sign", "-O", "hashalg=sha256", "-n", NAMESPACE, "-f", "key", "m"])?;
    ensure!(verified(&line, BYTES, &bench.text("m.sig")?) == Ok(()), "with SHA-256");
    // The key in a file, as its .pub beside it, and as a CI secret.
    for source in [KeySource::File(bench.path("key")), KeySource::File(bench.path("key.pub")), KeySource::Text(bench.text("key")?)] {
        let signer = Signer::read(&source, no_password)?;
        let made = signer.sign(BYTES, Seq(7))?;
        ensure!(bench.openssh_accepts(&line, &made, NAMESPACE)? && !bench.openssh_accepts(&line, &made, "git")?, "{source:?}: {made}");
        ensure!(KeySet::parse(std::slice::from_ref(&line), 1)?.valid(BYTES, &[made]) == 1);
    }
    Ok(())
}

#[test]
fn a_security_key_s_signature_is_the_same_here_and_for_openssh() -> Result<()> {
    let bench = Bench::new()?;
    for (flags, expected) in [(0x01, Ok(())), (0x00, Err(SignatureError::Untouched))] {
        let (line, signature) = token_signature(flags).map_err(anyhow::Error::msg)?;
        // Without a touch too: `ssh-keygen -Y verify` does not look, here one is demanded.
        ensure!(flags == 0 || bench.openssh_accepts(&line, &signature, NAMESPACE)?, "OpenSSH says that this is no signature");
        ensure!(verified(&line, BYTES, &signature) == expected, "flags {flags}");
    }
    Ok(())
}

/// No token is at hand: this is what one does, by OpenSSH's PROTOCOL.u2f. Its public line, and its signature.
fn token_signature(flags: u8) -> ssh_key::Result<(String, String)> {
    let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).map_err(|_| ssh_key::Error::Crypto)?;
    let public = KeyData::SkEd25519(SkEd25519::new(Ed25519PublicKey::try_from(key.public_key().as_ref())?, "ssh:"));
    let hashed = SshSig::signed_data(NAMESPACE, HashAlg::Sha512, BYTES)?;
    let trailer = [flags, 0, 0, 0, 9];
    let signed = [Sha256::digest("ssh:").as_slice(), &trailer, Sha256::digest(hashed).as_slice()].concat();
    let made = ssh_key::Signature::new(Algorithm::SkEd25519, [key.sign(&signed).as_ref(), &trailer].concat())?;
    let signature = SshSig::new(public.clone(), NAMESPACE, HashAlg::Sha512, made)?.to_pem(LineEnding::LF)?;
    Ok((ssh_key::PublicKey::from(public).to_openssh()?, signature))
}

#[test]
fn keys_that_cannot_sign_are_named_and_nothing_is_guessed() -> Result<()> {
    let bench = Bench::new()?;
    let rsa = bench.ssh_key("rsa", "rsa")?;
    let refused = KeySet::parse(&[rsa], 1).expect_err("RSA may not sign").to_string();
    ensure!(refused.contains("ssh-rsa") && refused.contains("ssh-ed25519"), "{refused}");
    for file in ["rsa", "rsa.pub"] {
        let refused = Signer::read(&KeySource::File(bench.path(file)), no_password).expect_err("RSA may not sign");
        ensure!(matches!(refused, SignError::OpenSsh { .. }), "{file}: {refused:?}");
    }
    // The private half is nowhere: ssh-keygen's own words are in the error.
    bench.ssh_key("key", "ed25519")?;
    fs::remove_file(bench.path("key"))?;
    let alone = Signer::read(&KeySource::File(bench.path("key.pub")), no_password)?;
    let refused = alone.sign(BYTES, Seq(7)).expect_err("nothing to sign with");
    ensure!(matches!(refused, SignError::SshKeygen { .. }) && refused.hint().contains("ssh-agent"), "{refused}");
    Ok(())
}

#[test]
fn key_inspect_shows_the_public_line_of_both_formats() -> Result<()> {
    let bench = Bench::new()?;
    let ssh = bench.ssh_key("key", "ed25519")?;
    let ssh = ssh.rsplit_once(' ').context("a comment")?.0.to_owned();
    let minisign = sign::generate(&bench.path("mini.key"), &Protection::None)?;
    for (file, line) in [("key", &ssh), ("key.pub", &ssh), ("mini.key", &minisign), ("mini.pub", &minisign)] {
        let output = Command::new(program("coordctl")?).args(["key", "inspect"]).arg(bench.path(file)).env_clear().output()?;
        ensure!(String::from_utf8(output.stdout.clone())?.trim() == line, "{file}: {output:?}");
    }
    let json = Command::new(program("coordctl")?).args(["key", "inspect", "--json"]).arg(bench.path("key")).env_clear().output()?;
    let json: serde_json::Value = serde_json::from_slice(&json.stdout)?;
    ensure!(json["kind"] == "secret" && json["format"] == "openssh" && json["id"].as_str().is_some_and(|id| id.len() == 32), "{json}");
    Ok(())
}

/// ssh-agent, with one key that is on no disk any more.
struct Agent {
    socket: PathBuf,
    _process: Process,
}

impl Agent {
    fn holding(bench: &Bench, key: &str) -> Result<Self> {
        let socket = bench.path("agent.socket");
        let process = Process::start(Command::new("ssh-agent").args(["-D", "-a"]).arg(&socket), &bench.path("agent.log"))?;
        until("ssh-agent listens", || Ok(socket.exists()))?;
        let added = Command::new("ssh-add").arg("-q").arg(bench.path(key)).env("SSH_AUTH_SOCK", &socket).stdin(Stdio::null()).status()?;
        ensure!(added.success(), "ssh-add: {added}");
        fs::remove_file(bench.path(key))?;
        Ok(Self { socket, _process: process })
    }
}

/// Ada signs with minisign, Bob through ssh-agent; both must.
struct Two {
    fleet: Fleet,
    bench: Bench,
    agent: Agent,
    tree: coord_tests::mootube::Tree,
}

impl Two {
    fn start() -> Result<Self> {
        let mut fleet = Fleet::start_with(sqlite_in)?;
        let bench = Bench::new()?;
        let bob = bench.ssh_key("bob", "ed25519")?;
        let agent = Agent::holding(&bench, "bob")?;
        let trust = fleet.dir().join("trust.toml");
        let file = fs::read_to_string(&trust)?;
        fs::write(&trust, file.replace("threshold = 1", "threshold = 2").replace("\"]", &format!("\", \"{bob}\"]")))?;
        fleet.add_nodes(&["web-1"])?;
        let tree = fleet.quick_tree()?;
        Ok(Self { fleet, bench, agent, tree })
    }

    fn trust(&self) -> Result<String> {
        Ok(path(&self.fleet.dir().join("trust.toml"))?.to_owned())
    }

    /// `release sign APP RELEASE` as Bob.
    fn bob_signs(&self, release: &str) -> Result<coord_tests::fleet::Said> {
        let key = self.bench.path("bob.pub");
        let mut command = self.fleet.coordctl_command(&["release", "sign", APP, release, "--yes", "--trust", &self.trust()?])?;
        command.arg("--key").arg(key).env("USER", "bob").env("SSH_AUTH_SOCK", &self.agent.socket).stdin(Stdio::null());
        Ok(command.output()?.into())
    }

    fn spec(&self) -> Result<Option<RolloutSpec>> {
        self.fleet.record(&Key::RolloutSpec(app()))
    }
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("not UTF-8")
}

#[test]
fn nothing_moves_until_the_second_person_signed_and_then_the_fleet_deploys() -> Result<()> {
    let two = Two::start()?;
    let trust = two.trust()?;
    let waits = two.fleet.publish(two.tree.path(), "one", &["--trust", &trust, "--detach"])?.expect_code(0)?;
    ensure!(waits.out.trim() == format!("release one waits for 1 more signature: coordctl release sign {APP} one"), "{waits:?}");
    ensure!(two.spec()?.is_none() && two.fleet.currents()["web-1"].is_none());
    for verb in [&["release", "list"][..], &["release", "show", APP, "one"]] {
        let said = two.fleet.coordctl(verb)?.expect_code(0)?;
        ensure!(said.says("waits for 1 more signature: coordctl release sign mootube one"), "{verb:?}: {said:?}");
    }
    two.fleet.coordctl(&["release", "verify", APP, "one", "--trust", &trust])?.expect_code(3)?;
    // Nobody is asked without a terminal, and the first one's key is no second one.
    let unasked = two.fleet.coordctl(&["release", "sign", APP, "one", "--trust", &trust, "--key", path(&two.bench.path("bob.pub"))?])?;
    ensure!(unasked.code == 3 && unasked.says("--yes") && unasked.says("number 1"), "{unasked:?}");
    let key = two.bench.path("bob.pub");
    let mut without = two.fleet.coordctl_command(&["release", "sign", APP, "one", "--yes", "--trust", &trust, "--key", path(&key)?])?;
    let without = coord_tests::fleet::Said::from(without.env("PATH", "/nowhere").output()?).expect_code(1)?;
    ensure!(without.says("needs ssh-keygen") && without.says("apt-get install openssh-client"), "{without:?}");
    let again = two.fleet.coordctl(&["release", "sign", APP, "one", "--yes", "--trust", &trust])?.expect_code(0)?;
    ensure!(again.says("signed with this key already; it waits for 1 more signature"), "{again:?}");
    ensure!(two.spec()?.is_none());
    let signed = two.bob_signs("one")?.expect_code(0)?;
    ensure!(signed.says("runs once") && signed.says("deployed as release one by bob"), "{signed:?}");
    two.fleet.expect_everywhere("one")?;
    two.fleet.coordctl(&["release", "verify", APP, "one", "--trust", &trust])?.expect_code(0)?;
    let again = two.bob_signs("one")?.expect_code(0)?;
    ensure!(again.says("signed with this key already; nothing was changed"), "{again:?}");

    // Whoever publishes without --detach sees the second signature come, and then the rollout.
    let publishing = two.fleet.start_publish(two.tree.path(), "two", &["--trust", &trust])?;
    until("it waits", || Ok(two.fleet.coordctl(&["release", "show", APP, "two"])?.says("waits for 1 more signature")))?;
    two.bob_signs("two")?.expect_code(0)?;
    let published = publishing.wait()?.expect_code(0)?;
    ensure!(published.says("deployed as release two by bob"), "{published:?}");
    two.fleet.expect_everywhere("two")
}

#[test]
fn a_release_that_waited_while_a_higher_one_was_rolled_out_is_refused() -> Result<()> {
    let two = Two::start()?;
    let trust = two.trust()?;
    two.fleet.publish(two.tree.path(), "late", &["--trust", &trust, "--detach"])?.expect_code(0)?;
    let waiting = two.fleet.start_publish(two.tree.path(), "left", &["--trust", &trust])?;
    until("it waits", || Ok(two.fleet.coordctl(&["release", "show", APP, "left"])?.says("waits for 1 more signature")))?;
    two.fleet.publish(two.tree.path(), "next", &["--trust", &trust, "--detach"])?.expect_code(0)?;
    two.bob_signs("next")?.expect_code(0)?;
    let left = waiting.wait()?.expect_code(3)?;
    ensure!(left.says("release next by") && left.says("publish again"), "{left:?}");
    let before = two.spec()?;
    let refused = two.bob_signs("late")?.expect_code(3)?;
    ensure!(refused.says("release next by") && refused.says("nothing was changed") && refused.says("publish again"), "{refused:?}");
    let back = two.fleet.coordctl(&["rollback", APP, "late", "--force"])?.expect_code(3)?;
    ensure!(back.says("waits for 1 more signature"), "{back:?}");
    ensure!(two.spec()? == before);
    two.fleet.expect_everywhere("next")
}
