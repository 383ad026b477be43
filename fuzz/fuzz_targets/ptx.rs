#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(ptx) = std::str::from_utf8(bytes) {
        let _ = ptx_emulator::Module::parse(ptx);
    }
});
