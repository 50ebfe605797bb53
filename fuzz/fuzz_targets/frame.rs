//! Frames of the log: as they come, and with checksums that are right, so that what is wrong gets past them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    petnet_storage::fuzzing::frame(bytes);
    let mut sealed = bytes.to_vec();
    petnet_storage::fuzzing::reseal(&mut sealed);
    petnet_storage::fuzzing::frame(&sealed);
});
