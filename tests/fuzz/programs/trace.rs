//! Has libFuzzer look for bytes that break what `hostile::trace` says.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hostile::trace::check(bytes));
