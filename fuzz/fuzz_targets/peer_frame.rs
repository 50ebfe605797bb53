//! What peers send over a link, and what they answer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| petnet::fuzzing::peer_frame(bytes));
