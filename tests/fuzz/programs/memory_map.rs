//! Has libFuzzer look for bytes that break what `hostile::memory_map` says.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hostile::memory_map::check(bytes));
