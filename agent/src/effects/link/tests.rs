use std::os::unix::fs::MetadataExt;

use super::super::fixture::{CREATED, manifest_of};
use super::*;

const OWN: Ownership = Ownership { uid: None, gid: None, shared_mode: 0o2770 };

struct App {
    _temp: tempfile::TempDir,
    dir: AppDir,
    tree: PathBuf,
    manifest: Manifest,
}

fn app(shared_dirs: &[&str], shared_files: &[&str], writable_dirs: &[&str]) -> App {
    let temp = tempfile::tempdir().expect("temp dir");
    let dir = AppDir::new(temp.path().join("app"));
    dir.ensure_directories().expect("made");
    let own = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    let mut manifest = manifest_of("1", b"x");
    manifest.layout.shared_dirs = own(shared_dirs);
    manifest.layout.shared_files = own(shared_files);
    manifest.layout.writable_dirs = own(writable_dirs);
    let tree = dir.staging(&manifest.release);
    fs::create_dir(&tree).expect("made");
    App { _temp: temp, dir, tree, manifest }
}

impl App {
    fn link(&self) -> Result<(), LinkError> {
        link(&self.dir, &self.tree, &self.manifest, OWN)
    }
    fn shared(&self, name: &str) -> PathBuf {
        self.dir.shared().join(name)
    }
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a directory")).expect("made");
    fs::write(path, text).expect("written");
}

#[test]
fn shared_paths_replace_what_the_release_has_and_lead_into_shared() {
    let app = app(&["var/log", "public/uploads"], &[".env"], &[]);
    write(&app.shared(".env"), "SECRET=1");
    write(&app.tree.join("public/uploads/from-the-release"), "never merged");
    write(&app.tree.join(".env"), "from the release");
    app.link().expect("linked");
    // Under its final name, as the app sees it.
    let release = app.dir.release(&app.manifest.release);
    fs::rename(&app.tree, &release).expect("renamed");
    assert_eq!(fs::read_link(release.join("public/uploads")).expect("a link"), Path::new("../../../shared/public/uploads"));
    assert_eq!(fs::read_link(release.join(".env")).expect("a link"), Path::new("../../shared/.env"));
    assert_eq!(fs::read_to_string(release.join(".env")).expect("read"), "SECRET=1");
    write(&release.join("public/uploads/cat.jpg"), "meow");
    assert!(app.shared("public/uploads/cat.jpg").exists() && !app.shared("public/uploads/from-the-release").exists());
    assert!(release.join("var/log").is_dir());
}

#[test]
fn missing_shared_directories_are_made_with_mode_and_existing_ones_left_alone() {
    let app = app(&["a/new", "old"], &[], &[]);
    fs::create_dir(app.shared("old")).expect("made");
    let before = fs::metadata(app.shared("old")).expect("there").mode();
    app.link().expect("linked");
    for made in ["a", "a/new"] {
        assert_eq!(fs::metadata(app.shared(made)).expect("there").mode() & 0o7777, 0o2770, "{made}");
    }
    assert_eq!(fs::metadata(app.shared("old")).expect("there").mode(), before);
}

#[test]
fn a_shared_directory_on_another_volume_may_be_a_link() {
    let app = app(&["uploads"], &[], &[]);
    let volume = tempfile::tempdir().expect("temp dir");
    symlink(volume.path(), app.shared("uploads")).expect("linked");
    app.link().expect("linked");
    assert!(fs::symlink_metadata(app.shared("uploads")).expect("there").is_symlink());
}

#[test]
fn nothing_is_made_behind_a_link_in_shared() {
    let app = app(&["public/uploads"], &[], &[]);
    let outside = tempfile::tempdir().expect("temp dir");
    symlink(outside.path(), app.shared("public")).expect("linked");
    assert!(matches!(app.link(), Err(LinkError::NotADirectory { path }) if path == app.shared("public")));
    assert_eq!(fs::read_dir(outside.path()).expect("listed").count(), 0);
}

#[test]
fn nothing_is_made_behind_a_link_or_file_in_the_release() {
    let outside = tempfile::tempdir().expect("temp dir");
    for (shared, writable) in [(&["var/log"][..], &[][..]), (&[], &["var/log"])] {
        let app = app(shared, &[], writable);
        symlink(outside.path(), app.tree.join("var")).expect("linked");
        assert!(matches!(app.link(), Err(LinkError::NotADirectory { path }) if path == app.tree.join("var")));
    }
    let app = app(&[], &[], &["cache"]);
    symlink(outside.path(), app.tree.join("cache")).expect("linked");
    assert!(matches!(app.link(), Err(LinkError::NotADirectory { .. })));
    assert_eq!(fs::read_dir(outside.path()).expect("listed").count(), 0);
}

#[test]
fn a_missing_shared_file_is_named_and_nothing_is_changed() {
    let app = app(&["uploads"], &[".env", "config/db.yml"], &[]);
    write(&app.shared(".env"), "");
    fs::create_dir_all(app.shared("config/db.yml")).expect("a directory is no file");
    let error = check_shared_files(&app.dir, &app.manifest.layout).expect_err("missing");
    assert!(matches!(&error, LinkError::SharedFileMissing { path } if *path == app.shared("config/db.yml")), "{error}");
    app.link().expect_err("missing");
    assert!(!app.shared("uploads").exists() && fs::read_dir(&app.tree).expect("listed").count() == 0);
}

#[test]
fn a_shared_file_may_be_a_link_to_a_file_that_is_there() {
    let app = app(&[], &[".env"], &[]);
    symlink("/nonexistent", app.shared(".env")).expect("linked");
    assert!(matches!(app.link(), Err(LinkError::SharedFileMissing { .. })));
    fs::remove_file(app.shared(".env")).expect("removed");
    write(&app.shared("real"), "");
    symlink("real", app.shared(".env")).expect("linked");
    app.link().expect("linked");
}

#[test]
fn writable_directories_are_real_with_what_the_release_has_in_them() {
    let app = app(&[], &[], &["var/cache"]);
    write(&app.tree.join("var/cache/sub/keep"), "");
    app.link().expect("linked");
    let cache = fs::symlink_metadata(app.tree.join("var/cache")).expect("there");
    assert!(cache.is_dir());
    for dir in ["var/cache", "var/cache/sub"] {
        assert_eq!(fs::metadata(app.tree.join(dir)).expect("there").mode() & 0o7777, 0o2770, "{dir}");
    }
    assert!(app.tree.join("var/cache/sub/keep").exists());
}

#[test]
fn owners_are_set_on_what_the_app_writes_to_and_on_nothing_else() {
    if !nix::unistd::Uid::effective().is_root() {
        return;
    }
    let app = app(&["a/shared"], &[], &["cache"]);
    write(&app.tree.join("cache/file"), "");
    write(&app.tree.join("code"), "");
    let ownership = Ownership { uid: Some(4321), gid: Some(1234), shared_mode: 0o2770 };
    link(&app.dir, &app.tree, &app.manifest, ownership).expect("linked");
    let owner = |path: PathBuf| fs::symlink_metadata(path).map(|m| (m.uid(), m.gid())).expect("there");
    for path in [app.shared("a"), app.shared("a/shared"), app.tree.join("cache"), app.tree.join("cache/file")] {
        assert_eq!(owner(path.clone()), (4321, 1234), "{}", path.display());
    }
    assert_eq!(fs::metadata(app.shared("a")).expect("there").mode() & 0o7777, 0o2770, "the set-group-id bit survives the change of owner");
    for path in [app.tree.join("code"), app.tree.join("REVISION"), app.tree.clone(), app.dir.shared()] {
        assert_eq!(owner(path.clone()).0, 0, "{}", path.display());
    }
}

#[test]
fn revision_is_written_over_what_the_release_has() {
    let app = app(&[], &[], &[]);
    let outside = tempfile::NamedTempFile::new().expect("temp file");
    symlink(outside.path(), app.tree.join("REVISION")).expect("linked");
    app.link().expect("linked");
    assert_eq!(fs::read_to_string(app.tree.join("REVISION")).expect("read"), "abc123\n");
    assert_eq!(fs::metadata(outside.path()).expect("there").len(), 0, "not written through the link");
}

#[test]
fn all_times_are_the_releases() {
    let app = app(&["a/b/shared"], &[], &["c/writable"]);
    write(&app.tree.join("a/old"), "");
    app.link().expect("linked");
    for path in ["", "a", "a/b", "a/b/shared", "c", "c/writable", "REVISION"] {
        assert_eq!(fs::symlink_metadata(app.tree.join(path)).expect("there").mtime(), CREATED, "{path:?}");
    }
}
