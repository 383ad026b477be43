#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| flipk::fuzzing::front(bytes));
