//! What a shell sees: help, versions, wrong arguments.

use codexstore_api::codes::TABLE;

use crate::support::{codexctl, run};

#[test]
fn help_documents_every_exit_code() {
    let help = run(codexctl().arg("--help")).ok();
    for row in TABLE {
        let line = format!("\n  {}  ", row.exit);
        assert!(
            help.contains(&line),
            "exit code {} of {} is not in --help",
            row.exit,
            row.code
        );
    }
}

#[test]
fn every_command_has_help_with_an_example() {
    for command in [
        "get", "set", "delete", "list", "batch", "watch", "history", "inspect", "verify",
        "salvage", "export", "import", "convert", "backup", "restore", "explain", "dev",
    ] {
        let help = run(codexctl().args([command, "--help"])).ok();
        assert!(help.contains("Example"), "{command}: {help}");
    }
}

#[test]
fn wrong_arguments_exit_with_2() {
    for args in [
        &["gett"] as &[&str],
        &[],
        &["set", "k"],
        &["set", "k", "v", "--file", "f"],
        &["set", "k", "v", "--ttl", "0"],
        &["set", "k", "v", "--if-absent", "--if-revision", "1"],
        &["delete"],
        &["delete", "k", "--prefix", "p"],
        &["list", "--limit", "0"],
        &["get", "k", "--revision", "0"],
        &["history"],
        &["watch", "--from", "1", "--after", "0-1"],
        &["watch", "--limit", "0"],
        &["get", "k", "-o", "xml"],
        &["dev"],
    ] {
        let ran = run(codexctl().args(args));
        assert_eq!(ran.code, Some(2), "{args:?}: {ran:?}");
        assert!(
            ran.out.is_empty() && !ran.err.is_empty(),
            "{args:?}: {ran:?}"
        );
    }
}

#[test]
fn the_version_is_told_in_both_formats() {
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        run(codexctl().arg("version")).ok(),
        format!("codexctl {version}\n")
    );
    let json = run(codexctl().args(["version", "-o", "json"])).json();
    assert_eq!(json["version"], version);
    assert_eq!(json["apiVersion"], "codexstore.dev/v1alpha1");
}

#[test]
fn as_a_plugin_of_kubectl_it_calls_itself_so() {
    let dir = tempfile::tempdir().unwrap();
    let plugin = dir.path().join("kubectl-codexstore");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_codexctl"), &plugin).unwrap();
    let help = run(std::process::Command::new(plugin).args(["get", "--help"])).ok();
    assert!(help.contains("Usage: kubectl codexstore get"), "{help}");
}
