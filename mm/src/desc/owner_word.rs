//! The second word of an allocated page: whose the page is, and where its owner's descriptor stands.
//!
//! ```text
//!   63                                  4 3    0
//!  +-------------------------------------+------+
//!  |  address of the owner's descriptor  | kind |    allocated, and owned
//!  |         order of the block          | kind |    allocated, and of an owner without a descriptor
//!  |               0                     |  0   |    allocated, plain
//!  |  a number: position, first, next    |  0   |    free, a node, in flight
//!  |  the head's own number   |    0     |  0   |    at hand, the number in the upper half
//!  +-------------------------------------+------+
//! ```
//!
//! Descriptors are aligned to 16 bytes, so the low four bits are the kind's; numbers are shifted past them. So this
//! word alone says whether a page has an owner, whatever the first one says at that moment: who follows a pointer in
//! it needs no second look. An owner without a descriptor names its block's order here, so that the one word says of
//! which frames it speaks. Pointers keep their provenance.
//!
//! Invariants: DESC-1 (an allocated page has exactly one owner; descriptor and pages name each other).
#![expect(unsafe_code, reason = "a word of a kind with descriptors is never null")]

use core::ptr::{self, NonNull};

use crate::units::{Order, Pfn};

/// The table of owners: code, name in reports, and what they are. A new one is a line here; if it has descriptors, what
/// it keeps in them is a struct of its name in [`owner`](crate::owner), and the compiler asks for the rest.
///
/// Three parts, since their ways differ: owners of which the word itself says all, those with descriptors, and slabs,
/// which have descriptors too, but are made and given up by their caches.
macro_rules! with_owners {
    ($expand:ident) => {
        $expand! {
            bare {
                /// Nobody beyond whoever holds the block: a plain page.
                Plain = 0, "plain";
                /// One object that is too large for a slab.
                LargeKmalloc = 6, "large_kmalloc";
                /// Memory that lies: never handed out again.
                Poisoned = 7, "hwpoison";
            }
            described {
                /// A folio: files' and anonymous memory.
                Folio = 1, "folio";
                /// A page table.
                PageTable = 2, "page_table";
                /// Compressed pages.
                CompressedStore = 3, "zsmalloc";
                /// Memory of one CPU.
                PerCpuArea = 4, "percpu";
                /// A kernel stack.
                KernelStack = 5, "kernel_stack";
            }
            slab {
                /// A slab of small objects. Its code has the highest bit alone: every free by address asks for it.
                Slab = 8, "slab";
            }
        }
    };
}
pub(crate) use with_owners;

macro_rules! owner_kinds {
    (
        bare { $($(#[$bare_doc:meta])+ $bare:ident = $bare_code:literal, $bare_name:literal;)+ }
        described { $($(#[$doc:meta])+ $kind:ident = $code:literal, $name:literal;)+ }
        slab { $(#[$slab_doc:meta])+ $slab:ident = $slab_code:literal, $slab_name:literal; }
    ) => {
        /// Whose an allocated page is.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum OwnerKind {
            $($(#[$bare_doc])+ $bare = $bare_code,)+
            $($(#[$doc])+ $kind = $code,)+
            $(#[$slab_doc])+
            $slab = $slab_code,
        }

        impl OwnerKind {
            /// Every kind, by code.
            pub const ALL: &'static [Self] = &{
                let mut all = [$(Self::$bare,)+ $(Self::$kind,)+ Self::$slab];
                let mut code = 0;
                while code < all.len() {
                    all[code] = match Self::decode(code) {
                        Some(kind) => kind,
                        None => panic!("codes leave none out"),
                    };
                    code += 1;
                }
                all
            };

            /// The kind's name in reports.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$bare => $bare_name,)+
                    $(Self::$kind => $name,)+
                    Self::$slab => $slab_name,
                }
            }

            /// Whether an owner of this kind has a descriptor.
            pub(crate) const fn has_descriptor(self) -> bool {
                match self {
                    $(Self::$bare => false,)+
                    $(Self::$kind => true,)+
                    Self::$slab => true,
                }
            }

            const fn decode(code: usize) -> Option<Self> {
                match code {
                    $($bare_code => Some(Self::$bare),)+
                    $($code => Some(Self::$kind),)+
                    $slab_code => Some(Self::$slab),
                    _ => None,
                }
            }
        }
    };
}

with_owners!(owner_kinds);

/// Codes that the bits have room for.
const KINDS: usize = 1 << KIND_BITS;
const KIND_BITS: u32 = 4;
const KIND: usize = KINDS - 1;
const HEAD_SHIFT: u32 = 32;

/// The decoded second word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub(crate) struct OwnerWord(*mut ());

impl OwnerWord {
    /// No owner.
    pub(crate) const PLAIN: Self = Self(ptr::null_mut());

    /// An owner of this kind, whose descriptor stands at `descriptor`.
    #[inline]
    pub(crate) fn described<T>(kind: OwnerKind, descriptor: NonNull<T>) -> Self {
        const { assert!(align_of::<T>() >= KINDS) };
        Self(descriptor.as_ptr().map_addr(|address| address | kind as usize).cast())
    }

    /// An owner of a kind that has no descriptors, of a block of `order`.
    pub(crate) const fn bare(kind: OwnerKind, order: Order) -> Self {
        Self(ptr::without_provenance_mut(order.index() << KIND_BITS | kind as usize))
    }

    /// The order of the block, if the owner is of a kind that has no descriptors.
    pub(crate) fn bare_order(self) -> Option<Order> {
        let described = self.kind().is_none_or(OwnerKind::has_descriptor);
        if described { None } else { u8::try_from(self.as_number()).ok().and_then(Order::new) }
    }

    /// Whether there is an owner.
    #[inline(always)]
    pub(crate) fn is_owned(self) -> bool {
        self.0.addr() & KIND != OwnerKind::Plain as usize
    }

    /// A number of a page that is not allocated.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "no number is wider than 60 bits, and an address has 64")]
    pub(super) const fn number(number: u64) -> Self {
        Self(ptr::without_provenance_mut((number << KIND_BITS) as usize))
    }

    /// That the block which this frame heads is at hand (PCP-1). A free block or node says the same only if it stands at position
    /// zero, and this is frame zero, or in a list of more than 2^28 blocks.
    #[inline(always)]
    pub(crate) const fn at_hand(head: Pfn) -> Self {
        Self::number((head.number() as u64) << (HEAD_SHIFT - KIND_BITS))
    }

    /// The number that stands in the upper half.
    #[inline(always)]
    pub(crate) fn head(self) -> Pfn {
        Pfn::new((self.0.addr() as u64 >> HEAD_SHIFT) as u32)
    }

    #[inline(always)]
    pub(super) fn as_number(self) -> u64 {
        self.0.addr() as u64 >> KIND_BITS
    }

    #[inline(always)]
    pub(crate) const fn from_bits(bits: *mut ()) -> Self {
        Self(bits)
    }

    #[inline(always)]
    pub(crate) const fn bits(self) -> *mut () {
        self.0
    }

    /// The kind; `None` if the bits are none.
    #[inline]
    pub(crate) fn kind(self) -> Option<OwnerKind> {
        OwnerKind::decode(self.0.addr() & KIND)
    }

    /// Whether the owner is of this kind.
    #[inline(always)]
    pub(crate) fn is(self, kind: OwnerKind) -> bool {
        match kind {
            OwnerKind::Slab => self.0.addr() & OwnerKind::Slab as usize != 0,
            _ => self.0.addr() & KIND == kind as usize,
        }
    }

    /// Where the descriptor stands, if this is an owner of `kind`, whose descriptors are `T`s.
    #[inline(always)]
    pub(crate) fn descriptor<T>(self, kind: OwnerKind) -> Option<NonNull<T>> {
        // SAFETY: the owner is of this kind, which has descriptors.
        (kind.has_descriptor() && self.is(kind)).then(|| unsafe { self.descriptor_of(kind) })
    }

    /// Where the descriptor stands, of an owner that is known to be of `kind`: an optional address would be looked at
    /// once more.
    ///
    /// # Safety
    /// The owner is of `kind`, and that has descriptors, which are `T`s.
    #[inline(always)]
    pub(crate) unsafe fn descriptor_of<T>(self, kind: OwnerKind) -> NonNull<T> {
        let descriptor = self.0.map_addr(|address| address - kind as usize).cast();
        // SAFETY: a word of a kind with descriptors was made of a descriptor's address and the kind (`described`).
        unsafe { NonNull::new_unchecked(descriptor) }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[repr(align(16))]
    struct Aligned;

    #[test]
    fn the_number_of_a_block_at_hand_comes_back_and_is_neither_an_owner_nor_a_position() {
        for number in [1, 2, 0x1234_5678, u32::MAX] {
            let word = OwnerWord::at_hand(Pfn::new(number));
            assert_eq!((word.head(), word.is_owned(), word.kind()), (Pfn::new(number), false, Some(OwnerKind::Plain)));
            assert!([0, 1, number.into()].map(OwnerWord::number).iter().all(|&position| position != word), "{number}");
        }
    }

    #[test]
    fn a_kind_and_an_address_come_back_and_no_other_kind_does() {
        let place = NonNull::from(&Aligned);
        for &kind in OwnerKind::ALL {
            let word = OwnerWord::described(kind, place);
            assert_eq!(word.kind(), Some(kind));
            for &other in OwnerKind::ALL {
                let expected = (other == kind && other.has_descriptor()).then_some(place);
                assert_eq!(word.descriptor::<Aligned>(other), expected, "{kind:?} {other:?}");
            }
        }
    }

    #[test]
    fn no_number_looks_like_an_owner() {
        for number in [0, 1, 7, 15, 16, u64::from(u32::MAX), 1 << 32] {
            let word = OwnerWord::number(number);
            assert_eq!(word.kind(), Some(OwnerKind::Plain));
            assert_eq!(word.as_number(), number);
        }
    }

    #[test]
    fn every_code_is_its_own() {
        let codes = OwnerKind::ALL.iter().map(|&kind| kind as usize).collect::<std::collections::BTreeSet<_>>();
        assert_eq!((codes.len(), codes.last()), (OwnerKind::ALL.len(), Some(&(OwnerKind::ALL.len() - 1))));
        for &kind in OwnerKind::ALL {
            assert_eq!(OwnerKind::decode(kind as usize), Some(kind));
        }
    }

    #[test]
    fn an_owner_without_a_descriptor_names_its_order_and_no_other_does() {
        for order in (0..=Order::LIMIT.index()).map(Order::of) {
            let word = OwnerWord::bare(OwnerKind::LargeKmalloc, order);
            assert_eq!((word.kind(), word.bare_order()), (Some(OwnerKind::LargeKmalloc), Some(order)));
        }
        assert_eq!(OwnerWord::described(OwnerKind::Folio, NonNull::from(&Aligned)).bare_order(), None);
    }
}
