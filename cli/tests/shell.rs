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
    // All that there are, by their manual pages: `codexctl-backup-verify.1` is of `codexctl backup verify`.
    let dir = tempfile::tempdir().unwrap();
    run(codexctl().arg("man").arg(dir.path())).ok();
    let mut count = 0;
    for page in std::fs::read_dir(dir.path()).unwrap() {
        let page = page.unwrap().file_name().into_string().unwrap();
        let page = page.trim_end_matches(".1").to_owned();
        let help = run(codexctl().args(["--help"])).ok();
        let mut words: Vec<&str> = Vec::new();
        let mut rest = page.strip_prefix("codexctl").unwrap();
        // A command may have a dash in its name.
        while let Some(text) = rest.strip_prefix('-') {
            let dashed = help
                .lines()
                .any(|line| line.trim_start().starts_with(&format!("{text} ")));
            let end = if dashed {
                text.len()
            } else {
                text.find('-').unwrap_or(text.len())
            };
            words.push(&text[..end]);
            rest = &text[end..];
        }
        let help = run(codexctl().args(&words).arg("--help")).ok();
        assert!(help.contains("Example"), "{words:?}: {help}");
        count += 1;
    }
    assert!(count > 25, "{count} commands");
}

#[test]
fn shells_complete_what_there_is() {
    for (shell, says) in [
        ("bash", "accept-clock"),
        ("zsh", "#compdef codexctl"),
        ("fish", "complete -c codexctl"),
    ] {
        let script = run(codexctl().args(["completion", shell])).ok();
        assert!(script.contains(says), "{shell}");
    }
    assert_eq!(run(codexctl().args(["completion", "dos"])).code, Some(2));
    // The script does what it is for.
    let bash = "source <(\"$0\" completion bash); COMP_WORDS=(codexctl his); COMP_CWORD=1; _codexctl codexctl his codexctl; echo \"${COMPREPLY[*]}\"";
    let mut command = std::process::Command::new("bash");
    command.args(["-c", bash, env!("CARGO_BIN_EXE_codexctl")]);
    assert_eq!(run(&mut command).ok().trim(), "history");
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
