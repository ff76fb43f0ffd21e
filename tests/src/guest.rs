//! Builds what the machine runs: the loader and the kernel.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use serde::Deserialize;

/// What the guest is compiled for.
pub const TARGET: &str = "x86_64-unknown-none";

/// How the guest is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// With every assertion: for tests.
    Dev,
    /// As it would be used: for figures.
    Release,
}

/// The two files of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// The loader, which QEMU starts.
    pub boot: PathBuf,
    /// The kernel, which the loader starts.
    pub kernel: PathBuf,
}

impl Guest {
    /// Builds both; quick if nothing has changed.
    ///
    /// # Errors
    /// Cargo fails (and has said why), or leaves out a file.
    pub fn build(profile: Profile) -> anyhow::Result<Guest> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.current_dir(workspace()).stdin(Stdio::null()).stderr(Stdio::inherit());
        command.args(["build", "--quiet", "--package=boot", "--package=kernel", "--target", TARGET]);
        command.arg("--message-format=json-render-diagnostics");
        match profile {
            Profile::Dev => {}
            Profile::Release => _ = command.arg("--release"),
        }
        let output = command.output().context("cannot run cargo")?;
        anyhow::ensure!(output.status.success(), "cargo could not build the kernel and its loader");
        Guest::among(&String::from_utf8_lossy(&output.stdout))
    }

    /// Finds the two files among cargo's messages, wherever the target directory is.
    fn among(messages: &str) -> anyhow::Result<Guest> {
        let find = |name: &str| {
            messages
                .lines()
                .filter_map(|line| serde_json::from_str::<Artifact>(line).ok())
                .filter(|artifact| artifact.target.name == name)
                .find_map(|artifact| artifact.executable)
                .with_context(|| format!("cargo built no program named '{name}'"))
        };
        Ok(Guest { boot: find("boot")?, kernel: find("kernel")? })
    }
}

/// The project's directory.
///
/// # Panics
/// Never: this crate does not lie in the root.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the project's directory")
}

#[derive(Deserialize)]
struct Artifact {
    target: Target,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_told_from_libraries_of_the_same_name() {
        let messages = r#"
            {"reason":"compiler-artifact","target":{"kind":["lib"],"name":"boot"},"executable":null}
            {"reason":"compiler-artifact","target":{"kind":["bin"],"name":"boot"},"executable":"/t/boot"}
            warning: not JSON
            {"reason":"compiler-artifact","target":{"kind":["bin"],"name":"kernel"},"executable":"/t/kernel"}
            {"reason":"build-finished","success":true}"#;
        let guest = Guest::among(messages).unwrap();
        assert_eq!(guest, Guest { boot: "/t/boot".into(), kernel: "/t/kernel".into() });
        let error = Guest::among(messages.lines().nth(1).unwrap()).unwrap_err().to_string();
        assert!(error.contains("'boot'"), "{error}");
    }
}
