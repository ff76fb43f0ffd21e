//! Has libFuzzer look for operations that break what `hostile::folios` says.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hostile::folios::check(bytes));
