//! Boots the kernel in QEMU and reads what it says.
