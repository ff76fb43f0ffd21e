//! Has libFuzzer look for bytes that break what `hostile::acpi` says.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hostile::acpi::check(bytes));
