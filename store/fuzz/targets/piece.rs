#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| codexstore_fuzz::piece(data));
