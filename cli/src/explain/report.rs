//! What is said about a pod or a store.

use std::fmt::Write;

use serde::Serialize;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Good to know, or on its way.
    Note,
    /// Works now, and may not later.
    Warning,
    /// Does not work.
    Problem,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "PROBLEM",
        }
    }
}

/// One thing that was found out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// CamelCase, for programs.
    pub reason: String,
    /// What is so, and why.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
}

impl Finding {
    /// A finding without an action.
    pub fn new(level: Level, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            level,
            reason: reason.into(),
            message: message.into(),
            action: None,
        }
    }

    /// Adds what to do.
    pub fn action(mut self, action: impl Into<String>) -> Self {
        self.action = Some(action.into());
        self
    }

    /// Two lines at most, wrapped by the terminal.
    pub fn text(&self) -> String {
        let mut text = format!(
            "  {:<8} {}: {}\n",
            self.level.name(),
            self.reason,
            self.message
        );
        if let Some(action) = &self.action {
            // writing to a String does not fail
            let _ = writeln!(text, "           -> {action}");
        }
        text
    }
}

/// A judgement with its findings, the first of them the answer to "why".
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodReport {
    /// Always `Pod`.
    pub kind: &'static str,
    /// The pod.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The store that it has, or asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// Whether it has a sidecar.
    pub injected: bool,
    /// Whether the sidecar runs with an older spec or operator; absent where that cannot be known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outdated: Option<bool>,
    /// Whether the sidecar serves; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// Why.
    pub findings: Vec<Finding>,
}

impl PodReport {
    /// For people.
    pub fn text(&self) -> String {
        let mut facts = vec![match (&self.store, self.injected) {
            (Some(store), true) => format!("has a sidecar for cxs/{store}"),
            (Some(store), false) => format!("has NO sidecar, and asks for cxs/{store}"),
            (None, _) => "has no sidecar, and asks for none".to_owned(),
        }];
        match self.outdated {
            Some(true) => facts.push("outdated".to_owned()),
            Some(false) => facts.push("up to date".to_owned()),
            None => {}
        }
        match self.ready {
            Some(true) => facts.push("ready".to_owned()),
            Some(false) => facts.push("NOT ready".to_owned()),
            None => {}
        }
        let findings: String = self.findings.iter().map(Finding::text).collect();
        format!(
            "pod/{} in namespace {}: {}\n\n{findings}",
            self.name,
            self.namespace,
            facts.join(", ")
        )
    }

    /// The worst finding, the first of its level, unless all is well.
    pub fn worst(&self) -> Option<&Finding> {
        let of = |level| self.findings.iter().find(|f| f.level == level);
        of(Level::Problem)
            .or_else(|| of(Level::Warning))
            .or_else(|| of(Level::Note))
    }
}
