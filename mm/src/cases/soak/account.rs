//! Where all pages of a zone are, counted one by one.

use core::fmt;

use crate::PageState;
use crate::invariant::Invariant;
use crate::machine::Machine;
use crate::page::PageAllocator;
use crate::units::{NodeId, Order};
use crate::zone::ZoneKind;
