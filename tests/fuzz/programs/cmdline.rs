//! Has libFuzzer look for bytes that break what `hostile::cmdline` says.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hostile::cmdline::check(bytes));
