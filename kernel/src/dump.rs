//! Reports on memory over the serial port: the last that a run prints.
//!
//! Each follows a line `# /proc/NAME` and ends where the next begins or the output does; in between stands what Linux
//! would show under that name, so it can be cut out and given to whatever reads Linux's file.

use core::fmt::{self, Write};

use kernel_core::cmdline::Report;
use mm::machine::{Geometry, Machine};
use mm::report::{
    BuddyInfo, ByOwner, MemInfo, NumaStat, PageTypeInfo, PageTypes, Pages, SlabInfo, Totals, Usage, VmStat, ZoneInfo,
};
use mm::units::{Bytes, Order};
use mm::zone::ZoneKind;

use crate::memory::{self, Allocator};
use crate::platform::Platform;
use crate::serial::{print, println};

const MAX_ORDER: Order = <<Platform as Machine>::Geometry as Geometry>::MAX_ORDER;
const PAGEBLOCK_ORDER: Order = <<Platform as Machine>::Geometry as Geometry>::PAGEBLOCK_ORDER;

/// What a run prints that was not asked for anything: enough to see if it left memory as it found it.
const DEFAULT: &[Report] = &[Report::Buddyinfo, Report::Meminfo];

/// Prints `reports`, or a few if there are none.
pub(crate) fn print(allocator: &Allocator, reports: &[Report]) {
    let reports = if reports.is_empty() { DEFAULT } else { reports };
    for report in reports {
        println!("# /proc/{}", report.name());
        // INVARIANT: the port never fails, and no report does by itself.
        let _ = write(&mut Pieces, *report, allocator);
    }
}

fn write(serial: &mut Pieces, report: Report, allocator: &Allocator) -> fmt::Result {
    match report {
        Report::Buddyinfo => write!(serial, "{}", BuddyInfo::new(MAX_ORDER, allocator.zones())),
        Report::Pagetypeinfo => {
            write!(serial, "{}", PageTypeInfo::new(MAX_ORDER, PAGEBLOCK_ORDER, allocator.pageblocks()))
        }
        Report::Zoneinfo => write!(serial, "{}", ZoneInfo::new(allocator.zones())),
        Report::Slabinfo => match memory::caches() {
            Some(caches) => write!(serial, "{}", SlabInfo::new(|look| caches.for_each_report(look))),
            None => Ok(()),
        },
        Report::Vmstat => {
            let events = allocator.numa_events().map(|(_, events)| events).sum();
            write!(serial, "{}", VmStat(usage(allocator), events))
        }
        Report::Numastat => write!(serial, "{}", NumaStat::new(allocator.numa_events())),
        Report::PageTypes => write!(serial, "{}", PageTypes(usage(allocator))),
        Report::Meminfo => write!(serial, "{}", MemInfo(usage(allocator))),
    }
}

/// The serial port, locked for each piece of text by itself: a report asks the zones while it is being written, and
/// nothing may be asked under the port's lock.
struct Pieces;

impl Write for Pieces {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        print!("{text}");
        Ok(())
    }
}

/// What memory is used for.
fn usage(allocator: &Allocator) -> Usage {
    let owners = memory::owners();
    let types = owners.map(|owners| owners.walk().page_types()).unwrap_or_default();
    let descriptors = |kind| {
        let report = owners.and_then(|owners| owners.reports().find(|report| report.kind == kind));
        report.map_or(Bytes(0), |report| report.descriptors)
    };
    Usage {
        lowmem: Totals::of(allocator.zones().filter(|zone| zone.kind != ZoneKind::Highmem)),
        highmem: Totals::of(allocator.zones().filter(|zone| zone.kind == ZoneKind::Highmem)),
        allocated: ByOwner::new(|kind| Pages(types.allocated(kind).pages().0.into())),
        metadata: allocator.metadata(),
        descriptors: ByOwner::new(descriptors),
    }
}
