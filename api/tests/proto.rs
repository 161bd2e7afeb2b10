//! The gRPC interface stays what was published: nothing of it is removed, renumbered or changed.

// Helpers of tests may stop at what they did not expect, as tests do.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;

use codexstore_api::grpc::FILE_DESCRIPTOR_SET;
use prost::Message;
use prost_types::{DescriptorProto, FileDescriptorSet};

/// One line for each thing that a client may depend on.
fn lines() -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let file = set
        .file
        .iter()
        .find(|file| file.package() == "codexstore.v1")
        .unwrap();
    let mut lines = BTreeSet::new();
    for message in &file.message_type {
        fields(message, message.name(), &mut lines);
    }
    for service in &file.service {
        for method in &service.method {
            let stream = if method.server_streaming() {
                "stream "
            } else {
                ""
            };
            lines.insert(format!(
                "rpc {}.{}({}) returns ({stream}{})",
                service.name(),
                method.name(),
                method.input_type(),
                method.output_type()
            ));
        }
    }
    lines
}

fn fields(message: &DescriptorProto, name: &str, lines: &mut BTreeSet<String>) {
    for field in &message.field {
        let oneof = field
            .oneof_index
            .map(|at| &message.oneof_decl[usize::try_from(at).unwrap()]);
        let line = format!(
            "{name}.{} = {} {:?} {:?} {} {}",
            field.name(),
            field.number(),
            field.label(),
            field.r#type(),
            field.type_name(),
            oneof.map_or("", |oneof| oneof.name()),
        );
        lines.insert(line.trim_end().to_owned());
    }
    for nested in &message.nested_type {
        fields(nested, &format!("{name}.{}", nested.name()), lines);
    }
}

#[test]
fn what_was_published_is_still_there() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/proto/published");
    let now = lines();
    if std::env::var_os("PUBLISH").is_some() {
        let text: Vec<String> = now.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(path, text.concat()).unwrap();
    }
    let published = std::fs::read_to_string(path).unwrap();
    let published: BTreeSet<String> = published.lines().map(str::to_owned).collect();
    let gone: Vec<_> = published.difference(&now).collect();
    assert!(
        gone.is_empty(),
        "clients depend on these, which are gone or changed: {gone:#?}"
    );
    let new: Vec<_> = now.difference(&published).collect();
    assert!(
        new.is_empty(),
        "new, to be written down with PUBLISH=1 cargo test -p codexstore-api --features grpc: {new:#?}"
    );
}
