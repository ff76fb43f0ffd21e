//! Has libFuzzer look for operations that break what `hostile::pages` says.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hostile::pages::check(bytes));
