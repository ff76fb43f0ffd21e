//! Has libFuzzer look for bytes that break what `hostile::elf` says.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hostile::elf::check(bytes));
