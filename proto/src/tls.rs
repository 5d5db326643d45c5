//! One rustls crypto provider for the whole process.

/// Installs aws-lc-rs as the process's provider; first thing in every main. Calling it again is harmless.
pub fn install_provider() {
    // The error only says that a provider is there already, and there is no other one in this workspace.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
