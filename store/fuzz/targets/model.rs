#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| codexstore_fuzz::model(data));
