//! `fuzz-seeds DIR`: the first inputs of the fuzz targets, one directory each: the fixtures, and every attack of `coord_tests::attack`.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use coord_proto::archive::Decompressor;
use coord_proto::manifest::Compression;
use coord_proto::trust::Envelope;
use coord_tests::attack::{self, Outside};

/// Longer ones only make a fuzzer slow; bombs need no luck.
const SEED_MAX: usize = 64 * 1024;
const MANIFEST: &[u8] = include_bytes!("../../../proto/fixtures/manifest.v1.json");

fn main() -> Result<()> {
    let dir = std::env::args_os().nth(1).context("usage: fuzz-seeds DIR")?;
    let dir = Path::new(&dir);
    let envelope =
        Envelope { manifest: MANIFEST.to_vec(), signatures: vec!["untrusted comment: x\nRWQ=\ntrusted comment: y\nAA==".into()] };
    write(&dir.join("manifest"), "fixture", MANIFEST)?;
    write(&dir.join("envelope"), "fixture", &envelope.encode())?;
    write(&dir.join("config"), "default", coord_agent::config::DEFAULT.as_bytes())?;
    for attack in attack::all(Outside { absolute: "/outside", relative: "../outside" }) {
        let how = if attack.compression == Compression::Zstd { 0 } else { 1 };
        archive(dir, attack.name, how, &attack.bytes)?;
        let mut tar = Vec::new();
        let stream = Decompressor::new(attack.compression, attack.bytes.as_slice())?;
        // What cannot be decompressed gives what came before.
        stream.take(SEED_MAX as u64).read_to_end(&mut tar).ok();
        archive(dir, &format!("{}.tar", attack.name), 3, &tar)?;
    }
    Ok(())
}

/// The target's first byte, then the input.
fn archive(dir: &Path, name: &str, how: u8, bytes: &[u8]) -> Result<()> {
    if bytes.len() >= SEED_MAX { Ok(()) } else { write(&dir.join("archive"), name, &[&[how], bytes].concat()) }
}

fn write(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    fs::create_dir_all(dir)?;
    fs::write(dir.join(name), bytes).with_context(|| format!("cannot write into {}", dir.display()))
}
