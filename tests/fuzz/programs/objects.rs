//! Has libFuzzer look for operations that break what `hostile::objects` says.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hostile::objects::check(bytes));
