//! QEMU's firmware configuration device: files that the host hands to the kernel by name.
//!
//! Small files are read a byte at a time, which works before the kernel has page tables; large ones a page at a time
//! by the device's direct memory access.
//!
//! Source: QEMU, `docs/specs/fw_cfg`.

use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use kernel_core::fw_cfg_directory::{self, ENTRY_SIZE, Entry, Selector};
use mm::units::{PAGE_SIZE, PhysAddr};
use spin::{Mutex, MutexGuard};
use x86_64::instructions::port::{PortReadOnly, PortWriteOnly};

use crate::ktest::{check, ktest, skip};
use crate::paging::live;
use crate::platform::Platform;

const SIGNATURE: Selector = Selector(0);
const FEATURES: Selector = Selector(1);
const DIRECTORY: Selector = Selector(0x19);
const FEATURE_DMA: u32 = 1 << 1;

/// Why a file cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileError {
    /// The machine has no such device.
    NoDevice,
    /// The host has not passed a file of this name.
    NotFound,
    /// The file is larger than the caller takes.
    TooLarge(u32),
    /// The device cannot write to memory by itself.
    NoDma,
    /// The device has failed a transfer.
    Transfer,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDevice => f.write_str("no fw_cfg device"),
            Self::NotFound => f.write_str("no such fw_cfg file"),
            Self::TooLarge(size) => write!(f, "the fw_cfg file has {size} bytes, which is too large"),
            Self::NoDma => f.write_str("the fw_cfg device has no DMA"),
            Self::Transfer => f.write_str("the fw_cfg device has failed a transfer"),
        }
    }
}

static DEVICE: Mutex<Device> = Mutex::new(Device {
    selector: PortWriteOnly::new(0x510),
    data: PortReadOnly::new(0x511),
    dma_high: PortWriteOnly::new(0x514),
    dma_low: PortWriteOnly::new(0x518),
});

/// The whole file `name`, of at most `limit` bytes. Cost: a port access for each byte.
///
/// # Errors
/// See [`FileError`].
pub(crate) fn read_small(name: &str, limit: u32) -> Result<Vec<u8>, FileError> {
    let mut device = DEVICE.lock();
    let entry = device.find(name)?;
    if entry.size > limit {
        return Err(FileError::TooLarge(entry.size));
    }
    device.select(entry.selector);
    Ok((0..entry.size).map(|_| device.byte()).collect())
}

/// Opens the file `name` for reading from its start to its end. The device is the reader's until it drops.
///
/// # Errors
/// See [`FileError`].
pub(crate) fn open(platform: &Platform, name: &str) -> Result<Reader, FileError> {
    let mut device = DEVICE.lock();
    let entry = device.find(name)?;
    device.select(FEATURES);
    if u32::from_le_bytes(device.bytes()) & FEATURE_DMA == 0 {
        return Err(FileError::NoDma);
    }
    device.select(entry.selector);
    // Exposed, as the device writes there behind the compiler's back.
    let transfer = (&raw const TRANSFER).expose_provenance() as u64;
    let leaf = live::find(platform, transfer).ok_or(FileError::NoDma)?;
    let transfer = PhysAddr(leaf.physical.0 + (transfer - leaf.address));
    Ok(Reader { device, remaining: entry.size, transfer })
}

/// A file that is read once, from its start to its end.
#[derive(Debug)]
pub(crate) struct Reader {
    device: MutexGuard<'static, Device>,
    remaining: u32,
    transfer: PhysAddr,
}

impl Reader {
    /// Bytes not read yet.
    pub(crate) fn remaining(&self) -> u32 {
        self.remaining
    }

    /// Fills `buffer` with the file's next bytes and says how many there were; 0 at the end.
    ///
    /// # Errors
    /// [`FileError::Transfer`]; the rest of the file is lost then.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, FileError> {
        let mut filled = 0;
        for chunk in buffer.chunks_mut(TRANSFER_SIZE) {
            let length = chunk.len().min(self.remaining as usize);
            if length == 0 {
                break;
            }
            self.device.transfer(self.transfer, &mut chunk[..length])?;
            self.remaining -= u32::try_from(length).unwrap_or(self.remaining);
            filled += length;
        }
        Ok(filled)
    }
}

/// The device's ports; a file is selected by number, and then its bytes come one after the other.
#[derive(Debug)]
struct Device {
    selector: PortWriteOnly<u16>,
    data: PortReadOnly<u8>,
    dma_high: PortWriteOnly<u32>,
    dma_low: PortWriteOnly<u32>,
}

impl Device {
    fn find(&mut self, name: &str) -> Result<Entry, FileError> {
        self.select(SIGNATURE);
        if &self.bytes() != b"QEMU" {
            return Err(FileError::NoDevice);
        }
        self.select(DIRECTORY);
        let count = u32::from_be_bytes(self.bytes());
        (0..count).find_map(|_| fw_cfg_directory::decode(&self.bytes::<ENTRY_SIZE>(), name)).ok_or(FileError::NotFound)
    }

    fn select(&mut self, selector: Selector) {
        // SAFETY: selecting changes nothing but what the data port gives next.
        unsafe { self.selector.write(selector.0) };
    }

    fn byte(&mut self) -> u8 {
        // SAFETY: reading moves on in the selected file, of which this is the only reader.
        unsafe { self.data.read() }
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        core::array::from_fn(|_| self.byte())
    }

    /// Has the device write the selected file's next bytes to `target`, which fits into [`TRANSFER`].
    fn transfer(&mut self, transfer: PhysAddr, target: &mut [u8]) -> Result<(), FileError> {
        let length = u32::try_from(target.len()).map_err(|_| FileError::Transfer)?;
        let data = transfer.0 + core::mem::offset_of!(Transfer, data) as u64;
        TRANSFER.address.store(data.to_be(), Ordering::Relaxed);
        TRANSFER.length.store(length.to_be(), Ordering::Relaxed);
        TRANSFER.control.store(CONTROL_READ.to_be(), Ordering::Relaxed);
        fence(Ordering::SeqCst);
        // SAFETY: the port takes the upper half of the command's address and waits for the lower.
        unsafe { self.dma_high.write(high(transfer.0).to_be()) };
        // SAFETY: the command is in `TRANSFER`, of which the holder of the device is the only user, and the device
        // writes at most `length` bytes into it.
        unsafe { self.dma_low.write(low(transfer.0).to_be()) };
        loop {
            match u32::from_be(TRANSFER.control.load(Ordering::Acquire)) {
                0 => break,
                control if control & CONTROL_ERROR != 0 => return Err(FileError::Transfer),
                _ => core::hint::spin_loop(),
            }
        }
        let data = TRANSFER.data.get().cast::<u8>();
        assert!(target.len() <= TRANSFER_SIZE);
        // SAFETY: the device is done, nobody else touches the data, and `target` is no longer than it.
        unsafe { core::ptr::copy_nonoverlapping(data, target.as_mut_ptr(), target.len()) };
        Ok(())
    }
}

const CONTROL_ERROR: u32 = 1;
const CONTROL_READ: u32 = 1 << 1;
/// Bytes that one command moves: what its page has left.
const TRANSFER_SIZE: usize = PAGE_SIZE - 16;

/// A command to the device and what it brings, in one page: physical memory behind a page's end may be anybody's.
#[repr(C, align(4096))]
struct Transfer {
    control: AtomicU32,
    length: AtomicU32,
    address: AtomicU64,
    data: UnsafeCell<[u8; TRANSFER_SIZE]>,
}

// SAFETY: only the holder of `DEVICE` touches the data.
unsafe impl Sync for Transfer {}

static TRANSFER: Transfer = Transfer {
    control: AtomicU32::new(0),
    length: AtomicU32::new(0),
    address: AtomicU64::new(0),
    data: UnsafeCell::new([0; TRANSFER_SIZE]),
};

const _: () = assert!(size_of::<Transfer>() == PAGE_SIZE);

const fn high(address: u64) -> u32 {
    (address >> 32) as u32
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
const fn low(address: u64) -> u32 {
    address as u32
}

/// A file that QEMU always has; it is larger than a transfer.
const ACPI_TABLES: &str = "etc/acpi/tables";

ktest!(
    "fw_cfg",
    fn a_large_file_reads_the_same_byte_by_byte_and_by_dma_in_any_step() {
        let platform = Platform::get().ok_or("the platform is not up")?;
        let bytes = match read_small(ACPI_TABLES, 256 * 1024) {
            Ok(bytes) => bytes,
            Err(error) => return skip("there is nothing to read", error),
        };
        check!(bytes.len() > TRANSFER_SIZE, "{} bytes fit into one transfer", bytes.len());
        for step in [1000, TRANSFER_SIZE, TRANSFER_SIZE + 1, bytes.len() + 1] {
            let mut reader = open(platform, ACPI_TABLES)?;
            let mut buffer = alloc::vec![0xaa; step];
            let mut rest = &bytes[..];
            while reader.remaining() > 0 {
                let length = reader.read(&mut buffer)?;
                check!(length == step.min(rest.len()), "a read of {step} gave {length}, {} were left", rest.len());
                let (wanted, behind) = rest.split_at(length);
                check!(buffer[..length] == *wanted, "in steps of {step}, {} bytes before the end", rest.len());
                rest = behind;
            }
            check!(rest.is_empty() && reader.read(&mut buffer)? == 0, "the reader does not end with its file");
        }
        Ok(())
    }
);

ktest!(
    "fw_cfg",
    fn a_file_that_is_missing_or_too_large_is_an_error() {
        let missing = read_small("opt/mm/no-such-file", u32::MAX);
        check!(matches!(missing, Err(FileError::NotFound | FileError::NoDevice)), "{missing:?}");
        let large = read_small(ACPI_TABLES, 16);
        check!(matches!(large, Err(FileError::TooLarge(_) | FileError::NotFound | FileError::NoDevice)), "{large:?}");
        Ok(())
    }
);
