//! Checks an image of the machine's memory: a walk over what the allocator has in it, that uses nothing of the allocator's own
//! code and believes nothing it finds.
//!
//! ```text
//! core (ELF core file) -> memory -> note -> image (addresses) ─> frames -> { zones -> freelists, at_hand, charges }
//!                                                      words        └────> { slabs -> sheaves, owners, tables } -> report
//! ```
//!
//! The kernel leaves a note in its memory that says where the allocator is and how its structures are laid out; addresses are
//! looked up in the page tables of the image. The machine may have been stopped anywhere. What a held lock guards, or a CPU
//! that is busy with its own lists, is left out, and counted; so is what no lock guards and is on its way from one state to
//! another, which is accepted in the few forms that it can have there ([`Report::under_way`]). All else has to hold.
//!
//! Whatever an image holds, the walk ends: every length is bounded by what there is of memory, and whatever leads nowhere is a
//! finding.

mod at_hand;
mod charges;
mod core_file;
mod damage;
mod frames;
mod freelists;
mod image;
mod memory;
mod note;
mod owners;
mod report;
mod sheaves;
mod slabs;
mod tables;
mod words;
mod zones;

use std::path::Path;

pub use damage::{Damage, damages};
pub use image::{Image, Replaced};
pub use report::{Finding, Report};

use self::frames::Frames;
use self::image::Fault;

/// Why something is no image that can be checked.
#[derive(Debug, thiserror::Error)]
pub enum NotAnImage {
    /// It cannot be read.
    #[error("{0}")]
    Unreadable(#[from] std::io::Error),
    /// It is no core file.
    #[error("it is no ELF core file of an x86-64 machine: {0}")]
    NoCore(&'static str),
    /// Nothing in it is the kernel's note.
    #[error("no kernel has left a note in this memory: it is not ours, or had not got so far")]
    NoNote,
    /// The note is another kernel's.
    #[error("the kernel's note does not say {0}: it is of another version")]
    Unsaid(String),
}

/// Opens an image and checks it.
///
/// # Errors
/// It is none.
pub fn check(file: &Path) -> Result<Report, NotAnImage> {
    check_image(&Image::open(file)?)
}

/// Checks an image.
///
/// # Errors
/// The kernel's note in it does not say what the checker has to know.
pub fn check_image(image: &Image) -> Result<Report, NotAnImage> {
    let mut report = Report::default();
    match walk(image, &mut report) {
        Ok(()) => {}
        Err(Fault::Unsaid(name)) => return Err(NotAnImage::Unsaid(name)),
        Err(Fault::Nowhere(address)) => {
            report.find("ZONE-1", None, format!("the allocator's own tables lead to {address:#x}, where no memory is"));
        }
    }
    Ok(report)
}

fn walk(image: &Image, report: &mut Report) -> Result<(), Fault> {
    let zones = zones::read(image)?;
    let held = zones.iter().filter(|zone| zone.held).count();
    let frames = Frames::read(image, report)?;
    let census = frames::take_census(&frames, &zones, report);
    for zone in &zones {
        zones::check(image, &frames, &census, zone, report)?;
    }
    at_hand::check(image, &frames, &census, &zones, report)?;
    owners::check(image, &frames, &census, held == 0, report)?;
    charges::check(image, &census, held == 0, report)?;
    slabs::check(image, &frames, report)?;
    tables::check(image, &frames, &census, report)?;
    report.zones = zones.iter().map(|zone| zone.summary(&census)).collect();
    Ok(())
}
