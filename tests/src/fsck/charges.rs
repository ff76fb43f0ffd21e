//! Who pays (ACCT-2). A group is charged before a block names it, and the charge is taken back once it names it no more: so
//! at any moment no group's blocks are more than it is charged for.

use super::frames::Census;
use super::image::{Fault, Image};
use super::report::Report;

const GROUPS: usize = 256;

pub(super) fn check(image: &Image, census: &Census, is_quiet: bool, report: &mut Report) -> Result<(), Fault> {
    if !is_quiet {
        report.skip("charges, while a zone's lock is held");
        return Ok(());
    }
    let mut named = [0_u64; GROUPS];
    for block in &census.allocated {
        named[usize::try_from(block.words.level_or_group()).unwrap_or_default() % GROUPS] += 1 << block.words.order();
    }
    let groups = image.place("groups")?;
    for (group, &named) in (0..).zip(&named).skip(1) {
        let charged = u64::from(groups.element(group, "Group")?.field("Group.balance")?.u32()?);
        report.look("charged groups", u64::from(charged > 0));
        if named > charged {
            let what = format!("blocks of {named} pages name group {group}, which is charged for {charged}");
            report.find("ACCT-2", None, what);
        } else if named < charged {
            report.meet("charges of blocks that do not name their group yet");
        }
    }
    Ok(())
}
