//! Trees as package managers make them: what is in them is small, how they hang together by links is the real thing.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

/// A Python project with its virtual environment in the tree: `python3 -m venv`, and a package in it.
///
/// # Errors
/// There is no Python, or the file system's.
pub fn python_venv(root: &Path) -> Result<()> {
    let made = Command::new("/usr/bin/python3").args(["-m", "venv", "--without-pip"]).arg(root.join("venv")).output()?;
    ensure!(made.status.success(), "python3 -m venv: {}", String::from_utf8_lossy(&made.stderr));
    let lib = fs::read_dir(root.join("venv/lib"))?.next().ok_or(anyhow::anyhow!("no version in venv/lib"))??.path();
    file(&lib.join("site-packages/shop/__init__.py"), "NAME = \"shop\"\n")?;
    file(&lib.join("site-packages/certifi/cacert.pem"), "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n")?;
    file(&root.join("manage.py"), "import sys, shop, certifi\nassert sys.prefix.endswith('venv'), sys.prefix\nprint(shop.NAME)\n")?;
    file(&lib.join("site-packages/certifi/__init__.py"), "")
}

/// A node project as pnpm installs it: packages are hard links into a store, and find each other by relative links.
///
/// # Errors
/// The file system's.
pub fn pnpm(root: &Path, store: &Path) -> Result<()> {
    let modules = root.join("node_modules");
    for (name, version, dir, text) in [
        ("a", "1.0.0", "a@1.0.0", "module.exports = require('b') + require('@scope/c');\n"),
        ("b", "2.0.0", "b@2.0.0", "module.exports = 'b';\n"),
        ("@scope/c", "3.0.0", "@scope+c@3.0.0", "module.exports = 'c';\n"),
    ] {
        let package = modules.join(".pnpm").join(dir).join("node_modules").join(name);
        linked(&store.join(format!("{dir}-index")), &package.join("index.js"), text)?;
        let json = format!("{{\"name\":\"{name}\",\"version\":\"{version}\"}}\n");
        linked(&store.join(format!("{dir}-package")), &package.join("package.json"), &json)?;
    }
    link("../../b@2.0.0/node_modules/b", &modules.join(".pnpm/a@1.0.0/node_modules/b"))?;
    link("../../../@scope+c@3.0.0/node_modules/@scope/c", &modules.join(".pnpm/a@1.0.0/node_modules/@scope/c"))?;
    link("../b@2.0.0/node_modules/b", &modules.join(".pnpm/node_modules/b"))?;
    link(".pnpm/a@1.0.0/node_modules/a", &modules.join("a"))?;
    script(
        &modules.join(".bin/a"),
        "#!/bin/sh\nbasedir=$(dirname \"$0\")\ncat \"$basedir/../a/index.js\" \"$basedir/../.pnpm/node_modules/b/index.js\"\n",
    )
}

/// A Symfony project: bundles' assets and a vendor's program by relative links.
///
/// # Errors
/// The file system's.
pub fn symfony(root: &Path) -> Result<()> {
    file(&root.join("vendor/acme/admin/Resources/public/admin.css"), "body {}\n")?;
    link("../../vendor/acme/admin/Resources/public", &root.join("public/bundles/admin"))?;
    script(&root.join("vendor/acme/console/bin/console"), "#!/bin/sh\necho console\n")?;
    link("../acme/console/bin/console", &root.join("vendor/bin/console"))?;
    file(&root.join("vendor/composer/installed.json"), "[]\n")
}

/// A Rails project with its gems in the tree, and binstubs.
///
/// # Errors
/// The file system's.
pub fn rails(root: &Path) -> Result<()> {
    let gems = root.join("vendor/bundle/ruby/3.1.0");
    script(&gems.join("gems/rack-3.0.0/bin/rackup"), "#!/bin/sh\necho rackup\n")?;
    link("../gems/rack-3.0.0/bin/rackup", &gems.join("bin/rackup"))?;
    link("../vendor/bundle/ruby/3.1.0/bin/rackup", &root.join("bin/rackup"))?;
    file(&gems.join("gems/rack-3.0.0/lib/rack.rb"), "module Rack; end\n")?;
    link("rack-3.0.0", &gems.join("gems/rack"))?;
    file(&root.join("public/packs/manifest.json"), "{}\n")
}

fn file(path: &Path, text: &str) -> Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    Ok(fs::write(path, text)?)
}

fn script(path: &Path, text: &str) -> Result<()> {
    file(path, text)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

fn link(target: &str, path: &Path) -> Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    Ok(symlink(target, path)?)
}

/// One file under two names.
fn linked(stored: &Path, path: &Path, text: &str) -> Result<()> {
    file(stored, text)?;
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    Ok(fs::hard_link(stored, path)?)
}
