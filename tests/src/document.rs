//! A page whose commands are run word for word, and whose stated output is compared.
//!
//! Each `sh` block is run by `bash -e` in the root of the repository. A `text` block right after it states what it prints, line by
//! line: `…` stands for anything, a line of `…` alone for any lines, and runs of blanks are one.

use std::path::Path;
use std::process::Command;

use crate::run::{command, run};

/// A page, in sections.
pub struct Document {
    sections: Vec<(String, Vec<Step>)>,
}

/// A block of commands and what it says it prints.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// The commands.
    pub commands: String,
    /// What they print, when the page says so.
    pub output: Option<String>,
}

impl Document {
    /// Reads a page.
    #[track_caller]
    pub fn read(path: &Path) -> Self {
        let text =
            std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self::parse(&text)
    }

    fn parse(text: &str) -> Self {
        let mut sections = vec![(String::new(), Vec::<Step>::new())];
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let steps = &mut sections.last_mut().expect("one from the start").1;
            if let Some(title) = line.strip_prefix("## ") {
                sections.push((title.trim().to_string(), Vec::new()));
            } else if let Some(language) = line.strip_prefix("```") {
                let body: Vec<_> = lines.by_ref().take_while(|l| *l != "```").collect();
                match language {
                    "sh" => steps.push(Step {
                        commands: body.join("\n"),
                        output: None,
                    }),
                    "text" => {
                        let step = steps.last_mut().expect("a text block follows an sh block");
                        step.output = Some(body.join("\n"));
                    }
                    _ => {}
                }
            }
        }
        Self { sections }
    }

    /// The titles of the sections that have commands.
    pub fn titles(&self) -> Vec<&str> {
        self.sections
            .iter()
            .filter(|(_, s)| !s.is_empty())
            .map(|(t, _)| t.as_str())
            .collect()
    }

    /// Runs one section.
    ///
    /// # Panics
    /// When a command fails or prints something else.
    #[track_caller]
    pub fn run(&self, title: &str, kubeconfig: &Path) {
        self.run_with(title, kubeconfig, &|_| {});
    }

    /// Runs one section, with each command prepared: another directory, other settings.
    ///
    /// # Panics
    /// When a command fails or prints something else.
    #[track_caller]
    pub fn run_with(&self, title: &str, kubeconfig: &Path, prepare: &dyn Fn(&mut Command)) {
        let found = self.sections.iter().find(|(t, _)| t == title);
        let (_, steps) = found.unwrap_or_else(|| panic!("no section '{title}'"));
        assert!(!steps.is_empty(), "section '{title}' has no commands");
        for step in steps {
            let args = ["-e", "-o", "pipefail", "-c", &step.commands];
            let mut bash = command("bash", &args, kubeconfig);
            prepare(&mut bash);
            let printed = run(&mut bash).success(&step.commands);
            if let Some(stated) = &step.output {
                let same = matches(stated, &printed);
                assert!(
                    same,
                    "{}\nsays in the page:\n{stated}\nand here:\n{printed}",
                    step.commands
                );
            }
        }
    }
}

/// Whether what was printed is what was stated.
pub fn matches(stated: &str, printed: &str) -> bool {
    let clean = |text: &str| -> Vec<String> {
        let lines = text
            .lines()
            .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "));
        lines.filter(|l| !l.is_empty()).collect()
    };
    lines_match(&clean(stated), &clean(printed))
}

fn lines_match(stated: &[String], printed: &[String]) -> bool {
    match stated.split_first() {
        None => printed.is_empty(),
        Some((any, rest)) if any == "…" => {
            (0..=printed.len()).any(|n| lines_match(rest, &printed[n..]))
        }
        Some((line, rest)) => printed
            .split_first()
            .is_some_and(|(first, others)| line_matches(line, first) && lines_match(rest, others)),
    }
}

fn line_matches(stated: &str, printed: &str) -> bool {
    let mut parts = stated.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut left) = printed.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<_> = parts.collect();
    let Some(last) = parts.pop() else {
        return left.is_empty();
    };
    for part in parts {
        let Some((_, after)) = left.split_once(part) else {
            return false;
        };
        left = after;
    }
    left.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_with_their_output() {
        let page = "# T\n## One\n```sh\na\nb\n```\n\n```text\nc\n```\n```yaml\nx: 1\n```\n## Two\n```sh\nd\n```\n";
        let page = Document::parse(page);
        assert_eq!(page.titles(), ["One", "Two"]);
        assert_eq!(
            page.sections[1].1,
            [Step {
                commands: "a\nb".into(),
                output: Some("c".into())
            }]
        );
    }

    #[test]
    fn output_is_compared_line_by_line() {
        assert!(matches("a  b", "a b\n"));
        assert!(matches("x … z\n…\nend", "x y z\n1\n2\nend"));
        assert!(matches("x…", "x"));
        assert!(!matches("a", "a\nb"));
        assert!(!matches("x…z", "xyzw"));
        assert!(!matches("a\n…", "b\na"));
    }
}
