#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| codexstore_sidecar_fuzz::grpc(data));
