//! Every in-kernel test on every machine as a test of its own, and what only the host can put to the kernel.
//!
//! In-kernel tests are named `MACHINE::TEST`, the others `host::…`. See [`in_kernel`] for how many boots that takes.

use std::process::ExitCode;
use std::sync::LazyLock;
use std::time::Duration;

use harness::guest::{Guest, Profile};
use libtest_mimic::{Arguments, Trial};

mod crashes;
mod figures;
mod flips;
mod hostile;
mod images;
mod in_kernel;
mod interleavings;
mod loader;
mod replays;
mod reports;

/// How long a kernel may be silent until it counts as hung; far longer than the slowest test on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// Something that cannot be built is everybody's failure, told by each in its own words.
type Built = LazyLock<Result<Guest, String>>;

static CHECKED: Built = LazyLock::new(|| {
    let profile = if is_sanitized() { Profile::Sanitized } else { Profile::Dev };
    Guest::build(profile).map_err(|error| format!("{error:#}"))
});
static MEASURED: Built = LazyLock::new(|| Guest::build(Profile::Release).map_err(|error| format!("{error:#}")));

/// Whether the environment wants an address sanitizer in the kernel that is tested.
fn is_sanitized() -> bool {
    std::env::var_os("KASAN").is_some()
}

fn checked() -> anyhow::Result<&'static Guest> {
    CHECKED.as_ref().map_err(anyhow::Error::msg)
}

fn measured() -> anyhow::Result<&'static Guest> {
    MEASURED.as_ref().map_err(anyhow::Error::msg)
}

/// A trial that fails with the whole story of an error.
fn trial(name: &str, test: impl FnOnce() -> anyhow::Result<()> + Send + 'static) -> Trial {
    Trial::test(format!("host::{name}"), || test().map_err(|error| format!("{error:#}").into()))
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let in_kernel = match in_kernel::trials(&arguments) {
        Ok(trials) => trials,
        Err(error) => {
            eprintln!("cannot tell which tests the kernel has: {error:#}");
            return ExitCode::from(2);
        }
    };
    // What takes minutes goes first, so that no thread is left alone with it in the end; but only one waits for the kernel that
    // is measured, while others have use for the one that is there.
    let mut long = replays::trials().into_iter().chain(figures::trials());
    let first = long.next();
    let short = crashes::trials().into_iter().chain(loader::trials()).chain(hostile::trials());
    let short = short.chain(images::trials()).chain(interleavings::trials()).chain(reports::trials());
    let short = short.chain(flips::trials());
    let trials = first.into_iter().chain(in_kernel).chain(long).chain(short).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
