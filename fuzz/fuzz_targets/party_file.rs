//! The party file.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| petnet::fuzzing::party_file(bytes));
