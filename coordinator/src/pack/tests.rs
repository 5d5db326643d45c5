use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::time::{Duration, SystemTime};

use coord_proto::archive::{ArchiveReader, ArchiveRules, Decompressor, Entry, Kind};
use coord_proto::limits::PIECE_BYTES;
use coord_proto::manifest::Compression;
use tempfile::TempDir;

use super::*;

fn dir() -> TempDir {
    tempfile::tempdir().expect("directory")
}

fn deploy(text: &str) -> DeployFile {
    let environment = "production".parse().expect("environment");
    DeployFile::parse(&format!("app = \"a\"\n{text}"), Path::new("deploy.toml"), Some(&environment)).expect("deploy file")
}

fn put(root: &Path, path: &str, content: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().expect("parent")).expect("directories");
    fs::write(path, content).expect("file");
}

fn packed(root: &Path, text: &str) -> Result<Packed, PackError> {
    pack(root, &deploy(text), &std::env::temp_dir(), Ui::new())
}

fn refusal(root: &Path, text: &str) -> String {
    coord_proto::chain::inline(&packed(root, text).expect_err("refused"))
}

fn entries(packed: &Packed) -> Vec<Entry> {
    let file = fs::File::open(packed.path()).expect("archive");
    let stream = Decompressor::new(packed.artifact.compression, file).expect("decoder");
    let mut reader = ArchiveReader::new(stream, ArchiveRules::of(&packed.artifact));
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry().expect("entry") {
        entries.push(entry);
    }
    entries
}

fn paths(root: &Path, text: &str) -> Vec<String> {
    entries(&packed(root, text).expect("packed")).into_iter().map(|e| e.path).collect()
}

fn sample(root: &Path) {
    put(root, "public/index.php", "<?php");
    put(root, "bin/console", "#!/bin/sh\n");
    fs::set_permissions(root.join("bin/console"), fs::Permissions::from_mode(0o700)).expect("mode");
    put(root, "a.txt", "a");
    put(root, "a/b", "b");
    fs::create_dir(root.join("empty")).expect("directory");
    symlink("../public/index.php", root.join("bin/link")).expect("link");
}

#[test]
fn the_same_tree_on_two_paths_with_other_times_and_umask_has_the_same_digest() {
    let (one, two) = (dir(), dir());
    sample(one.path());
    let deep = two.path().join("somewhere/else");
    fs::create_dir_all(&deep).expect("directory");
    sample(&deep);
    let file = fs::File::options().write(true).open(deep.join("a.txt")).expect("file");
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)).expect("time");
    fs::set_permissions(deep.join("a.txt"), fs::Permissions::from_mode(0o600)).expect("mode");
    fs::set_permissions(deep.join("public"), fs::Permissions::from_mode(0o700)).expect("mode");
    let digests = [one.path(), &deep].map(|root| packed(root, "").expect("packed").artifact);
    assert_eq!(digests[0], digests[1]);
    put(&deep, "a.txt", "b");
    assert_ne!(packed(&deep, "").expect("packed").artifact.digest, digests[0].digest);
}

#[test]
fn entries_are_sorted_by_their_bytes_and_keep_two_modes() {
    let root = dir();
    sample(root.path());
    let packed = packed(root.path(), "").expect("packed");
    let entries = entries(&packed);
    let paths: Vec<&str> = entries.iter().map(|e| e.path.as_str()).collect();
    assert_eq!(paths, ["a", "a.txt", "a/b", "bin", "bin/console", "bin/link", "empty", "public", "public/index.php"]);
    assert_eq!(entries[4].kind, Kind::File { size: 10, executable: true });
    assert_eq!(entries[5].kind, Kind::Link { target: "../public/index.php".into() });
    assert_eq!((packed.artifact.entries, packed.artifact.unpacked_size), (9, 17));
}

#[test]
fn headers_hold_no_time_owner_or_name() {
    let root = dir();
    sample(root.path());
    let packed = packed(root.path(), "").expect("packed");
    let tar = zstd::decode_all(fs::File::open(packed.path()).expect("archive")).expect("zstd");
    for entry in tar::Archive::new(tar.as_slice()).entries().expect("entries").raw(true) {
        let entry = entry.expect("entry");
        let h = entry.header();
        assert_eq!((h.mtime().expect("time"), h.uid().expect("uid"), h.gid().expect("gid")), (0, 0, 0));
        assert_eq!((h.username(), h.groupname()), (Ok(Some("")), Ok(Some(""))));
        assert!([0o644, 0o755, 0o777].contains(&h.mode().expect("mode")));
    }
}

#[test]
fn secrets_version_control_and_shared_content_stay_out() {
    let root = dir();
    for path in [".git/config", "sub/.git", ".hg/x", ".svn/x", ".env", ".env.local", ".env.prod.local", "conf/tls.pem", "conf/coord.key"] {
        put(root.path(), path, "x");
    }
    for path in ["home/id_rsa", "home/id_ed25519", "home/id_ed25519_sk", "var/log/app.log", "config/parameters.yml", "debug.log"] {
        put(root.path(), path, "x");
    }
    for path in ["index.php", ".env.example", "public/app.js", "var/cache/x", "home/id_rsa.pub"] {
        put(root.path(), path, "x");
    }
    let text = "[artifact]\nexclude = [\"*.log\"]\n[layout]\nshared_dirs = [\"var/log\"]\nshared_files = [\"config/parameters.yml\"]";
    let expected = ["conf", "config", "home", "home/id_rsa.pub", "index.php", "public", "public/app.js", "sub", "var", "var/cache"];
    let mut expected: Vec<&str> = expected.into_iter().chain([".env.example", "var/cache/x", "var/log"]).collect();
    expected.sort_unstable();
    assert_eq!(paths(root.path(), text), expected);
    let withheld = packed(root.path(), text).expect("packed").withheld;
    assert!(withheld.contains(&"conf/tls.pem".to_owned()) && withheld.contains(&".env".to_owned()), "{withheld:?}");
    assert!(!withheld.contains(&"debug.log".to_owned()), "{withheld:?}");
}

/// Python's certifi, and what many a package has in its tests.
#[test]
fn certificates_without_a_key_are_no_secret() {
    let root = dir();
    let certificate = "# Authority\n-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n";
    put(root.path(), "certifi/cacert.pem", certificate);
    put(root.path(), "both.pem", &format!("{certificate}-----BEGIN PRIVATE KEY-----\nMII\n-----END PRIVATE KEY-----\n"));
    put(root.path(), "large.pem", &format!("{certificate}{}", "x".repeat(4 << 20)));
    put(root.path(), "left/out.pem", certificate);
    let text = "[artifact]\nexclude = [\"left\"]";
    assert_eq!(paths(root.path(), text), ["certifi", "certifi/cacert.pem"]);
    assert_eq!(packed(root.path(), text).expect("packed").withheld, ["both.pem", "large.pem"]);
}

#[test]
fn include_brings_back_what_it_names_and_nothing_below() {
    let root = dir();
    for path in ["vendor/ca/cacert.pem", "vendor/ca/other.key", "build/keep.js", "build/drop.js", ".env"] {
        put(root.path(), path, "x");
    }
    let text = "[artifact]\nexclude = [\"build\"]\ninclude = [\"cacert.pem\", \"/build/keep.js\", \"vendor\"]";
    assert_eq!(paths(root.path(), text), ["build", "build/keep.js", "vendor", "vendor/ca", "vendor/ca/cacert.pem"]);
}

#[test]
fn exclude_patterns_are_gitignores_and_gitignore_files_are_not_read() {
    let root = dir();
    for path in ["vendor/lib.php", "logs/a.log", "logs/keep.log", "tmp/x", "src/tmp/y"] {
        put(root.path(), path, "x");
    }
    put(root.path(), ".gitignore", "vendor/\n");
    let text = "[artifact]\nexclude = [\"*.log\", \"!keep.log\", \"/tmp/\"]";
    assert_eq!(
        paths(root.path(), text),
        [".gitignore", "logs", "logs/keep.log", "src", "src/tmp", "src/tmp/y", "vendor", "vendor/lib.php"]
    );
    assert!(refusal(root.path(), "[artifact]\nexclude = [\"a[\"]").contains("artifact.exclude"));
}

#[test]
fn what_servers_refuse_is_refused_with_its_path() {
    type Make = fn(&Path);
    let cases: [(&str, Make, &str); 5] = [
        ("sub/pipe", |p| nix::unistd::mkfifo(p, nix::sys::stat::Mode::S_IRWXU).expect("fifo"), "fifo"),
        ("sub/socket", |p| drop(std::os::unix::net::UnixListener::bind(p).expect("socket")), "socket"),
        ("sub/absolute", |p| symlink("/etc/passwd", p).expect("link"), "outside the release"),
        ("sub/leaving", |p| symlink("../../x", p).expect("link"), "outside the release"),
        ("sub/winding", |p| symlink("../sub/../../x", p).expect("link"), ".."),
    ];
    for (path, make, problem) in cases {
        let root = dir();
        put(root.path(), "sub/ok", "x");
        make(&root.path().join(path));
        let refused = refusal(root.path(), "");
        assert!(refused.contains(path) && refused.contains(problem), "{refused}");
        assert!(packed(root.path(), &format!("[artifact]\nexclude = [\"/{path}\"]")).is_ok(), "{path} was excluded");
    }
}

#[test]
fn names_that_are_not_text_and_paths_too_deep_are_refused() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    let root = dir();
    fs::write(root.path().join(OsStr::from_bytes(b"caf\xe9")), "x").expect("file");
    assert!(refusal(root.path(), "").contains("not UTF-8"));
    let root = dir();
    put(root.path(), "d/".repeat(64).trim_end_matches('/'), "x");
    assert!(packed(root.path(), "").is_ok());
    put(root.path(), &format!("e/{}x", "d/".repeat(64)), "x");
    assert!(refusal(root.path(), "").contains("deeper than"));
}

#[test]
fn an_absolute_link_may_be_allowed_and_hard_links_become_files() {
    let root = dir();
    put(root.path(), "one", "content");
    fs::hard_link(root.path().join("one"), root.path().join("two")).expect("hard link");
    symlink("/usr/bin/python3.11", root.path().join("python")).expect("link");
    let packed = packed(root.path(), "[artifact]\nallow_symlinks_to = [\"/usr/bin/python3*\"]").expect("packed");
    let kinds: Vec<Kind> = entries(&packed).into_iter().map(|e| e.kind).collect();
    let file = Kind::File { size: 7, executable: false };
    assert_eq!(kinds, [file.clone(), Kind::Link { target: "/usr/bin/python3.11".into() }, file]);
    assert_eq!(packed.artifact.allow_symlinks_to, ["/usr/bin/python3*"]);
}

#[test]
fn long_names_and_targets_survive() {
    let root = dir();
    let long = format!("{}/{}", "n".repeat(200), "m".repeat(200));
    put(root.path(), &long, "x");
    let split = format!("{}/{}/{}", "a".repeat(70), "b".repeat(70), "c".repeat(90));
    put(root.path(), &split, "x");
    let target = format!("{}/{}", "t".repeat(90), "u".repeat(90));
    symlink(&target, root.path().join("link")).expect("link");
    let found = entries(&packed(root.path(), "").expect("packed"));
    assert!(found.iter().any(|e| e.path == long));
    assert!(found.iter().any(|e| e.path == split));
    assert!(found.iter().any(|e| e.kind == Kind::Link { target: target.clone() }));
}

#[test]
fn an_empty_tree_is_refused() {
    let root = dir();
    put(root.path(), ".env", "x");
    assert!(matches!(packed(root.path(), ""), Err(PackError::Empty { .. })));
}

#[test]
fn a_file_that_grows_or_shrinks_meanwhile_is_refused() {
    for size in [1, 9] {
        let root = dir();
        put(root.path(), "log", "12345");
        let rules = Rules::new(&deploy("")).expect("rules");
        let mut tree = Tree::read(root.path(), &rules, &[]).expect("tree");
        tree.entries[0].kind = Kind::File { size, executable: false };
        let written = archive::write(root.path(), &tree, &mut Vec::new(), &mut |_| ());
        assert!(matches!(written, Err(PackError::Changed { ref path }) if path.ends_with("log")), "{written:?}");
    }
}

#[test]
fn the_build_runs_in_a_clean_copy_and_leaves_the_tree_alone() {
    let root = dir();
    put(root.path(), "src.txt", "source");
    put(root.path(), ".env", "secret");
    put(root.path(), "sources.ts", "left out after the build");
    let text = "[artifact]\nbuild = [[\"sh\", \"-c\", \"test ! -e .env && cp sources.ts built.js && rm src.txt\"]]\nexclude = [\"*.ts\"]";
    assert_eq!(paths(root.path(), text), ["built.js"]);
    assert!(root.path().join("src.txt").exists() && !root.path().join("built.js").exists());
}

#[test]
fn a_subdirectory_of_the_build_may_be_the_artifact() {
    let root = dir();
    put(root.path(), "package.json", "{}");
    let text = "[artifact]\ndir = \"dist\"\nbuild = [[\"sh\", \"-c\", \"mkdir dist && echo hi > dist/index.html\"]]";
    assert_eq!(paths(root.path(), text), ["index.html"]);
}

#[test]
fn a_failed_build_says_which_command_and_how() {
    let root = dir();
    put(root.path(), "x", "x");
    let failed = refusal(root.path(), "[artifact]\nbuild = [[\"sh\", \"-c\", \"exit 7\"]]");
    assert!(failed.contains("`sh -c exit 7`") && failed.contains("exit status: 7"), "{failed}");
    let missing = refusal(root.path(), "[artifact]\nbuild = [[\"no-such-program-here\"]]");
    assert!(missing.contains("cannot be started"), "{missing}");
}

fn prebuilt(root: &Path, compression: Compression) -> PathBuf {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(2);
    header.set_mode(0o644);
    tar.append_data(&mut header, "top/sub/file", b"hi".as_slice()).expect("entry");
    let bytes = tar.into_inner().expect("tar");
    let path = root.join("prebuilt");
    let bytes = match compression {
        Compression::Zstd => zstd::encode_all(bytes.as_slice(), 1).expect("zstd"),
        Compression::Gzip => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            std::io::Write::write_all(&mut gzip, &bytes).expect("gzip");
            gzip.finish().expect("gzip")
        }
    };
    fs::write(&path, bytes).expect("file");
    path
}

#[test]
fn a_prebuilt_archive_is_counted_after_its_components_are_stripped() {
    for compression in [Compression::Zstd, Compression::Gzip] {
        let root = dir();
        let path = prebuilt(root.path(), compression);
        let whole = packed(&path, "").expect("packed").artifact;
        assert_eq!((whole.compression, whole.entries, whole.unpacked_size), (compression, 3, 2));
        let stripped = packed(&path, "[artifact]\nstrip_components = 1").expect("packed");
        assert_eq!((stripped.artifact.entries, stripped.artifact.strip_components), (2, 1));
        assert_eq!(stripped.path(), path);
        assert!(refusal(&path, "[artifact]\nstrip_components = 3").contains("strip_components"));
    }
}

#[test]
fn what_is_no_archive_or_cut_off_is_refused() {
    let root = dir();
    put(root.path(), "text", "just text");
    assert!(matches!(packed(&root.path().join("text"), ""), Err(PackError::NotAnArchive { .. })));
    let path = prebuilt(root.path(), Compression::Gzip);
    let bytes = fs::read(&path).expect("archive");
    fs::write(&path, &bytes[..bytes.len() - 20]).expect("file");
    assert!(matches!(packed(&path, ""), Err(PackError::Refused { .. })));
    assert!(refusal(&path, "[artifact]\nbuild = [[\"make\"]]").contains("prebuilt archive"));
}

#[test]
fn pieces_are_four_mebibytes_and_add_up() {
    let root = dir();
    let mut noise = vec![0u8; 2 * PIECE_BYTES as usize + 5];
    rand::RngCore::fill_bytes(&mut rand::rng(), &mut noise);
    fs::write(root.path().join("noise"), &noise).expect("file");
    let packed = packed(root.path(), "").expect("packed");
    let bytes = fs::read(packed.path()).expect("archive");
    let artifact = &packed.artifact;
    assert_eq!((artifact.size, artifact.pieces.len()), (bytes.len() as u64, 3));
    assert_eq!(artifact.digest, coord_proto::ids::Digest::of(&bytes));
    for (index, piece) in artifact.pieces.iter().enumerate() {
        let (start, end) = artifact.piece_range(index);
        assert_eq!(*piece, coord_proto::ids::Digest::of(&bytes[start as usize..end as usize]));
    }
}

#[test]
fn the_archive_is_gone_unless_it_is_kept() {
    let root = dir();
    put(root.path(), "x", "x");
    let first = packed(root.path(), "").expect("packed");
    let path = first.path().to_owned();
    drop(first);
    assert!(!path.exists());
    let out = dir();
    let to = out.path().join("app.tar.zst");
    packed(root.path(), "").expect("packed").keep(&to).expect("kept");
    assert!(to.exists());
}
