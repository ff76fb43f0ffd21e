//! Has libFuzzer look for bytes that break what `hostile::boot_map` says.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hostile::boot_map::check(bytes));
