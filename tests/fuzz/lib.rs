//! Fuzz targets (`make fuzz`): what a stranger's bytes go through before anything of them is trusted. Each is one file in `fuzz_targets/`,
//! its first inputs are in `seeds/`.
