//! The gRPC interface, `codexstore.v1.KV`: generated from `proto/codexstore/v1/kv.proto`, where it is described.

#![allow(clippy::all, clippy::pedantic, missing_docs)]

tonic::include_proto!("codexstore.v1");

/// Domain of the error details (`google.rpc.ErrorInfo`).
pub const ERROR_DOMAIN: &str = "codexstore.dev";

/// The interface's description, as reflection serves it: an encoded `FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/codexstore.v1.bin"));
